//! Descriptors that travel beside ttrpc, which cannot carry them: a second unix socket
//! (`<socket>.fds`) on which a token and one descriptor (`SCM_RIGHTS`) go either way.
//!
//! A connection carries one exchange. The request is one send: `+TOKEN` with a descriptor hands over,
//! `?TOKEN` asks for a copy. The answer is one send: `ok` (for `?` with the descriptor) or `no`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::pods::TaskError;

/// Longest token, bytes.
const MAX_TOKEN: usize = 255;
/// Descriptors a shim holds at most; beyond that it answers `no`.
const MAX_HELD: usize = 65_536;
/// How long one exchange may take.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Descriptors that were handed over, by token.
#[derive(Debug, Default)]
pub struct FdTable {
    held: Mutex<HashMap<String, OwnedFd>>,
}

impl FdTable {
    /// Holds `fd` under `token`, in place of an earlier one. False when the table is full.
    pub fn insert(&self, token: &str, fd: OwnedFd) -> bool {
        let mut held = self.lock();
        if held.len() >= MAX_HELD && !held.contains_key(token) {
            return false;
        }
        held.insert(token.to_owned(), fd);
        true
    }

    /// Takes the descriptor out: nobody can ask for it any more.
    pub fn take(&self, token: &str) -> Option<OwnedFd> {
        self.lock().remove(token)
    }

    /// A copy; the table goes on holding its own, which [`crate::TaskClient::take_back`] asks for.
    pub fn get(&self, token: &str) -> Option<OwnedFd> {
        self.lock().get(token).and_then(|fd| fd.try_clone().ok())
    }

    /// Tokens that are held.
    pub fn tokens(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, OwnedFd>> {
        // A panic while holding it cannot leave the map half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Path of the descriptor socket that belongs to `socket`.
pub(crate) fn path(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".fds");
    PathBuf::from(path)
}

/// Answers on `listener` until dropped.
pub(crate) async fn serve(listener: UnixListener, table: Arc<FdTable>) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let table = Arc::clone(&table);
                tokio::spawn(async move {
                    match tokio::time::timeout(EXCHANGE, answer(connection, &table)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => tracing::warn!(error = %e, "descriptor exchange"),
                        Err(_) => tracing::warn!("descriptor exchange timed out"),
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "accept on the descriptor socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(connection: UnixStream, table: &FdTable) -> io::Result<()> {
    let (request, fd) = connection.async_io(Interest::READABLE, || receive(connection.as_fd())).await?;
    let token = request.get(1..).and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default();
    let (accepted, copy) = match (request.first(), fd) {
        _ if token.is_empty() => (false, None),
        (Some(b'+'), Some(fd)) => (table.insert(token, fd), None),
        (Some(b'?'), None) => {
            let copy = table.get(token);
            (copy.is_some(), copy)
        }
        _ => (false, None),
    };
    let text: &[u8] = if accepted { b"ok" } else { b"no" };
    let copy = copy.as_ref().map(AsFd::as_fd);
    connection.async_io(Interest::WRITABLE, || send(connection.as_fd(), text, copy)).await
}

/// One send, with a descriptor or without.
fn send(socket: BorrowedFd<'_>, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What one send brought, and the descriptor that came with it.
fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut packet = [0; MAX_TOKEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut packet)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((packet.get(..received.bytes).unwrap_or_default().to_vec(), fd))
}

/// The client's side of `+TOKEN`.
pub(crate) async fn hand_over(socket: &Path, token: &str, fd: BorrowedFd<'_>) -> Result<(), TaskError> {
    let fd = fd.try_clone_to_owned().map_err(|e| TaskError::Failed(format!("copy a descriptor: {e}")))?;
    match exchange(socket, '+', token, Some(fd)).await? {
        (true, _) => Ok(()),
        (false, _) => Err(TaskError::Failed(format!("the shim did not take the descriptor {token}"))),
    }
}

/// The client's side of `?TOKEN`.
pub(crate) async fn take_back(socket: &Path, token: &str) -> Result<OwnedFd, TaskError> {
    match exchange(socket, '?', token, None).await? {
        (true, Some(fd)) => Ok(fd),
        _ => Err(TaskError::NotFound(format!("descriptor {token}"))),
    }
}

async fn exchange(
    socket: &Path,
    verb: char,
    token: &str,
    fd: Option<OwnedFd>,
) -> Result<(bool, Option<OwnedFd>), TaskError> {
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(TaskError::InvalidArgument(format!("a token has 1 to {MAX_TOKEN} bytes: {token:?}")));
    }
    let path = path(socket);
    let talk = async {
        let stream = UnixStream::connect(&path).await?;
        let request = format!("{verb}{token}");
        let fd = fd.as_ref().map(AsFd::as_fd);
        stream.async_io(Interest::WRITABLE, || send(stream.as_fd(), request.as_bytes(), fd)).await?;
        stream.async_io(Interest::READABLE, || receive(stream.as_fd())).await
    };
    match tokio::time::timeout(EXCHANGE, talk).await {
        Ok(Ok((answer, fd))) => Ok((answer == b"ok", fd)),
        Ok(Err(e)) => Err(TaskError::Unavailable(format!("descriptor socket {}: {e}", path.display()))),
        Err(_) => Err(TaskError::Unavailable(format!("descriptor socket {}: no answer", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_descriptor_goes_there_and_a_copy_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let table = Arc::new(FdTable::default());
        let server = tokio::spawn(serve(UnixListener::bind(path(&socket)).unwrap(), Arc::clone(&table)));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        hand_over(&socket, "web:80", listener.as_fd()).await.unwrap();
        let mine = std::net::TcpListener::from(table.get("web:80").unwrap());
        assert_eq!(mine.local_addr().unwrap(), listener.local_addr().unwrap());

        let back = std::net::TcpListener::from(take_back(&socket, "web:80").await.unwrap());
        assert_eq!(back.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(matches!(take_back(&socket, "web:81").await, Err(TaskError::NotFound(_))));
        assert!(table.take("web:80").is_some());
        assert!(matches!(take_back(&socket, "web:80").await, Err(TaskError::NotFound(_))));
        assert!(matches!(hand_over(&socket, "", listener.as_fd()).await, Err(TaskError::InvalidArgument(_))));
        server.abort();
    }
}
