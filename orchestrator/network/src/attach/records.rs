//! What was given to whom: a small file for each pod and each trust domain in the run directory. It lives as
//! long as the kernel's own state, which is what these files name.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{NetworkError, OnFile};
use crate::services::ports::HostPort;

/// The attachment of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodRecord {
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// Where the address is.
    #[serde(flatten)]
    pub(super) place: PodPlace,
    /// Its ports of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<HostPort>,
}

/// Where a pod's address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum PodPlace {
    /// In a network namespace of its own.
    Container {
        /// Name of the namespace.
        id: String,
    },
    /// In the namespace of its trust domain.
    Wasm {
        /// The trust domain.
        domain: String,
    },
}

/// The namespace of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostRecord {
    /// Address of the host process itself, for what it does on no pod's behalf.
    pub(super) address: Ipv4Addr,
    /// Part of the link's name.
    pub(super) id: String,
}

/// Records of one kind: a file each, named by the key.
pub(super) struct Records<T> {
    folder: PathBuf,
    known: HashMap<String, T>,
}

impl<T: Serialize + DeserializeOwned + Clone> Records<T> {
    /// Reads the folder. A file that was cut off by a crash stands for nothing yet and is removed.
    pub(super) fn open(folder: PathBuf) -> Result<Self, NetworkError> {
        fs::create_dir_all(&folder).on(&folder)?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(&folder).on(&folder)? {
            let path = entry.on(&folder)?.path();
            let bytes = fs::read(&path).on(&path)?;
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            match name.zip(serde_json::from_slice(&bytes).ok()) {
                Some((name, record)) => drop(known.insert(name, record)),
                None => fs::remove_file(&path).on(&path)?,
            }
        }
        Ok(Self { folder, known })
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.known.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.known.iter()
    }

    pub(super) fn insert(&mut self, key: &str, record: T) -> Result<(), NetworkError> {
        let path = self.folder.join(checked(key)?);
        let bytes = serde_json::to_vec(&record).map_err(std::io::Error::other).on(&path)?;
        fs::write(&path, bytes).on(&path)?;
        self.known.insert(key.to_owned(), record);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str) -> Result<Option<T>, NetworkError> {
        let Some(record) = self.known.get(key).cloned() else { return Ok(None) };
        let path = self.folder.join(checked(key)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.on(&path)?,
        }
        self.known.remove(key);
        Ok(Some(record))
    }
}

/// The key as a file name.
pub(super) fn checked(key: &str) -> Result<&Path, NetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fine = !key.is_empty() && key.len() <= 200 && key.chars().all(plain) && !key.starts_with('.');
    if fine { Ok(Path::new(key)) } else { Err(NetworkError::Name(key.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_cut_off_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Records::<PodRecord>::open(folder.path().to_owned()).unwrap();
        let record = PodRecord {
            address: Ipv4Addr::new(10, 128, 0, 9),
            place: PodPlace::Wasm { domain: "default".to_owned() },
            ports: Vec::new(),
        };
        open().insert("uid-1", record.clone()).unwrap();
        fs::write(folder.path().join("uid-2"), "").unwrap();
        let mut again = open();
        assert_eq!((again.get("uid-1"), again.iter().count()), (Some(&record), 1));
        assert_eq!(again.remove("uid-1").unwrap(), Some(record));
        assert_eq!(again.remove("uid-1").unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        for bad in ["", "a/b", "..", ".x", "ä"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}
