//! A log that grows too large goes on in a new file: `0.log` becomes `0.log.1`, the next time `0.log.2` and so on, and
//! the oldest go. A file that has a number is never written to again and never gets another one, so that a reader that
//! holds it open can find the one that comes after it.

use std::io;
use std::path::{Path, PathBuf};

/// Bytes of a log file, and files of a log, at most (the kubelet's `containerLogMaxSize` and `containerLogMaxFiles`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of each file, bytes.
    pub size: u64,
    /// Of one log, with the one that is written to.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 10 << 20, files: 5 }
    }
}

/// The older files of the log at `path` with their numbers, the oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|entry| number_of(entry, name));
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The number of a file in the log called `log`.
fn number_of(name: &str, log: &str) -> Option<u64> {
    let number = name.strip_prefix(log)?.strip_prefix('.')?;
    number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number)
}

/// Gives the file at `path` its number and removes the oldest, so that there is room for a new one.
pub(super) fn rotate(path: &Path, limits: Limits) -> io::Result<()> {
    let older = rotated(path)?;
    let next = older.last().map_or(1, |(number, _)| number + 1);
    let mut target = path.as_os_str().to_owned();
    target.push(format!(".{next}"));
    std::fs::rename(path, &target)?;
    // One is written to, one was added.
    let excess = (older.len() + 2).saturating_sub(limits.files.max(1));
    for (_, oldest) in older.iter().take(excess) {
        std::fs::remove_file(oldest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(number_of("0.log.12", "0.log"), Some(12));
        for other in ["0.log", "0.log.", "0.log.x", "0.log.01", "10.log.1", "0.log.1.gz"] {
            assert_eq!(number_of(other, "0.log"), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let numbers = || rotated(&path).unwrap().into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        for round in 1..=12_u64 {
            std::fs::write(&path, round.to_string()).unwrap();
            rotate(&path, Limits { size: 1, files: 3 }).unwrap();
            assert_eq!(numbers(), (round.saturating_sub(1).max(1)..=round).collect::<Vec<_>>());
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("0.log.12")).unwrap(), "12");
        assert!(rotated(&dir.path().join("none/0.log")).unwrap().is_empty());
    }
}
