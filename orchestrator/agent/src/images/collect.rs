//! Removes images that nobody used for long, and content that no name refers to.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::content::Store;
use super::{Image, reference};

/// Forgets names outside `used` that were pulled longer ago than `unused_for`, then removes content without a name
/// that is older than `young`: what is younger may belong to a pull under way.
/// Returns the freed bytes and the names that are left.
pub(crate) fn collect(
    store: &Store,
    used: &[String],
    unused_for: Duration,
    young: Duration,
) -> io::Result<(u64, HashSet<String>)> {
    let used: HashSet<String> = used.iter().filter_map(|name| reference::normalize(name).ok()).collect();
    let mut left = Vec::new();
    for image in store.references() {
        let old = age(store.last_used(&image.reference)?) > unused_for;
        if old && !used.contains(&image.reference) {
            store.forget(&image.reference)?;
        } else {
            left.push(image);
        }
    }
    let wanted = content_of(store, &left);
    let mut freed = 0;
    for folder in ["blobs/sha256", "layers/sha256", "wasm"] {
        freed += sweep(&store.root().join(folder), &wanted, young)?;
    }
    Ok((freed, left.into_iter().map(|image| image.reference).collect()))
}

/// Paths that the images need.
fn content_of(store: &Store, images: &[Image]) -> HashSet<PathBuf> {
    let mut wanted = HashSet::new();
    for image in images {
        wanted.extend(store.blob(&image.digest));
        wanted.extend(image.layers.iter().filter_map(|layer| layer.parent().map(Path::to_owned)));
        if let Some(code) = &image.wasm {
            wanted.insert(code.artifact.clone());
            wanted.insert(code.compiled.clone());
            // Code inside a layer keeps its layer.
            wanted.extend(
                code.artifact
                    .ancestors()
                    .filter_map(|path| (path.ends_with("fs")).then(|| path.parent()).flatten())
                    .map(Path::to_owned),
            );
        }
    }
    wanted
}

fn sweep(folder: &Path, wanted: &HashSet<PathBuf>, young: Duration) -> io::Result<u64> {
    let mut freed = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = std::fs::symlink_metadata(&path)?;
        if wanted.contains(&path) || age(meta.modified()?) < young {
            continue;
        }
        freed += size(&path);
        if meta.is_dir() { std::fs::remove_dir_all(&path)? } else { std::fs::remove_file(&path)? }
    }
    Ok(freed)
}

fn age(since: SystemTime) -> Duration {
    SystemTime::now().duration_since(since).unwrap_or_default()
}

/// Bytes of a file, or of all files below a directory.
fn size(path: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}
