//! Descriptors that must outlive a worker lie with the keeper: ends of pipes, terminals, gates. They
//! travel over a socket pair (SEQPACKET); a packet is a letter and a name, with a descriptor or not.
//!
//! Worker to keeper: `S` store, `D` drop this one, `A` drop all of a container, `L` list.
//! Keeper to worker, upon `L`: `S` for each with its descriptor, then `.`.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::launch::sys;

/// Longest packet.
const PACKET: usize = 512;

/// Both ends, before the fork.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Custody(Mutex<OwnedFd>);

impl Custody {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    /// Gives the keeper a copy of `fd`, called `container/what`.
    pub(crate) fn store(&self, container: &str, what: &str, fd: &impl AsFd) -> io::Result<()> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let packet = format!("S{container}/{what}");
        sys::send_fd(socket.as_raw_fd(), packet.as_bytes(), fd.as_fd().as_raw_fd())
            .map_err(io::Error::from_raw_os_error)
    }

    /// Lets go of one.
    pub(crate) fn drop_one(&self, container: &str, what: &str) {
        self.send(&format!("D{container}/{what}"));
    }

    /// Lets go of all that a container had.
    pub(crate) fn drop_all(&self, container: &str) {
        self.send(&format!("A{container}/"));
    }

    fn send(&self, packet: &str) {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = rustix::net::send(&*socket, packet.as_bytes(), rustix::net::SendFlags::NOSIGNAL) {
            // Only when the keeper is gone; then this process is about to end as well.
            tracing::error!(error = %e, "tell the keeper");
        }
    }

    /// Copies of everything the keeper holds, by `container/what`.
    pub(crate) fn list(&self) -> io::Result<HashMap<String, OwnedFd>> {
        self.send("L");
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = HashMap::new();
        loop {
            match receive(&socket)? {
                Some(('S', name, Some(fd))) => {
                    held.insert(name, fd);
                }
                Some(('.', ..)) => return Ok(held),
                other => return Err(io::Error::other(format!("the keeper said {other:?}"))),
            }
        }
    }
}

/// One packet; `None` at the end of the connection.
fn receive(socket: &OwnedFd) -> io::Result<Option<(char, String, Option<OwnedFd>)>> {
    let mut packet = [0u8; PACKET];
    let (length, fd) = loop {
        match sys::receive_fd(socket.as_raw_fd(), &mut packet) {
            Err(libc::EINTR) => {}
            other => break other.map_err(io::Error::from_raw_os_error)?,
        }
    };
    // SAFETY: the kernel has just installed this descriptor for us.
    let fd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let text = String::from_utf8_lossy(packet.get(..length).unwrap_or_default()).into_owned();
    let mut characters = text.chars();
    Ok(characters.next().map(|letter| (letter, characters.collect(), fd)))
}

/// The keeper's end.
#[derive(Debug, Default)]
pub(crate) struct Vault(HashMap<String, OwnedFd>);

/// What the worker's end of the connection did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Served {
    One,
    Closed,
}

impl Vault {
    /// Serves one packet.
    pub(crate) fn serve(&mut self, socket: &OwnedFd) -> io::Result<Served> {
        match receive(socket)? {
            None => return Ok(Served::Closed),
            Some(('S', name, Some(fd))) => {
                self.0.insert(name, fd);
            }
            Some(('D', name, _)) => {
                self.0.remove(&name);
            }
            Some(('A', prefix, _)) => self.0.retain(|name, _| !name.starts_with(&prefix)),
            Some(('L', ..)) => {
                for (name, fd) in &self.0 {
                    sys::send_fd(socket.as_raw_fd(), format!("S{name}").as_bytes(), fd.as_raw_fd())
                        .map_err(io::Error::from_raw_os_error)?;
                }
                rustix::net::send(socket, b".", rustix::net::SendFlags::NOSIGNAL)?;
            }
            Some(other) => return Err(io::Error::other(format!("the worker said {other:?}"))),
        }
        Ok(Served::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_stored_its_successor_gets() {
        let mut vault = Vault::default();
        let (keeper, worker) = pair().unwrap();
        let custody = Custody::new(worker);
        let file = std::fs::File::open("/dev/null").unwrap();
        for what in ["stdout", "gate"] {
            custody.store("a", what, &file).unwrap();
        }
        custody.store("b", "stdout", &file).unwrap();
        custody.drop_one("a", "gate");
        custody.drop_all("b");
        for _ in 0..5 {
            assert_eq!(vault.serve(&keeper).unwrap(), Served::One);
        }
        drop(custody);
        assert_eq!(vault.serve(&keeper).unwrap(), Served::Closed);

        let (keeper, worker) = pair().unwrap();
        let thread = std::thread::spawn(move || Custody::new(worker).list().unwrap());
        vault.serve(&keeper).unwrap();
        let held = thread.join().unwrap();
        assert_eq!(held.keys().collect::<Vec<_>>(), ["a/stdout"]);
    }
}
