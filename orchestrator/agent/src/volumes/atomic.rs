//! A directory whose content changes all at once: files lie in a hidden directory, `..data` is a link to it, and the
//! visible names are links through `..data`. Replacing `..data` replaces everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by their path in the volume.
pub(crate) type Files = BTreeMap<String, Content>;

const DATA: &str = "..data";

/// Makes `place` hold these files and no others; they belong to `group`. Does nothing when it does already.
pub(crate) fn write(place: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(place)?;
    if files.keys().any(|path| !is_inside(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path of the volume leads out of it"));
    }
    if is_current(place, files, group) {
        return Ok(());
    }
    let hidden = fresh_name();
    let directory = place.join(&hidden);
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
    for (path, content) in files {
        put(&directory, path, content, group)?;
    }
    let before = std::fs::read_link(place.join(DATA)).ok();
    let new_link = place.join("..data_tmp");
    let _ = std::fs::remove_file(&new_link);
    symlink(&hidden, &new_link)?;
    std::fs::rename(&new_link, place.join(DATA))?;
    link_names(place, files)?;
    if let Some(before) = before {
        std::fs::remove_dir_all(place.join(before))?;
    }
    Ok(())
}

/// What lies there now.
pub(crate) fn read(place: &Path, path: &str) -> Option<Vec<u8>> {
    std::fs::read(place.join(DATA).join(path)).ok()
}

fn is_inside(path: &str) -> bool {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    !parts.is_empty()
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
        && !path.starts_with("..")
}

fn is_current(place: &Path, files: &Files, group: Option<u32>) -> bool {
    let data = place.join(DATA);
    let same = |(path, content): (&String, &Content)| {
        let file = data.join(path);
        let mode = std::fs::metadata(&file).map(|meta| meta.permissions().mode() & 0o777).ok();
        mode == Some(mode_of(content, group))
            && std::fs::read(&file).is_ok_and(|bytes| bytes == content.bytes)
    };
    data.is_dir() && files.iter().all(same) && count(&data) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn fresh_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    format!("..{now}.{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn put(directory: &Path, path: &str, content: &Content, group: Option<u32>) -> io::Result<()> {
    let file = directory.join(path);
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&file, &content.bytes)?;
    std::os::unix::fs::chown(&file, None, group)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode_of(content, group)))
}

/// The group that owns the volume may read what its owner may.
fn mode_of(content: &Content, group: Option<u32>) -> u32 {
    let for_group = if group.is_some() { (content.mode & 0o400) >> 3 } else { 0 };
    (content.mode | for_group) & 0o777
}

/// Visible names: one link for each first part of a path; those that are no longer there go.
fn link_names(place: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<PathBuf> = files
        .keys()
        .filter_map(|path| Path::new(path).components().next().map(|part| PathBuf::from(part.as_os_str())))
        .collect();
    for entry in std::fs::read_dir(place)? {
        let name = PathBuf::from(entry?.file_name());
        let hidden = name.to_string_lossy().starts_with("..");
        if !hidden && !wanted.contains(&name) {
            std::fs::remove_file(place.join(&name))?;
        }
    }
    for name in wanted {
        let link = place.join(&name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&name), &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let content = |text: &str| Content { bytes: text.as_bytes().to_vec(), mode: 0o644 };
        list.iter().map(|(path, text)| ((*path).to_owned(), content(text))).collect()
    }

    #[test]
    fn all_changes_at_once_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("v");
        write(&place, &files(&[("a", "1"), ("deep/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(place.join("deep/b")).unwrap(), "2");
        let first = std::fs::read_link(place.join(DATA)).unwrap();
        write(&place, &files(&[("a", "1"), ("deep/b", "2")]), None).unwrap();
        assert_eq!(
            std::fs::read_link(place.join(DATA)).unwrap(),
            first,
            "nothing changed, nothing is written"
        );
        write(&place, &files(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("a")).unwrap(), "3");
        assert!(!place.join("deep").exists() && !place.join(first).exists());
        let names: BTreeSet<_> = std::fs::read_dir(&place)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.iter().filter(|name| !name.starts_with("..")).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(names.len(), 4);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for hostile in ["../evil", "/etc/evil", "a/../../evil", "..data/x", ""] {
            assert!(write(&dir.path().join("v"), &files(&[(hostile, "x")]), None).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn modes_and_groups() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("v");
        let one = Files::from([("k".to_owned(), Content { bytes: b"x".to_vec(), mode: 0o400 })]);
        write(&place, &one, Some(2000)).unwrap();
        let meta = std::fs::metadata(place.join("k")).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o777), (2000, 0o440));
        let first = std::fs::read_link(place.join(DATA)).unwrap();
        write(&place, &one, Some(2000)).unwrap();
        assert_eq!(std::fs::read_link(place.join(DATA)).unwrap(), first, "nothing changed");
    }
}
