//! A guest's stdin: nothing, or a named pipe that somebody else writes until it is closed.

use std::io;
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
    closed: CancellationToken,
}

impl GuestInput {
    /// `Open` and `Once` read nothing: attaching to a wasm container goes through a pipe.
    pub(crate) fn new(stdin: &Stdin) -> Self {
        let pipe = match stdin {
            Stdin::Fifo(path) if !path.is_empty() => Some(Arc::from(path.as_str())),
            _ => None,
        };
        Self { pipe, closed: CancellationToken::new() }
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
        if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
