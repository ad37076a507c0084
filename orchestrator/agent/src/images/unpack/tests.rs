//! Layers as they should be, and hostile ones.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, Header};

use super::*;
use crate::images::content::digest_of;

struct Item {
    path: &'static str,
    kind: EntryType,
    link: &'static str,
    content: &'static [u8],
    mode: u32,
}

fn item(path: &'static str, kind: EntryType, link: &'static str) -> Item {
    Item { path, kind, link, content: b"", mode: 0o644 }
}

fn file(path: &'static str, content: &'static [u8]) -> Item {
    Item { path, kind: EntryType::Regular, link: "", content, mode: 0o640 }
}

/// An archive with names written as they are: `tar` itself would refuse hostile ones.
fn archive(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..item.path.len()].copy_from_slice(item.path.as_bytes());
        header.as_old_mut().linkname[..item.link.len()].copy_from_slice(item.link.as_bytes());
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_000_000);
        header.set_size(item.content.len() as u64);
        if item.kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, item.content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack_bytes(dir: &Path, stored: &[u8], plain: &[u8]) -> Result<PathBuf, UnpackError> {
    let blob = dir.join("blob");
    std::fs::write(&blob, stored).unwrap();
    let into = dir.join("layer");
    let _ = std::fs::remove_dir_all(&into);
    unpack(&blob, &into, &digest_of(plain))?;
    Ok(into.join("fs"))
}

fn unpack_items(dir: &Path, items: &[Item]) -> Result<PathBuf, UnpackError> {
    let plain = archive(items);
    unpack_bytes(dir, &plain, &plain)
}

#[test]
fn files_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let root = unpack_items(
        dir.path(),
        &[
            item("bin/", EntryType::Directory, ""),
            Item { mode: 0o4755, ..file("bin/su", b"program") },
            item("bin/sudo", EntryType::Link, "bin/su"),
            item("lib", EntryType::Symlink, "bin"),
            file("lib/inside", b"by way of a link"),
            file("deep/er/file", b"x"),
            item("null", EntryType::Char, ""),
            item("pipe", EntryType::Fifo, ""),
        ],
    )
    .unwrap();
    let su = std::fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!(
        (su.uid(), su.gid(), su.mode() & 0o7777, su.mtime(), su.nlink()),
        (1000, 1001, 0o4755, 1_000_000, 2)
    );
    assert_eq!(std::fs::metadata(root.join("bin")).unwrap().mtime(), 1_000_000);
    assert_eq!(std::fs::read(root.join("bin/inside")).unwrap(), b"by way of a link");
    assert_eq!(std::fs::read(root.join("deep/er/file")).unwrap(), b"x");
    let null = std::fs::metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert!(std::fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn whiteouts_become_what_overlay_knows() {
    let dir = tempfile::tempdir().unwrap();
    let root = unpack_items(
        dir.path(),
        &[file("etc/.wh.passwd", b""), file("var/.wh..wh..opq", b""), file("var/new", b"n")],
    )
    .unwrap();
    let hidden = std::fs::symlink_metadata(root.join("etc/passwd")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let mut value = [0_u8; 4];
    let read = rustix::fs::getxattr(root.join("var"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..read], b"y");
    assert!(root.join("var/new").exists() && !root.join("var/.wh..wh..opq").exists());
}

#[test]
fn nothing_leaves_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let outside_name: &'static str = Box::leak(outside.path().to_str().unwrap().to_owned().into_boxed_str());
    let hostile: Vec<Vec<Item>> = vec![
        vec![file("../evil", b"x")],
        vec![file("a/../../evil", b"x")],
        vec![item("out", EntryType::Symlink, outside_name), file("out/evil", b"x")],
        vec![item("up", EntryType::Symlink, "../../.."), file("up/evil", b"x")],
        vec![
            item("a", EntryType::Symlink, "b"),
            item("b", EntryType::Symlink, outside_name),
            file("a/evil", b"x"),
        ],
        vec![item("passwd", EntryType::Link, "../../../../etc/passwd")],
        vec![item("out", EntryType::Symlink, outside_name), item("evil", EntryType::Link, "out/x")],
        vec![file(".wh..", b"")],
        vec![item("out", EntryType::Symlink, outside_name), file("out/.wh.x", b"")],
        vec![item("out", EntryType::Symlink, outside_name), file("out/.wh..wh..opq", b"")],
    ];
    for (number, items) in hostile.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let result = unpack_items(dir.path(), items);
        assert!(matches!(result, Err(UnpackError::Escapes(_))), "{number}: {result:?}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "{number}");
        assert!(!dir.path().join("evil").exists());
    }
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("victim");
    std::fs::write(&target, b"untouched").unwrap();
    let target: &'static str = Box::leak(target.to_str().unwrap().to_owned().into_boxed_str());
    let dir = tempfile::tempdir().unwrap();
    let root =
        unpack_items(dir.path(), &[item("f", EntryType::Symlink, target), file("f", b"mine")]).unwrap();
    assert_eq!(std::fs::read(target).unwrap(), b"untouched");
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"mine");
    let kept = std::fs::metadata(target).unwrap().permissions().mode() & 0o777;
    assert_ne!(kept, 0o640);
}

#[test]
fn absolute_names_stay_below_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = unpack_items(dir.path(), &[file("/etc/motd", b"hi")]).unwrap();
    assert_eq!(std::fs::read(root.join("etc/motd")).unwrap(), b"hi");
}

#[test]
fn all_compressions_are_told_by_their_bytes() {
    let plain = archive(&[file("f", b"content")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    for stored in [plain.clone(), gzip.finish().unwrap(), zstd] {
        let dir = tempfile::tempdir().unwrap();
        let root = unpack_bytes(dir.path(), &stored, &plain).unwrap();
        assert_eq!(std::fs::read(root.join("f")).unwrap(), b"content");
    }
}

#[test]
fn corrupt_layers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = archive(&[file("f", b"content")]);
    assert!(matches!(unpack_bytes(dir.path(), &plain, b"another"), Err(UnpackError::WrongContent { .. })));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut cut = gzip.finish().unwrap();
    cut.truncate(cut.len() / 2);
    let result = unpack_bytes(dir.path(), &cut, &plain);
    assert!(matches!(result, Err(UnpackError::Archive(_) | UnpackError::Entry { .. })), "{result:?}");
    assert!(unpack_bytes(dir.path(), b"garbage that is no archive at all", b"x").is_err());
}

#[test]
fn fields_that_nobody_filled_in_are_zero() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = Header::new_ustar();
    header.set_path("f").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(1);
    let old = header.as_old_mut();
    (old.uid, old.gid) = ([0; 8], [b' '; 8]);
    (old.mode, old.mtime) = ([0; 8], [0; 12]);
    header.set_cksum();
    let archive = |header: &Header| {
        let mut builder = Builder::new(Vec::new());
        builder.append(header, &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let plain = archive(&header);
    let root = unpack_bytes(dir.path(), &plain, &plain).unwrap();
    let meta = std::fs::metadata(root.join("f")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime()), (0, 0, 0, 0));
    header.as_old_mut().uid = *b"x\0\0\0\0\0\0\0";
    header.set_cksum();
    let plain = archive(&header);
    assert!(unpack_bytes(dir.path(), &plain, &plain).is_err(), "what is there must be a number");
}
