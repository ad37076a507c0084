//! Unpacks one layer into a directory of its own. Every path goes through a directory handle that no name and no link
//! leads out of; whiteouts become what overlayfs knows.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat,
    mknodat, openat, setxattr, symlinkat, utimensat,
};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};

use super::content::hex;

/// Marks a directory that hides what lower layers have in it.
const OPAQUE: &str = ".wh..wh..opq";
/// Marks a name that lower layers have and this one removed.
const WHITEOUT: &str = ".wh.";
/// How archives carry extended attributes.
const XATTR: &str = "SCHILY.xattr.";

/// A layer that was refused, or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("the layer writes outside its root: {0:?}")]
    Escapes(String),
    #[error(
        "the layer is corrupt: what it unpacks to has the digest {actual}, and the image says {expected}"
    )]
    WrongContent { expected: String, actual: String },
    #[error("the layer is corrupt: its archive cannot be read")]
    Archive(#[source] io::Error),
    #[error("the layer's {path:?} cannot be made")]
    Entry {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the layer's directory {path} cannot be used")]
    Directory {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Unpacks the archive at `blob` (plain, gzip or zstd, told by its bytes) into the new directory `into/fs` and checks
/// that it is the one with the digest `diff_id`.
pub(crate) fn unpack(blob: &Path, into: &Path, diff_id: &str) -> Result<(), UnpackError> {
    let directory = |source| UnpackError::Directory { path: into.display().to_string(), source };
    let root = into.join("fs");
    std::fs::create_dir_all(&root).map_err(directory)?;
    let root = Dir::open_ambient_dir(&root, ambient_authority()).map_err(directory)?;
    let reader = open(blob).map_err(UnpackError::Archive)?;
    let mut hashing = Hashing { reader, hasher: Sha256::new() };
    Layer { root, directories: Vec::new() }.unpack(&mut hashing)?;
    // What follows the archive's end counts for the digest, and the compressed stream's own checks come last.
    io::copy(&mut hashing, &mut io::sink()).map_err(UnpackError::Archive)?;
    let actual = format!("sha256:{}", hex(&hashing.hasher.finalize()));
    if actual != diff_id {
        return Err(UnpackError::WrongContent { expected: diff_id.to_owned(), actual });
    }
    Ok(())
}

/// The uncompressed bytes.
fn open(blob: &Path) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    File::open(blob)?.take(4).read_to_end(&mut magic)?;
    let file = BufReader::with_capacity(128 << 10, File::open(blob)?);
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(file).map_err(io::Error::other)?)
        }
        _ => Box::new(file),
    })
}

struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

struct Layer {
    root: Dir,
    /// Directories and their times, set last: what is made in a directory changes its time.
    directories: Vec<(PathBuf, Timestamps)>,
}

/// Where an entry goes: its directory's handle and its name there.
struct Spot {
    directory: Dir,
    name: PathBuf,
}

// === impl Layer ===

impl Layer {
    fn unpack(mut self, reader: impl Read) -> Result<(), UnpackError> {
        let mut archive = Archive::new(reader);
        for entry in archive.entries().map_err(UnpackError::Archive)? {
            let mut entry = entry.map_err(UnpackError::Archive)?;
            if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
                continue;
            }
            let path = entry.path().map_err(UnpackError::Archive)?.into_owned();
            let Some(path) = inside(&path)? else {
                self.root_entry(&mut entry).map_err(|source| failed(Path::new("/"), source))?;
                continue;
            };
            self.entry(&mut entry, &path)?;
        }
        for (path, times) in self.directories.iter().rev() {
            let spot = spot(&self.root, path)?;
            // It may have been replaced by something else since.
            let _ = utimensat(&spot.directory, &spot.name, times, AtFlags::SYMLINK_NOFOLLOW);
        }
        Ok(())
    }

    /// The entry `./` gives the root its owner and mode.
    fn root_entry(&self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let (uid, gid) = owner(entry)?;
        chownat(&self.root, ".", Some(uid), Some(gid), AtFlags::empty())?;
        Ok(chmodat(&self.root, ".", mode(entry)?, AtFlags::empty())?)
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<(), UnpackError> {
        let spot = spot(&self.root, path)?;
        let name = spot.name.to_string_lossy().into_owned();
        if name == OPAQUE {
            return opaque(&spot.directory).map_err(|source| failed(path, source));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == "." || hidden == ".." {
                return Err(UnpackError::Escapes(path.display().to_string()));
            }
            let made = make_room(&spot.directory, Path::new(hidden), EntryType::Char).and_then(|()| {
                Ok(mknodat(&spot.directory, hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
            });
            return made.map_err(|source| failed(path, source));
        }
        let kind = entry.header().entry_type();
        make_room(&spot.directory, &spot.name, kind).map_err(|source| failed(path, source))?;
        if kind == EntryType::Link {
            return self.link(entry, &spot, path);
        }
        make(entry, &spot).map_err(|source| failed(path, source))?;
        if kind == EntryType::Directory {
            self.directories.push((path.to_owned(), times(entry)));
        }
        Ok(())
    }

    /// A second name of a file of this layer.
    fn link(&self, entry: &Entry<'_, impl Read>, at: &Spot, path: &Path) -> Result<(), UnpackError> {
        let target = entry.link_name().map_err(UnpackError::Archive)?;
        let target = target.ok_or_else(|| failed(path, io::Error::other("a hard link without a target")))?;
        let target = inside(&target)?.ok_or_else(|| UnpackError::Escapes(target.display().to_string()))?;
        let target = spot(&self.root, &target)?;
        linkat(&target.directory, &target.name, &at.directory, &at.name, AtFlags::empty())
            .map_err(|error| failed(path, error.into()))
    }
}

fn failed(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Entry { path: path.display().to_string(), source }
}

/// The path without its decoration; `None` for the root itself; refused when it climbs.
fn inside(path: &Path) -> Result<Option<PathBuf>, UnpackError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Escapes(path.display().to_string()));
            }
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

/// Opens the directory that `path` lies in, making what is missing. A link on the way that leads out is refused.
fn spot(root: &Dir, path: &Path) -> Result<Spot, UnpackError> {
    let name =
        PathBuf::from(path.file_name().ok_or_else(|| UnpackError::Escapes(path.display().to_string()))?);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let opened = match parent {
        None => root.try_clone(),
        Some(parent) => match root.open_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                root.create_dir_all(parent).and_then(|()| root.open_dir(parent))
            }
            other => other,
        },
    };
    match opened {
        Ok(directory) => Ok(Spot { directory, name }),
        // Handles refuse with this what leads out of them.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(UnpackError::Escapes(path.display().to_string()))
        }
        Err(source) => Err(failed(path, source)),
    }
}

/// Removes what an earlier entry put there, unless both are directories.
fn make_room(directory: &Dir, name: &Path, kind: EntryType) -> io::Result<()> {
    match directory.symlink_metadata(name) {
        Ok(there) if there.is_dir() && kind == EntryType::Directory => Ok(()),
        Ok(there) if there.is_dir() => directory.remove_dir_all(name),
        Ok(_) => directory.remove_file(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn opaque(directory: &Dir) -> io::Result<()> {
    Ok(setxattr(by_handle(directory.as_fd()), "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// A path that means the opened file, whatever its name.
fn by_handle(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Makes the entry with its owner, mode, attributes and time.
fn make(entry: &mut Entry<'_, impl Read>, at: &Spot) -> io::Result<()> {
    let (directory, name) = (&at.directory, &at.name);
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
            io::copy(entry, &mut file)?;
        }
        EntryType::Directory => match directory.create_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        },
        EntryType::Symlink => {
            let target =
                entry.link_name()?.ok_or_else(|| io::Error::other("a symbolic link without a target"))?;
            symlinkat(target.as_ref(), directory, name)?;
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => node(entry, at, kind)?,
        // Kinds that no root file system holds.
        _ => return Ok(()),
    }
    let (uid, gid) = owner(entry)?;
    chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        // It was made a moment ago and is no link: following is harmless. After the owner, which clears set-uid.
        chmodat(directory, name, mode(entry)?, AtFlags::empty())?;
        attributes(entry, at)?;
    }
    Ok(utimensat(directory, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn node(entry: &Entry<'_, impl Read>, at: &Spot, kind: EntryType) -> io::Result<()> {
    let header = entry.header();
    let device = || -> io::Result<u64> {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        Ok(rustix::fs::makedev(major, minor))
    };
    let (kind, device) = match kind {
        EntryType::Char => (FileType::CharacterDevice, device()?),
        EntryType::Block => (FileType::BlockDevice, device()?),
        _ => (FileType::Fifo, 0),
    };
    Ok(mknodat(&at.directory, &at.name, kind, Mode::from_raw_mode(0o600), device)?)
}

/// User attributes and file capabilities; no others: `trusted.overlay.*` in a layer could bend the overlay.
fn attributes(entry: &mut Entry<'_, impl Read>, at: &Spot) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR)) else { continue };
        if !(name.starts_with("user.") || name == "security.capability") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&at.directory, &at.name, flags, Mode::empty())?;
        match setxattr(by_handle(handle.as_fd()), name, extension.value_bytes(), XattrFlags::empty()) {
            // The file system has none of that sort.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

fn owner(entry: &Entry<'_, impl Read>) -> io::Result<(Uid, Gid)> {
    let header = entry.header();
    let id = |field: &[u8], value: io::Result<u64>| {
        let value = zero_if_blank(field, value)?;
        u32::try_from(value).map_err(|_| io::Error::other(format!("{value} is no user or group id")))
    };
    let (uid, gid) = (id(&header.as_old().uid, header.uid())?, id(&header.as_old().gid, header.gid())?);
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn mode(entry: &Entry<'_, impl Read>) -> io::Result<Mode> {
    let header = entry.header();
    Ok(Mode::from_raw_mode(zero_if_blank(&header.as_old().mode, header.mode())? & 0o7777))
}

/// A field of a header that nobody filled in means zero, as other readers take it.
fn zero_if_blank<T: Default>(field: &[u8], value: io::Result<T>) -> io::Result<T> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    value.or_else(|error| if blank { Ok(T::default()) } else { Err(error) })
}

fn times(entry: &Entry<'_, impl Read>) -> Timestamps {
    let seconds = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests;
