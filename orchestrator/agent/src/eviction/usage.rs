//! How much of the node's disk files of a pod take. Containers write these files, so the walk trusts nothing in
//! them: no link is followed, no other file system entered, no path is put together.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

/// Directories deeper than this are not looked into.
const DEEPEST: usize = 256;
/// What `st_blocks` counts.
const BLOCK: u64 = 512;

struct Walk {
    device: u64,
    /// Files with several names, that count once.
    linked: HashSet<u64>,
    bytes: u64,
}

/// Bytes that a directory with all that is in it takes, or one file; 0 where there is none.
pub(crate) fn of(path: &Path) -> io::Result<u64> {
    let root = match openat(CWD, path, flags(), Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(0),
        Err(Errno::NOTDIR) => return of_file(path),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&root)?;
    let mut walk = Walk { device: stat.st_dev, linked: HashSet::new(), bytes: blocks(stat.st_blocks) };
    walk.directory(&root, 0)?;
    Ok(walk.bytes)
}

fn of_file(path: &Path) -> io::Result<u64> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(blocks(stat.st_blocks))
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn blocks(count: impl TryInto<u64>) -> u64 {
    count.try_into().unwrap_or(0) * BLOCK
}

impl Walk {
    fn directory(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                // It was removed meanwhile.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if stat.st_dev != self.device {
                continue;
            }
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
                continue;
            }
            self.bytes += blocks(stat.st_blocks);
            if kind == FileType::Directory && depth < DEEPEST {
                match openat(directory, name, flags(), Mode::empty()) {
                    Ok(inner) => self.directory(&inner, depth + 1)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_take_once_each_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("v");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let empty = of(&root).unwrap();
        std::fs::write(root.join("a/b/f"), vec![1; 1 << 20]).unwrap();
        let one = of(&root).unwrap();
        assert!((1 << 20..2 << 20).contains(&(one - empty)), "{one} {empty}");
        std::fs::hard_link(root.join("a/b/f"), root.join("again")).unwrap();
        std::fs::write(dir.path().join("beside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(dir.path().join("beside"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("loop")).unwrap();
        assert!(of(&root).unwrap() < one + (64 << 10));
        assert_eq!(of(&dir.path().join("none")).unwrap(), 0);
        assert!(of(&dir.path().join("beside")).unwrap() >= 1 << 20);
    }
}
