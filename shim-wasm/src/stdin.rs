//! A guest's stdin: nothing, or a named pipe that somebody else writes until it is closed.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use catamaran_task::spec::Stdin;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};

/// See the module. Clones read the same input.
#[derive(Clone)]
pub(crate) struct GuestInput {
    pipe: Option<Arc<str>>,
    /// Keeps what is written before the guest asks for it: a pipe that nobody has open forgets.
    _held: Option<Arc<File>>,
    closed: CancellationToken,
}

impl GuestInput {
    /// `Open` and `Once` read nothing: attaching to a wasm container goes through a pipe.
    pub(crate) fn new(stdin: &Stdin) -> Self {
        let pipe = match stdin {
            Stdin::Fifo(path) if !path.is_empty() => Some(Arc::from(path.as_str())),
            _ => None,
        };
        let held = pipe.as_deref().and_then(|path| {
            let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
            let opened = File::options().read(true).write(true).custom_flags(flags).open(path);
            opened.inspect_err(|e| tracing::warn!(pipe = path, error = %e, "open a guest's stdin")).ok()
        });
        Self { pipe, _held: held.map(Arc::new), closed: CancellationToken::new() }
    }

    /// The guest reads to the end of what is there, then its input ends.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

impl IsTerminal for GuestInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for GuestInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        let Some(path) = &self.pipe else { return Box::new(tokio::io::empty()) };
        // For both ways, so that it does not end before the writer has come.
        match pipe::OpenOptions::new().read_write(true).open_receiver(&**path) {
            Ok(pipe) => Box::new(PipeInput {
                pipe,
                closed: Box::pin(self.closed.clone().cancelled_owned()),
                ended: false,
            }),
            Err(e) => {
                tracing::warn!(pipe = %path, error = %e, "open a guest's stdin");
                Box::new(tokio::io::empty())
            }
        }
    }
}

struct PipeInput {
    pipe: pipe::Receiver,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl AsyncRead for PipeInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.pipe).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        if !self.ended {
            use std::future::Future;
            self.ended = self.closed.as_mut().poll(cx).is_ready();
        }
        if self.ended { Poll::Ready(read_rest(&self.pipe, buffer)) } else { Poll::Pending }
    }
}

/// What is in the pipe, whether or not the reactor has told of it yet; nothing: the input has ended.
fn read_rest(pipe: &pipe::Receiver, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    match rustix::io::read(pipe, buffer.initialize_unfilled()) {
        Ok(read) => {
            buffer.advance(read);
            Ok(())
        }
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_was_written_and_closed_before_the_guest_asks_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdin");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let input = GuestInput::new(&Stdin::Fifo(path.to_str().unwrap().into()));
        let mut client = File::options().read(true).write(true).open(&path).unwrap();
        client.write_all(b"one\ntwo\n").unwrap();
        drop(client);
        input.close();
        let mut stream = Box::into_pin(input.async_stream());
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one\ntwo\n");
    }
}
