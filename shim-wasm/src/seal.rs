//! Compiled files carry a digest of themselves. Mapping one means running it, so before that it is looked at:
//! whole and unchanged since the compile role wrote it, in a place where nobody else could have put it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Ends every compiled file; another form of them gets another number.
pub(crate) const MAGIC: [u8; 8] = *b"cwasm\0\0\x01";
const DIGEST: usize = 32;
const TRAILER: usize = DIGEST + MAGIC.len();
const CHUNK: usize = 128 << 10;
/// Write permission of group and others.
const WRITABLE: u32 = 0o022;

/// Why a compiled file is not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it has no seal")]
    Unsealed,
    #[error("its content is not what was written")]
    Damaged,
    #[error("{path} may be written by others (owner {owner}, mode {mode:03o})")]
    Open { path: PathBuf, owner: u32, mode: u32 },
}

/// The code with its digest.
pub(crate) fn sealed(mut code: Vec<u8>) -> Vec<u8> {
    let digest = Sha256::digest(&code);
    code.extend_from_slice(&digest);
    code.extend_from_slice(&MAGIC);
    code
}

/// Checks an open file. What is mapped must come from this descriptor: the path may lead elsewhere later.
pub(crate) fn check(path: &Path, file: &mut File) -> Result<(), SealError> {
    let metadata = file.metadata().map_err(SealError::Read)?;
    only_ours(path, &metadata)?;
    if let Some(parent) = path.parent() {
        only_ours(parent, &std::fs::metadata(parent).map_err(SealError::Read)?)?;
    }
    if !metadata.is_file() {
        return Err(SealError::Unsealed);
    }
    check_content(file, metadata.len())
}

fn only_ours(path: &Path, metadata: &std::fs::Metadata) -> Result<(), SealError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let me = rustix::process::geteuid().as_raw();
    if (owner == 0 || owner == me) && mode & WRITABLE == 0 {
        return Ok(());
    }
    Err(SealError::Open { path: path.to_owned(), owner, mode })
}

fn check_content(file: &mut File, length: u64) -> Result<(), SealError> {
    let mut left = length.checked_sub(TRAILER as u64).ok_or(SealError::Unsealed)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        file.read_exact(&mut chunk[..size]).map_err(SealError::Read)?;
        hasher.update(&chunk[..size]);
        left -= size as u64;
    }
    let mut trailer = [0; TRAILER];
    file.read_exact(&mut trailer).map_err(SealError::Read)?;
    let (digest, magic) = trailer.split_at(DIGEST);
    if magic != MAGIC {
        return Err(SealError::Unsealed);
    }
    if hasher.finalize()[..] == *digest { Ok(()) } else { Err(SealError::Damaged) }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn judge(path: &Path) -> String {
        let checked = File::open(path).map_err(SealError::Read).and_then(|mut file| check(path, &mut file));
        checked.map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn what_was_changed_after_it_was_written_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cwasm");
        let good = sealed(vec![7; 300_000]);
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        for (bytes, expected) in [
            (good.clone(), "fine"),
            (sealed(Vec::new()), "fine"),
            (flipped(0), "its content is not what was written"),
            (flipped(299_999), "its content is not what was written"),
            (flipped(300_000), "its content is not what was written"),
            (flipped(300_039), "it has no seal"),
            (good[..299_000].to_vec(), "it has no seal"),
            (good[1..].to_vec(), "its content is not what was written"),
            (Vec::new(), "it has no seal"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(judge(&path), expected);
        }
    }

    #[test]
    fn what_others_can_write_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cwasm");
        std::fs::write(&path, sealed(vec![1])).unwrap();
        for (of_file, of_directory, expected) in [
            (0o600, 0o700, "fine"),
            (0o644, 0o755, "fine"),
            (0o620, 0o700, "may be"),
            (0o602, 0o700, "may be"),
            (0o600, 0o1777, "may be"),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(of_file)).unwrap();
            std::fs::set_permissions(dir.path(), Permissions::from_mode(of_directory)).unwrap();
            assert!(judge(&path).contains(expected), "{of_file:o} {of_directory:o}: {}", judge(&path));
        }
    }
}
