//! The registry's folder. Content lies once under `blobs/sha256/HEX`; a repository's folder holds links: empty
//! files for its blobs, files with the media type for its manifests, files with a digest for its tags.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::name::{Digest, Name, Tag};

/// The folder, and the uploads in progress.
pub(super) struct Disk {
    root: PathBuf,
    uploads: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
}

/// An upload in progress: what has come is hashed already.
pub(super) struct Upload {
    pub(super) size: u64,
    hash: Sha256,
    path: PathBuf,
}

impl Upload {
    /// Appends a piece to the file.
    pub(super) async fn append(&mut self, file: &mut fs::File, piece: &[u8]) -> io::Result<()> {
        file.write_all(piece).await?;
        self.hash.update(piece);
        self.size += piece.len() as u64;
        Ok(())
    }

    /// The file, opened for appending; bytes of a broken request that are not accounted for are cut off.
    pub(super) async fn file(&self) -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.path).await?;
        file.set_len(self.size).await?;
        Ok(file)
    }

    /// The digest of what has come.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.hash.clone().finalize())
    }
}

impl Disk {
    /// Opens or makes the folder.
    pub(super) async fn open(root: &Path) -> io::Result<Self> {
        for folder in ["blobs/sha256", "repositories", "uploads"] {
            fs::create_dir_all(root.join(folder)).await?;
        }
        Ok(Disk { root: root.to_owned(), uploads: Mutex::new(HashMap::new()) })
    }

    fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    /// Where content lies.
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn blob_link(&self, name: &Name, digest: &Digest) -> PathBuf {
        self.repository(name).join("_blobs").join(digest.hex())
    }

    fn manifest_link(&self, name: &Name, digest: &Digest) -> PathBuf {
        self.repository(name).join("_manifests").join(digest.hex())
    }

    fn tag_link(&self, name: &Name, tag: &Tag) -> PathBuf {
        self.repository(name).join("_tags").join(tag.as_str())
    }

    /// The blob's length when the repository has it.
    pub(super) async fn blob(&self, name: &Name, digest: &Digest) -> io::Result<Option<u64>> {
        if !fs::try_exists(self.blob_link(name, digest)).await? {
            return Ok(None);
        }
        length(&self.blob_path(digest)).await
    }

    /// Makes content that is there already part of a repository; false when it is not there.
    pub(super) async fn link_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        if length(&self.blob_path(digest)).await?.is_none() {
            return Ok(false);
        }
        write(&self.blob_link(name, digest), b"").await?;
        Ok(true)
    }

    /// Starts an upload and returns its id.
    pub(super) fn start_upload(&self) -> (String, Arc<tokio::sync::Mutex<Upload>>) {
        let id = uuid::Uuid::new_v4().to_string();
        let upload = Upload { size: 0, hash: Sha256::new(), path: self.root.join("uploads").join(&id) };
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        self.uploads().insert(id.clone(), upload.clone());
        (id, upload)
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<Upload>>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An upload by id, also one that an earlier server process began.
    pub(super) async fn upload(&self, id: &str) -> io::Result<Option<Arc<tokio::sync::Mutex<Upload>>>> {
        if let Some(upload) = self.uploads().get(id) {
            return Ok(Some(upload.clone()));
        }
        if uuid::Uuid::parse_str(id).is_err() {
            return Ok(None);
        }
        let path = self.root.join("uploads").join(id);
        let Ok(mut file) = fs::File::open(&path).await else { return Ok(None) };
        let mut upload = Upload { size: 0, hash: Sha256::new(), path };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            upload.hash.update(&buffer[..read]);
            upload.size += read as u64;
        }
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        Ok(Some(self.uploads().entry(id.to_owned()).or_insert(upload).clone()))
    }

    /// Forgets an upload and what came of it.
    pub(super) async fn drop_upload(&self, id: &str) -> io::Result<()> {
        let known = self.uploads().remove(id);
        match known {
            Some(upload) => remove(&upload.lock().await.path).await.map(drop),
            None => Ok(()),
        }
    }

    /// Turns a finished upload into content of a repository.
    pub(super) async fn finish_upload(&self, name: &Name, id: &str, upload: &Upload) -> io::Result<Digest> {
        let digest = upload.digest();
        let file = upload.file().await?;
        file.sync_all().await?;
        fs::rename(&upload.path, self.blob_path(&digest)).await?;
        sync_dir(&self.root.join("blobs/sha256")).await?;
        write(&self.blob_link(name, &digest), b"").await?;
        self.uploads().remove(id);
        Ok(digest)
    }

    /// Keeps a manifest with its media type, under a tag when there is one.
    pub(super) async fn put_manifest(
        &self,
        name: &Name,
        (digest, tag): (&Digest, Option<&Tag>),
        (media_type, content): (&str, &[u8]),
    ) -> io::Result<()> {
        write(&self.blob_path(digest), content).await?;
        write(&self.manifest_link(name, digest), media_type.as_bytes()).await?;
        match tag {
            Some(tag) => write(&self.tag_link(name, tag), digest.to_string().as_bytes()).await,
            None => Ok(()),
        }
    }

    /// Media type and content of a manifest.
    pub(super) async fn manifest(
        &self,
        name: &Name,
        digest: &Digest,
    ) -> io::Result<Option<(String, Vec<u8>)>> {
        let Some(media_type) = read(&self.manifest_link(name, digest)).await? else { return Ok(None) };
        let content = read(&self.blob_path(digest)).await?;
        Ok(content.map(|content| (String::from_utf8_lossy(&media_type).into_owned(), content)))
    }

    /// The manifest that a tag names.
    pub(super) async fn tag(&self, name: &Name, tag: &Tag) -> io::Result<Option<Digest>> {
        let text = read(&self.tag_link(name, tag)).await?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()?.parse().ok()))
    }

    /// All tags in order; `None` when there is no such repository.
    pub(super) async fn tags(&self, name: &Name) -> io::Result<Option<Vec<String>>> {
        if !fs::try_exists(self.repository(name).join("_manifests")).await? {
            return Ok(None);
        }
        let mut tags = list(&self.repository(name).join("_tags")).await?;
        tags.retain(|tag| tag.parse::<Tag>().is_ok());
        Ok(Some(tags))
    }

    /// All manifests of a repository.
    pub(super) async fn manifests(&self, name: &Name) -> io::Result<Vec<Digest>> {
        let names = list(&self.repository(name).join("_manifests")).await?;
        Ok(names.iter().filter_map(|hex| format!("sha256:{hex}").parse().ok()).collect())
    }

    /// Removes a tag; false when there was none.
    pub(super) async fn delete_tag(&self, name: &Name, tag: &Tag) -> io::Result<bool> {
        remove(&self.tag_link(name, tag)).await
    }

    /// Removes a manifest and the tags that name it; false when there was none.
    pub(super) async fn delete_manifest(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        if !remove(&self.manifest_link(name, digest)).await? {
            return Ok(false);
        }
        for tag in self.tags(name).await?.unwrap_or_default() {
            if let Ok(tag) = tag.parse()
                && self.tag(name, &tag).await?.as_ref() == Some(digest)
            {
                self.delete_tag(name, &tag).await?;
            }
        }
        self.collect(digest).await?;
        Ok(true)
    }

    /// Removes a blob from a repository; false when it was not there.
    pub(super) async fn delete_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        let there = remove(&self.blob_link(name, digest)).await?;
        if there {
            self.collect(digest).await?;
        }
        Ok(there)
    }

    /// Removes content that no repository links any more.
    async fn collect(&self, digest: &Digest) -> io::Result<()> {
        let mut folders = vec![self.root.join("repositories")];
        while let Some(folder) = folders.pop() {
            for name in list(&folder).await? {
                let path = folder.join(&name);
                if matches!(name.as_str(), "_blobs" | "_manifests") {
                    if fs::try_exists(path.join(digest.hex())).await? {
                        return Ok(());
                    }
                } else if !name.starts_with('_') {
                    folders.push(path);
                }
            }
        }
        remove(&self.blob_path(digest)).await.map(drop)
    }
}

async fn length(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path).await {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path).await {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole or not at all, and durably.
async fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).await?;
    let beside = folder.join(format!(".{}", uuid::Uuid::new_v4()));
    let mut file = fs::File::create(&beside).await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    fs::rename(&beside, path).await?;
    sync_dir(folder).await
}

async fn sync_dir(folder: &Path) -> io::Result<()> {
    fs::File::open(folder).await?.sync_all().await
}

async fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names in a folder in order; none when there is no folder.
async fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut entries = match fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
