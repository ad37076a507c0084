//! Gives a whole volume to a group (`fsGroup`). Pods that share it may change it meanwhile: everything is opened
//! without following links, and changed through what was opened.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, chmodat, chownat, fstat, openat};
use rustix::io::Errno;

/// What members of the group may do with files, and with directories: what is made in those belongs to the group.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// Gives everything below `root` to `group`; unless `only_if_needed` and the root is the group's already.
pub(super) fn give(root: &Path, group: u32, only_if_needed: bool) -> io::Result<()> {
    let directory = openat(CWD, root, flags(), Mode::empty())?;
    let stat = fstat(&directory)?;
    if only_if_needed && stat.st_gid == group && stat.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    below(&directory, group)?;
    // The root comes last: it says that all is done.
    change(directory.as_fd(), group, DIRECTORY)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn below(directory: &OwnedFd, group: u32) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let open = |flags: OFlags| openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty());
        let found = match open(OFlags::PATH | OFlags::CLOEXEC) {
            Err(Errno::NOENT) => continue, // it was removed meanwhile
            other => other?,
        };
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => {
                below(&open(flags())?, group)?;
                change(found.as_fd(), group, DIRECTORY)?;
            }
            // A link has no mode of its own.
            FileType::Symlink => chownat(&found, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?,
            _ => change(found.as_fd(), group, FILE)?,
        }
    }
    Ok(())
}

/// Owner and mode of what was opened.
fn change(found: BorrowedFd<'_>, group: u32, mode: u32) -> io::Result<()> {
    chownat(found, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    let now = fstat(found)?.st_mode & 0o7777;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(chmodat(CWD, path, Mode::from_raw_mode(now | mode), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn everything_below_is_the_groups_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, beside) = (dir.path().join("v"), dir.path().join("beside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/f"), "").unwrap();
        std::fs::write(&beside, "").unwrap();
        symlink(&beside, root.join("a/link")).unwrap();
        let before = std::fs::metadata(&beside).unwrap();
        give(&root, 2000, false).unwrap();
        for (path, bits) in [("", DIRECTORY), ("a", DIRECTORY), ("a/b", DIRECTORY), ("a/b/f", FILE)] {
            let meta = std::fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!((meta.gid(), meta.mode() & bits), (2000, bits), "{path:?}");
        }
        assert_eq!(std::fs::symlink_metadata(root.join("a/link")).unwrap().gid(), 2000);
        let after = std::fs::metadata(&beside).unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }

    #[test]
    fn a_root_that_is_right_can_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        give(dir.path(), 2000, false).unwrap();
        std::fs::write(dir.path().join("new"), "").unwrap();
        std::os::unix::fs::chown(dir.path().join("new"), None, Some(7)).unwrap();
        give(dir.path(), 2000, true).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("new")).unwrap().gid(), 7);
        give(dir.path(), 2000, false).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("new")).unwrap().gid(), 2000);
    }
}
