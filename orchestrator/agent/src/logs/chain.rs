//! The files of a log as one: from where a reader wants to begin to the one that is written to, also while the writer
//! begins new ones. The file that is held open tells where the reader is; numbers only tell what comes after it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use catamaran_task::cri_log::rotated;
use jiff::Timestamp;

use super::{Query, offset_of_last};

/// So often the names are read again when they change meanwhile.
const LOOKS: usize = 100;

/// A place in a log.
pub(super) struct Chain {
    path: PathBuf,
    /// The file that is read now.
    pub(super) file: tokio::fs::File,
    identity: Identity,
    /// What comes after it was found, and it was not read to its end since.
    follows: Option<File>,
}

/// What is read when a file was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More of this file, or the one after it.
    Again,
    /// Nothing: this is the file that is written to.
    Last,
}

/// Device and inode.
type Identity = (u64, u64);

impl Chain {
    /// Opens the log where the query begins.
    pub(super) async fn open(path: PathBuf, query: &Query) -> io::Result<Self> {
        let (log, query) = (path.clone(), query.clone());
        let begin = tokio::task::spawn_blocking(move || begin(&log, &query)).await;
        let file = begin.map_err(io::Error::other)??;
        let identity = identity(&file)?;
        Ok(Self { path, file: file.into(), identity, follows: None })
    }

    /// The file was read to its end.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        if let Some(file) = self.follows.take() {
            // It has been read to its end after it was known that nothing more is written to it.
            self.identity = identity(&file)?;
            self.file = file.into();
            return Ok(Next::Again);
        }
        let (path, held) = (self.path.clone(), self.identity);
        let after = tokio::task::spawn_blocking(move || after(&path, held)).await;
        self.follows = after.map_err(io::Error::other)??;
        Ok(if self.follows.is_some() { Next::Again } else { Next::Last })
    }
}

fn identity(file: &File) -> io::Result<Identity> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Opens a file that may have been removed, or got another name, since its name was read.
fn open(path: &Path) -> io::Result<Option<(Identity, File)>> {
    match File::open(path) {
        Ok(file) => Ok(Some((identity(&file)?, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All files, the oldest first, with what tells them apart; opened at a moment at which no name changed.
fn files(path: &Path) -> io::Result<Vec<(Identity, File)>> {
    for _ in 0..LOOKS {
        let newest = open(path)?;
        let mut found = Vec::new();
        for (_, older) in rotated(path)? {
            found.extend(open(&older)?);
        }
        let now = open(path)?.map(|(identity, _)| identity);
        if newest.as_ref().map(|(identity, _)| *identity) == now {
            found.extend(newest);
            return Ok(found);
        }
    }
    Err(io::Error::other("the files of the log change faster than they can be read"))
}

/// The file after the one that is held; `None`: it is the last. One that is no longer there was the oldest.
fn after(path: &Path, held: Identity) -> io::Result<Option<File>> {
    let files = files(path)?;
    let next = files.iter().position(|(identity, _)| *identity == held).map_or(0, |at| at + 1);
    Ok(files.into_iter().nth(next).map(|(_, file)| file))
}

/// The file in which to begin, at the place where to begin.
fn begin(path: &Path, query: &Query) -> io::Result<File> {
    let mut files: Vec<File> = files(path)?.into_iter().map(|(_, file)| file).collect();
    let last = files.len().checked_sub(1).ok_or(io::ErrorKind::NotFound)?;
    if let Some(offset) = query.from {
        let mut newest = files.swap_remove(last);
        newest.seek(SeekFrom::Start(offset))?;
        return Ok(newest);
    }
    let Some(mut lines) = query.tail else {
        let old = |file: &File| query.since.is_some_and(|since| is_older(file, since));
        let first = files.iter().position(|file| !old(file)).unwrap_or(last);
        return Ok(files.swap_remove(first));
    };
    let (mut place, mut offset) = (last, 0);
    for at in (0..=last).rev() {
        let (begin, found) = offset_of_last(&mut files[at], lines)?;
        (place, offset) = (at, begin);
        lines -= found.min(lines);
        if lines == 0 {
            break;
        }
    }
    let mut file = files.swap_remove(place);
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// Nothing was written to the file since then.
fn is_older(file: &File, since: Timestamp) -> bool {
    let modified = file.metadata().and_then(|meta| meta.modified());
    let modified = modified.ok().and_then(|time| Timestamp::try_from(time).ok());
    modified.is_some_and(|modified| modified < since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let older = |number: u32| dir.path().join(format!("0.log.{number}"));
        for file in [&older(9), &older(10), &path] {
            std::fs::write(file, "x\n").unwrap();
        }
        let held = |path: &Path| open(path).unwrap().unwrap().0;
        let next = |held| after(&path, held).unwrap().map(|file| identity(&file).unwrap());
        assert_eq!(next(held(&older(9))), Some(held(&older(10))));
        assert_eq!(next(held(&older(10))), Some(held(&path)));
        assert_eq!(next(held(&path)), None);
        assert_eq!(next((0, 0)), Some(held(&older(9))), "a file that is gone was the oldest");
    }
}
