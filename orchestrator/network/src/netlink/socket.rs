//! A blocking netlink socket. It belongs to the network namespace of the thread that opened it, and may be
//! used from any thread afterwards; open, it keeps that namespace alive.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::message::{HEADER, Messages, align, read_u16, read_u32};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const FIRST_PAYLOAD_TYPE: u16 = 16;
/// A kernel that does not answer within this time is treated as an error instead of a hang.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel fills at most this much of a dump at a time.
const READ_BUFFER: usize = 32 << 10;
/// Upper bound of one request; a rule set with 100,000 elements is about 12 MB.
const SEND_BUFFER: usize = 256 << 20;

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes, neighbours (`NETLINK_ROUTE`).
    Route,
    /// nf_tables and connection tracking (`NETLINK_NETFILTER`).
    Netfilter,
}

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made.
    #[error("cannot open a netlink socket")]
    Open(#[source] Errno),
    /// The request could not be sent.
    #[error("cannot send a netlink request of {length} bytes")]
    Send {
        /// Size of the request.
        length: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The answer could not be read.
    #[error("cannot read the kernel's answer")]
    Receive(#[source] Errno),
    /// The kernel refused message `index` of the request.
    #[error("the kernel refused message {index} of the request")]
    Refused {
        /// Position in the request, from 0.
        index: u32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The answer is not a netlink message.
    #[error("the kernel's answer cannot be read: {0} bytes are no message")]
    Malformed(usize),
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }

    /// True where the kernel refused with this number.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno)
    }
}

/// An open socket.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Self, NetlinkError> {
        let protocol = match family {
            // NETLINK_ROUTE is protocol 0.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let open = || {
            let fd =
                net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
            net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
            // Without the right to force it the default stays, and only very large rule sets are refused.
            let _ = sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER);
            let _ = sockopt::set_socket_recv_buffer_size_force(&fd, 8 << 20);
            Ok(fd)
        };
        Ok(Self { fd: open().map_err(NetlinkError::Open)?, sequence: 1, buffer: vec![0; READ_BUFFER] })
    }

    /// Sends messages that each asked for an acknowledgement, and waits for all of them.
    /// The first refusal is the result; the kernel has still tried the others.
    pub(crate) fn request(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        let count = messages.count();
        let first = self.send(messages)?;
        let (mut seen, mut refusal) = (0, None);
        while seen < count {
            self.receive(|kind, sequence, payload| {
                let index = sequence.wrapping_sub(first);
                if kind == ERROR && index < count {
                    seen += 1;
                    keep_first(&mut refusal, index, payload);
                }
                true
            })?;
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one atomic batch whose last real message (the one before the closing message) asked for an
    /// acknowledgement. All of it is in force afterwards, or nothing.
    pub(crate) fn transaction(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        let count = messages.count();
        let last = count.saturating_sub(2);
        let first = self.send(messages)?;
        let (mut done, mut refusal) = (false, None);
        while !done {
            self.receive(|kind, sequence, payload| {
                let index = sequence.wrapping_sub(first);
                if kind == ERROR && index < count {
                    keep_first(&mut refusal, index, payload);
                    // A refusal of the opening message stands for the whole batch.
                    done |= index == last || (index == 0 && refusal.is_some());
                }
                true
            })?;
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one dump request and hands each answer (type, payload) to `each`.
    pub(crate) fn dump(
        &mut self,
        messages: Messages,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        let first = self.send(messages)?;
        let (mut done, mut refusal) = (false, None);
        while !done {
            self.receive(|kind, sequence, payload| {
                if sequence != first {
                    return true;
                }
                match kind {
                    DONE => done = true,
                    ERROR => {
                        keep_first(&mut refusal, 0, payload);
                        done = true;
                    }
                    kind if kind >= FIRST_PAYLOAD_TYPE => each(kind, payload),
                    _ => {}
                }
                !done
            })?;
        }
        refusal.map_or(Ok(()), Err)
    }

    fn send(&mut self, messages: Messages) -> Result<u32, NetlinkError> {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(messages.count()).max(1);
        let bytes = messages.numbered(first);
        let sent = net::send(&self.fd, &bytes, SendFlags::empty());
        sent.map_err(|source| NetlinkError::Send { length: bytes.len(), source })?;
        Ok(first)
    }

    /// Reads one datagram and hands its messages (type, sequence, payload) over until `each` says stop.
    fn receive(&mut self, mut each: impl FnMut(u16, u32, &[u8]) -> bool) -> Result<(), NetlinkError> {
        let length = loop {
            match net::recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::Receive(errno)),
            }
        };
        let bytes = &self.buffer[..length.min(self.buffer.len())];
        let mut at = 0;
        while at < bytes.len() {
            let header = read_u32(bytes, at).zip(read_u16(bytes, at + 4)).zip(read_u32(bytes, at + 8));
            let ((size, kind), sequence) = header.ok_or(NetlinkError::Malformed(bytes.len() - at))?;
            let payload = bytes.get(at + HEADER..at + size as usize);
            let payload = payload.ok_or(NetlinkError::Malformed(bytes.len() - at))?;
            if !each(kind, sequence, payload) {
                break;
            }
            at += align(size as usize);
        }
        Ok(())
    }
}

fn keep_first(refusal: &mut Option<NetlinkError>, index: u32, payload: &[u8]) {
    let code = read_u32(payload, 0).map_or(0, u32::cast_signed);
    if code != 0 && refusal.is_none() {
        *refusal = Some(NetlinkError::Refused { index, source: Errno::from_raw_os_error(-code) });
    }
}
