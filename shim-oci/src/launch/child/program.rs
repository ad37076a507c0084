//! Who the program runs as, and the exec.

use libc::c_char;

use super::super::plan::{Op, Program};
use super::super::sys::{self, Errno, Sys};

/// Who the program runs as.
pub(super) fn credentials(op: &Op) -> Sys<()> {
    match op {
        Op::Rlimit { resource, limit, .. } => rlimit(*resource, limit),
        Op::NoNewPrivileges => sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop),
        Op::Seccomp { filter, flags } => sys::seccomp(filter, *flags),
        Op::Groups(groups) => sys::setgroups(groups),
        Op::Ids { uid, gid } => sys::set_ids(*uid, *gid),
        Op::KeepCapabilities => sys::prctl(libc::PR_SET_KEEPCAPS, 1).map(drop),
        Op::BoundingSet(keep) => bounding_set(*keep),
        Op::Capabilities { effective, permitted, inheritable } => {
            sys::capset(*effective, *permitted, *inheritable)
        }
        Op::AmbientSet(set) => (0..64).filter(|bit| set >> bit & 1 == 1).try_for_each(sys::ambient_raise),
        Op::Chdir(path) => {
            sys::chdir(path)?;
            if sys::cwd_is_inside()? { Ok(()) } else { Err(libc::EACCES) }
        }
        _ => Err(libc::ENOSYS),
    }
}

/// Sets a limit; where the hard one may not be raised, as much of it as may be.
fn rlimit(resource: i32, limit: &libc::rlimit64) -> Sys<()> {
    match sys::setrlimit(resource, limit) {
        Err(libc::EPERM) => {
            let hard = sys::getrlimit(resource)?.rlim_max.min(limit.rlim_max);
            sys::setrlimit(resource, &libc::rlimit64 { rlim_cur: limit.rlim_cur.min(hard), rlim_max: hard })
        }
        other => other,
    }
}

fn bounding_set(keep: u64) -> Sys<()> {
    for bit in 0..64u64 {
        if keep >> bit & 1 == 1 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_READ, bit) {
            Ok(1) => sys::prctl(libc::PR_CAPBSET_DROP, bit).map(drop)?,
            Ok(_) => {}
            // Past the last capability of this kernel.
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Tries the candidates in order; comes back with the error that says most.
pub(super) fn exec(program: &Program) -> Errno {
    let mut home = [0u8; 512];
    if let Some(uid) = program.home_of {
        let slot = program.environment.as_ptr().cast_mut();
        home_of(uid, &mut home);
        // SAFETY: this process is a copy, nobody else reads the array; the spare slot is inside it.
        unsafe { slot.add(program.environment.spare()).write(home.as_ptr().cast::<c_char>()) };
    }
    let mut error = libc::ENOENT;
    for candidate in &program.candidates {
        // SAFETY: `Strings` ends its arrays with NULL and owns the strings.
        let errno =
            unsafe { sys::execve(candidate, program.arguments.as_ptr(), program.environment.as_ptr()) };
        if errno != libc::ENOENT && errno != libc::ENOTDIR {
            error = errno;
        }
    }
    error
}

/// Writes `HOME=DIRECTORY` of the user in the root's `/etc/passwd`, `HOME=/` where it names none.
fn home_of(uid: u32, into: &mut [u8; 512]) {
    let mut found = [0u8; 500];
    let length = read_home(uid, &mut found).unwrap_or(0);
    let (prefix, root) = (b"HOME=", b"/");
    let value = if length == 0 { &root[..] } else { found.get(..length).unwrap_or(root) };
    for (to, from) in into.iter_mut().zip(prefix.iter().chain(value)) {
        *to = *from;
    }
}

/// Reads `/etc/passwd` as a stream, one byte at a time through a small buffer: it may be of any size.
fn read_home(uid: u32, home: &mut [u8; 500]) -> Option<usize> {
    let file = sys::open(c"/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK).ok()?;
    let mut buffer = [0u8; 4096];
    let (mut field, mut number, mut valid, mut length) = (0u8, 0u64, false, 0usize);
    loop {
        let got = sys::read(file, &mut buffer).unwrap_or(0);
        for byte in buffer.get(..got).unwrap_or_default() {
            match (byte, field) {
                (b'\n', _) => {
                    if valid && number == u64::from(uid) && length > 0 && field >= 5 {
                        sys::close(file);
                        return Some(length);
                    }
                    (field, number, valid, length) = (0, 0, false, 0);
                }
                (b':', _) => field += 1,
                (b'0'..=b'9', 2) => {
                    number = number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                    valid = true;
                }
                (_, 5) => {
                    if let Some(slot) = home.get_mut(length) {
                        *slot = *byte;
                        length += 1;
                    }
                }
                _ => {}
            }
        }
        if got == 0 {
            sys::close(file);
            let last = valid && number == u64::from(uid) && length > 0 && field >= 5;
            return last.then_some(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn home_of_root_is_found_and_of_nobody_known_is_the_root() {
        let text = |uid| {
            let mut home = [0u8; 512];
            home_of(uid, &mut home);
            CStr::from_bytes_until_nul(&home).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(text(0), "HOME=/root");
        assert_eq!(text(4_000_000_000), "HOME=/");
    }
}
