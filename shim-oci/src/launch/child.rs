//! The child between clone and exec: walks the plan with raw system calls. Nothing here allocates,
//! locks or unwinds, so it may be the copy of one thread of a process with many.
#![allow(unsafe_code)]

mod files;
mod program;

use std::ffi::CStr;
use std::os::fd::RawFd;

use program::{credentials, exec};

use super::plan::{Need, Op, Plan};
use super::sys::{self, Errno, Sys};

/// What the child says on its socket: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Set up; waits at the gate.
    Ready,
    /// The terminal's other end comes with this packet.
    Terminal,
    /// Step, part of the step, errno.
    Failed { step: u16, part: u16, errno: Errno },
}

impl Report {
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let (step, part, errno) = match self {
            Report::Ready => (u16::MAX, 0, 0),
            Report::Terminal => (u16::MAX, 1, 0),
            Report::Failed { step, part, errno } => (step, part, errno),
        };
        let (s, p, e) = (step.to_ne_bytes(), part.to_ne_bytes(), errno.to_ne_bytes());
        [s[0], s[1], p[0], p[1], e[0], e[1], e[2], e[3]]
    }

    pub(crate) fn from_bytes(b: [u8; 8]) -> Self {
        let step = u16::from_ne_bytes([b[0], b[1]]);
        let part = u16::from_ne_bytes([b[2], b[3]]);
        match (step, part) {
            (u16::MAX, 0) => Report::Ready,
            (u16::MAX, _) => Report::Terminal,
            _ => Report::Failed { step, part, errno: i32::from_ne_bytes([b[4], b[5], b[6], b[7]]) },
        }
    }
}

/// What the parent says on the socket.
pub(crate) const MAPPED: u8 = b'm';
pub(crate) const START: u8 = b's';

/// Exit codes of a child that did not come to run its program.
pub(crate) const EXIT_ABANDONED: i32 = 125;
pub(crate) const EXIT_FAILED: i32 = 126;

/// Walks the plan. Does not return.
pub(super) fn walk(plan: &Plan, socket: RawFd) -> ! {
    sys::reset_signals();
    let mut child = Child { socket, root: -1, part: 0 };
    for (step, op) in plan.ops.iter().enumerate() {
        child.part = 0;
        if let Err(errno) = child.step(op) {
            let report = Report::Failed { step: step as u16, part: child.part, errno };
            // Nobody is left to be told when this fails; the exit code says the same.
            let _ = sys::write(child.socket, &report.to_bytes());
            sys::exit(EXIT_FAILED);
        }
    }
    sys::exit(EXIT_FAILED)
}

struct Child {
    socket: RawFd,
    /// The root to be.
    root: RawFd,
    /// Where in the step.
    part: u16,
}

impl Child {
    fn step(&mut self, op: &Op) -> Sys<()> {
        match op {
            Op::Descriptors { stdio, keep } => self.descriptors(stdio, keep),
            Op::BecomeRoot => self.become_root(),
            Op::JoinCgroup { fd, .. } => sys::write(*fd, b"0").map(drop),
            Op::NewSession => sys::setsid(),
            Op::Enter { fd, kinds, .. } => sys::setns(*fd, *kinds),
            Op::NewCgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP),
            Op::Hostname(name) => sys::sethostname(name),
            Op::Domainname(name) => sys::setdomainname(name),
            Op::LoopbackUp => sys::loopback_up(),
            Op::Write { path, value, need } => tolerate(*need, write_file(path, value)),
            Op::Propagation(flags) => sys::mount(None, c"/", None, *flags, None),
            Op::Umask(mask) => {
                sys::umask(*mask);
                Ok(())
            }
            Op::Gate => self.gate(),
            Op::Exec(program) => Err(exec(program)),
            Op::RootOverlay { .. }
            | Op::RootReceived { .. }
            | Op::PrivateParent(_)
            | Op::RootDirectory { .. }
            | Op::RootMount { .. }
            | Op::MakePoint(_)
            | Op::Mount { .. }
            | Op::Device { .. }
            | Op::Link { .. }
            | Op::ReadOnly(_)
            | Op::Mask(_)
            | Op::Terminal { .. }
            | Op::Pivot
            | Op::RootAttributes { .. } => self.file_systems(op),
            _ => credentials(op),
        }
    }

    fn descriptors(&mut self, stdio: &[Option<RawFd>; 3], keep: &[RawFd]) -> Sys<()> {
        for (number, fd) in stdio.iter().enumerate() {
            if let Some(fd) = fd {
                sys::dup_onto(*fd, number as RawFd)?;
            }
        }
        // `keep` is sorted; the socket is not in it, because its number is known only after the clone.
        let mut next = 3u32;
        let mut socket = Some(self.socket as u32);
        let mut kept = keep.iter().map(|fd| *fd as u32).peekable();
        loop {
            let listed = kept.peek().copied();
            let fd = match (listed, socket) {
                (Some(a), Some(b)) if b < a => socket.take(),
                (Some(_), _) => kept.next(),
                (None, _) => socket.take(),
            };
            let Some(fd) = fd else { break };
            if fd > next {
                sys::close_range(next, fd - 1)?;
            }
            next = next.max(fd + 1);
        }
        sys::close_range(next, u32::MAX)
    }

    fn become_root(&mut self) -> Sys<()> {
        let mut word = [0u8; 1];
        if sys::read(self.socket, &mut word)? != 1 || word[0] != MAPPED {
            sys::exit(EXIT_ABANDONED);
        }
        sys::setgroups(&[])?;
        sys::set_ids(0, 0)
    }

    fn gate(&mut self) -> Sys<()> {
        sys::write(self.socket, &Report::Ready.to_bytes())?;
        let mut word = [0u8; 1];
        loop {
            match sys::read(self.socket, &mut word) {
                Err(libc::EINTR) => {}
                Ok(1) if word[0] == START => return Ok(()),
                // Shim and keeper are gone, or this container is not wanted any more.
                _ => sys::exit(EXIT_ABANDONED),
            }
        }
    }
}

fn write_file(path: &CStr, value: &CStr) -> Sys<()> {
    let file = sys::open(path, libc::O_WRONLY)?;
    let written = sys::write(file, value.to_bytes());
    sys::close(file);
    written.map(drop)
}

fn tolerate(need: Need, result: Sys<()>) -> Sys<()> {
    match need {
        Need::Must => result,
        Need::BestEffort => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_travel() {
        let failed = Report::Failed { step: 7, part: 3, errno: libc::EPERM };
        for report in [Report::Ready, Report::Terminal, failed] {
            assert_eq!(Report::from_bytes(report.to_bytes()), report);
        }
    }
}
