//! The content store: blobs and layers by digest, references by name. Everything is made under `tmp` and renamed
//! into place whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::Image;

/// The store below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A digest that is not `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256 digest")]
pub(crate) struct BadDigest(pub(crate) String);

/// A file on its way in, hashed while it is written.
pub(crate) struct Incoming {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    written: u64,
}

// === impl Store ===

impl Store {
    /// Opens the store; what was half-made when the agent ended last time is thrown away.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let tmp = root.join("tmp");
        match std::fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for directory in ["tmp", "refs", "blobs/sha256", "layers/sha256", "wasm"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        Ok(Store { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob of that digest lies, or would.
    pub(crate) fn blob(&self, digest: &str) -> Result<PathBuf, BadDigest> {
        Ok(self.root.join("blobs/sha256").join(hex_of(digest)?))
    }

    /// The files of a layer, by the digest of its uncompressed archive.
    pub(crate) fn layer(&self, diff_id: &str) -> Result<PathBuf, BadDigest> {
        Ok(self.layer_home(diff_id)?.join("fs"))
    }

    fn layer_home(&self, diff_id: &str) -> Result<PathBuf, BadDigest> {
        Ok(self.root.join("layers/sha256").join(hex_of(diff_id)?))
    }

    /// A fresh path under `tmp`.
    pub(crate) fn temporary(&self) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.root.join("tmp").join(COUNT.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Begins a file under `tmp`.
    pub(crate) fn incoming(&self) -> io::Result<Incoming> {
        let path = self.temporary();
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        Ok(Incoming { file, path, hasher: Sha256::new(), written: 0 })
    }

    /// Puts an unpacked layer into its place; another pull may have been first.
    pub(crate) fn place_layer(&self, unpacked: &Path, diff_id: &str) -> io::Result<()> {
        let home = self.layer_home(diff_id).map_err(io::Error::other)?;
        match std::fs::rename(unpacked, &home) {
            Err(_) if home.join("fs").is_dir() => std::fs::remove_dir_all(unpacked),
            result => result,
        }
    }

    /// Writes down what a name stands for.
    pub(crate) fn remember(&self, image: &Image) -> io::Result<()> {
        let bytes = serde_json::to_vec(image).expect("an image is plain data");
        crate::record::write_atomically(&self.reference_file(&image.reference), &bytes)
    }

    fn reference_file(&self, reference: &str) -> PathBuf {
        // A name may be longer than a file name may.
        self.root.join("refs").join(format!("{}.json", hex(&Sha256::digest(reference.as_bytes()))))
    }

    /// Forgets a name; its content stays until it is collected.
    pub(crate) fn forget(&self, reference: &str) -> io::Result<()> {
        std::fs::remove_file(self.reference_file(reference))
    }

    /// When the name was last written or touched.
    pub(crate) fn last_used(&self, reference: &str) -> io::Result<std::time::SystemTime> {
        std::fs::metadata(self.reference_file(reference))?.modified()
    }

    /// All names that are written down and whole.
    pub(crate) fn references(&self) -> Vec<Image> {
        let files = std::fs::read_dir(self.root.join("refs")).into_iter().flatten().flatten();
        files.filter_map(|file| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()).collect()
    }

    /// Whether all that the image needs is here.
    pub(crate) fn is_whole(&self, image: &Image) -> bool {
        let code = image.wasm.iter().all(|code| code.artifact.is_file() && code.compiled.is_file());
        code && image.layers.iter().all(|layer| layer.is_dir())
    }

    /// Makes what was written survive a power cut, before a name refers to it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

// === impl Incoming ===

impl Incoming {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The digest of all that was written.
    pub(crate) fn digest(&self) -> String {
        format!("sha256:{}", hex(&self.hasher.clone().finalize()))
    }

    /// Gives it its name.
    pub(crate) fn place(self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)
    }

    /// Its path under `tmp`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The hexadecimal part of a digest.
pub(crate) fn hex_of(digest: &str) -> Result<&str, BadDigest> {
    let bad = || BadDigest(digest.to_owned());
    let hex = digest.strip_prefix("sha256:").ok_or_else(bad)?;
    let good = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(hex) } else { Err(bad()) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256:…` of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked_before_they_become_paths() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.blob(&digest_of(b"x")).is_ok());
        for bad in
            ["", "sha256:", "sha256:../../etc/passwd", "sha512:00", &format!("sha256:{}", "A".repeat(64))]
        {
            assert!(store.blob(bad).is_err() && store.layer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_was_half_made_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut incoming = store.incoming().unwrap();
        incoming.write(b"hello").unwrap();
        assert_eq!(incoming.digest(), digest_of(b"hello"));
        let left = incoming.path().to_owned();
        assert!(left.exists());
        Store::open(dir.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn of_two_that_place_a_layer_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = digest_of(b"layer");
        for _ in 0..2 {
            let made = store.temporary();
            std::fs::create_dir_all(made.join("fs")).unwrap();
            store.place_layer(&made, &id).unwrap();
            assert!(!made.exists() && store.layer(&id).unwrap().is_dir());
        }
    }
}
