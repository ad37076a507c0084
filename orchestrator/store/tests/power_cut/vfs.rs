//! A disk in memory behind SQLite's VFS interface (<https://sqlite.org/vfs.html>) that records every write
//! and sync, so that the disk's contents after a power cut at any of them can be made up again.

#![allow(unsafe_code, reason = "SQLite's VFS interface is a table of C functions")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::ffi;

/// Unsynced data survives or vanishes in pieces of this size.
pub(crate) const SECTOR: usize = 512;
const SHM_SLOTS: usize = 8;

/// One thing that happened, in the order in which it happened.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Bytes were handed to the disk.
    Write { file: String, offset: usize, data: Vec<u8> },
    /// A file was cut or extended.
    Truncate { file: String, size: usize },
    /// What was written to the file before is on the platter.
    Sync { file: String },
    /// A file was removed.
    Delete { file: String },
    /// The store acknowledged a write with this revision.
    Acknowledged(u64),
    /// A watcher saw the change of this revision.
    Seen(u64),
}

/// Contents of all files.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct FileState {
    content: Vec<u8>,
    regions: Vec<Box<[u8]>>,
    slots: [i32; SHM_SLOTS],
    shared: u32,
    reserved: u64,
    exclusive: u64,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, FileState>,
    log: Vec<Op>,
}

/// The disk; registered with SQLite under `name`.
pub(crate) struct Disk {
    pub(crate) name: String,
    state: Mutex<State>,
}

impl Disk {
    /// Registers a disk with these contents. It stays registered for the life of the process.
    pub(crate) fn register(image: Image) -> Arc<Disk> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("power-cut-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let file = |content| FileState { content, ..FileState::default() };
        let files = image.into_iter().map(|(name, content)| (name, file(content))).collect();
        let disk = Arc::new(Disk { name, state: Mutex::new(State { files, log: Vec::new() }) });
        let c_name = CString::new(disk.name.clone()).unwrap().into_raw();
        let vfs = Box::leak(Box::new(table(c_name, Arc::into_raw(disk.clone()).cast_mut().cast())));
        // SAFETY: the table and all it points to live for ever.
        assert_eq!(unsafe { ffi::sqlite3_vfs_register(vfs, 0) }, ffi::SQLITE_OK);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds something that the test observed to the record.
    pub(crate) fn note(&self, op: Op) {
        self.state().log.push(op);
    }

    /// Gives the memory back once no store uses the disk any more.
    pub(crate) fn clear(&self) {
        *self.state() = State::default();
    }

    /// Takes the record of all that happened.
    pub(crate) fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().log)
    }
}

#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

struct Handle {
    disk: Arc<Disk>,
    name: String,
    id: u64,
    level: c_int,
    shm_shared: u32,
    shm_exclusive: u32,
    delete_on_close: bool,
}

impl Handle {
    fn with<T>(&self, body: impl FnOnce(&mut State, &str) -> T) -> T {
        body(&mut self.disk.state(), &self.name)
    }
}

/// The handle behind a file that SQLite passes back.
///
/// # Safety
/// `file` was opened by `open` and not yet closed; SQLite uses a file from one thread at a time.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: by the contract above, `open` has put a live box there.
    unsafe { &mut *(*file.cast::<File>()).handle }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: pAppData is the disk that `register` leaked; the name is null or a C string.
    let (disk, name) = unsafe {
        let disk = (*vfs).pAppData.cast::<Disk>();
        Arc::increment_strong_count(disk);
        let name = if name.is_null() {
            format!("temporary-{id}")
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        };
        (Arc::from_raw(disk), name)
    };
    let exists = disk.state().files.contains_key(&name);
    if !exists && flags & ffi::SQLITE_OPEN_CREATE == 0 {
        // SAFETY: the file is SQLite's to fill; no methods means that it is not open.
        unsafe { (*file).pMethods = std::ptr::null() };
        return ffi::SQLITE_CANTOPEN;
    }
    disk.state().files.entry(name.clone()).or_default();
    let delete_on_close = flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0;
    let handle = Handle { disk, name, id, level: 0, shm_shared: 0, shm_exclusive: 0, delete_on_close };
    // SAFETY: SQLite has made room for szOsFile bytes.
    unsafe {
        file.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &raw const METHODS },
            handle: Box::into_raw(Box::new(handle)),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the box was made by `open`; SQLite does not use the file again.
    let handle = unsafe { Box::from_raw((*file.cast::<File>()).handle) };
    if handle.delete_on_close {
        handle.with(|state, name| state.files.remove(name));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `handle`; SQLite gives room for `amount` bytes.
    let (handle, to) =
        unsafe { (handle(file), std::slice::from_raw_parts_mut(to.cast::<u8>(), amount as usize)) };
    handle.with(|state, name| {
        let content = state.files.get(name).map_or(&[][..], |f| &f.content);
        let from = content.get(offset as usize..).unwrap_or_default();
        let there = from.len().min(to.len());
        to[..there].copy_from_slice(&from[..there]);
        to[there..].fill(0);
        if there == to.len() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
    })
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: see `handle`; SQLite gives `amount` bytes.
    let (handle, from) =
        unsafe { (handle(file), std::slice::from_raw_parts(from.cast::<u8>(), amount as usize)) };
    handle.with(|state, name| {
        let op = Op::Write { file: name.to_owned(), offset: offset as usize, data: from.to_vec() };
        apply(&mut state.files.entry(name.to_owned()).or_default().content, &op);
        state.log.push(op);
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see `handle`.
    unsafe { handle(file) }.with(|state, name| {
        let op = Op::Truncate { file: name.to_owned(), size: size as usize };
        apply(&mut state.files.entry(name.to_owned()).or_default().content, &op);
        state.log.push(op);
    });
    ffi::SQLITE_OK
}

/// What a write or a truncation does to a file.
pub(crate) fn apply(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { offset, data, .. } => {
            let end = offset + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(data);
        }
        Op::Truncate { size, .. } => content.resize(*size, 0),
        _ => {}
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: see `handle`.
    unsafe { handle(file) }.with(|state, name| state.log.push(Op::Sync { file: name.to_owned() }));
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: see `handle`; SQLite gives room for the answer.
    unsafe {
        *size = handle(file).with(|state, name| state.files.get(name).map_or(0, |f| f.content.len())) as i64;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `handle`.
    let handle = unsafe { handle(file) };
    let (id, held) = (handle.id, handle.level);
    let granted = handle.with(|state, name| {
        let file = state.files.entry(name.to_owned()).or_default();
        let others = |owner: u64| owner != 0 && owner != id;
        if level <= held {
            return true;
        }
        if others(file.exclusive) || level >= ffi::SQLITE_LOCK_RESERVED && others(file.reserved) {
            return false;
        }
        if held == ffi::SQLITE_LOCK_NONE {
            file.shared += 1;
        }
        if level >= ffi::SQLITE_LOCK_RESERVED {
            file.reserved = id;
        }
        if level == ffi::SQLITE_LOCK_EXCLUSIVE {
            if file.shared > 1 {
                return false;
            }
            file.exclusive = id;
        }
        true
    });
    if !granted {
        return ffi::SQLITE_BUSY;
    }
    handle.level = level.max(held);
    ffi::SQLITE_OK
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `handle`.
    let handle = unsafe { handle(file) };
    let (id, held) = (handle.id, handle.level);
    handle.with(|state, name| {
        let file = state.files.entry(name.to_owned()).or_default();
        if file.exclusive == id {
            file.exclusive = 0;
        }
        if file.reserved == id {
            file.reserved = 0;
        }
        if level == ffi::SQLITE_LOCK_NONE && held > ffi::SQLITE_LOCK_NONE {
            file.shared -= 1;
        }
    });
    handle.level = level.min(held);
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see `handle`; SQLite gives room for the answer.
    unsafe {
        *out = handle(file).with(|state, name| state.files.get(name).is_some_and(|f| f.reserved != 0)).into();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR as c_int
}

/// No promises: SQLite must assume the worst of this disk.
unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see `handle`.
    let pointer = unsafe { handle(file) }.with(|state, name| {
        let regions = &mut state.files.entry(name.to_owned()).or_default().regions;
        while regions.len() <= region as usize {
            if extend == 0 {
                return std::ptr::null_mut();
            }
            regions.push(vec![0; size as usize].into_boxed_slice());
        }
        regions[region as usize].as_mut_ptr().cast()
    });
    // SAFETY: SQLite gives room for the answer; the region lives as long as the disk.
    unsafe { *out = pointer };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: see `handle`.
    let handle = unsafe { handle(file) };
    let mask: u32 = ((1 << n) - 1) << offset;
    let range = offset as usize..(offset + n) as usize;
    let (shared, exclusive) = (handle.shm_shared, handle.shm_exclusive);
    let held = |slot: usize| (shared | exclusive) >> slot & 1 == 1;
    let granted = handle.with(|state, name| {
        let slots = &mut state.files.entry(name.to_owned()).or_default().slots;
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            for slot in range.filter(|slot| held(*slot)) {
                slots[slot] = if exclusive >> slot & 1 == 1 { 0 } else { slots[slot] - 1 };
            }
            return true;
        }
        let wants_shared = flags & ffi::SQLITE_SHM_SHARED != 0;
        if range.clone().any(|s| if wants_shared { slots[s] < 0 } else { slots[s] != 0 }) {
            return false;
        }
        range.for_each(|s| slots[s] = if wants_shared { slots[s] + 1 } else { -1 });
        true
    });
    if !granted {
        return ffi::SQLITE_BUSY;
    }
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        handle.shm_shared &= !mask;
        handle.shm_exclusive &= !mask;
    } else if flags & ffi::SQLITE_SHM_SHARED != 0 {
        handle.shm_shared |= mask;
    } else {
        handle.shm_exclusive |= mask;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int) -> c_int {
    // SAFETY: pAppData is the disk, the name a C string.
    let (disk, name) = unsafe { (&*(*vfs).pAppData.cast::<Disk>(), CStr::from_ptr(name).to_string_lossy()) };
    let mut state = disk.state();
    if state.files.remove(&*name).is_none() {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    }
    state.log.push(Op::Delete { file: name.into_owned() });
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: pAppData is the disk, the name a C string; SQLite gives room for the answer.
    unsafe {
        let disk = &*(*vfs).pAppData.cast::<Disk>();
        *out = disk.state().files.contains_key(&*CStr::from_ptr(name).to_string_lossy()).into();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the name is a C string; SQLite gives `room` bytes for the answer.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > room as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, room: c_int, out: *mut c_char) -> c_int {
    static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    // SAFETY: SQLite gives `room` bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), room as usize) };
    for byte in out {
        let x = SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        *byte = ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8;
    }
    room
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    std::thread::sleep(std::time::Duration::from_micros(micros as u64));
    micros
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite gives room for the answer; any constant Julian day serves.
    unsafe { *out = 2_461_000.0 };
    ffi::SQLITE_OK
}

fn table(name: *const c_char, disk: *mut c_void) -> ffi::sqlite3_vfs {
    ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: size_of::<File>() as c_int,
        mxPathname: 512,
        pNext: std::ptr::null_mut(),
        zName: name,
        pAppData: disk,
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }
}
