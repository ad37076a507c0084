//! Bodies as the host's streams.

use std::io::{self, Read, Write};

use wasip2::http::types::{IncomingBody, OutgoingBody};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use super::poll::Ready;
use crate::Body;
use crate::body::Content;

/// What is read or passed on at a time.
const PIECE: u64 = 64 * 1024;
/// What the host takes in one `blocking-write-and-flush` (wasi:io 0.2).
const ONE_CALL: usize = 4096;

/// A body that comes in. The stream is dropped before the body it is of.
pub(crate) struct Incoming {
    stream: InputStream,
    _body: IncomingBody,
}

impl Incoming {
    /// Nothing when the body was taken already.
    pub(crate) fn new(body: IncomingBody) -> Option<Self> {
        Some(Incoming { stream: body.stream().ok()?, _body: body })
    }

    pub(crate) async fn read_bytes_async(&mut self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            match self.stream.read(PIECE) {
                Ok(piece) if piece.is_empty() => Ready::new(self.stream.subscribe()).await,
                Ok(piece) => whole.extend(piece),
                Err(StreamError::Closed) => return Ok(whole),
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.stream.blocking_read((into.len() as u64).min(PIECE)) {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    into[..piece.len()].copy_from_slice(&piece);
                    return Ok(piece.len());
                }
                Err(StreamError::Closed) => return Ok(0),
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

/// What went wrong with a stream, in the host's words.
fn failure(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}

/// Sends a body and ends it. Where that fails the body is dropped unfinished, so that the other side sees it.
pub(crate) fn send(body: Body, out: OutgoingBody) -> io::Result<()> {
    if body.length() != Some(0) {
        let stream = out.write().map_err(|()| io::Error::other("the body was sent already"))?;
        write(body, &stream)?;
    }
    OutgoingBody::finish(out, None).map_err(|error| io::Error::other(format!("{error:?}")))
}

fn write(body: Body, stream: &OutputStream) -> io::Result<()> {
    match body.0 {
        Content::Bytes(bytes) => {
            let start = usize::try_from(bytes.position()).unwrap_or(0);
            write_all(stream, &bytes.get_ref()[start..])
        }
        Content::Reader(mut reader) => {
            io::copy(&mut reader, &mut Out(stream))?;
            stream.blocking_flush().map_err(failure)
        }
        Content::Writer(write) => {
            let mut out = io::BufWriter::with_capacity(ONE_CALL, Out(stream));
            write(&mut out)?;
            out.flush()
        }
        Content::Incoming(incoming) => pass_on(&incoming.stream, stream),
    }
}

/// From stream to stream inside the host.
fn pass_on(from: &InputStream, to: &OutputStream) -> io::Result<()> {
    loop {
        match to.blocking_splice(from, PIECE) {
            Ok(_) => {}
            Err(StreamError::Closed) => return to.blocking_flush().or_else(closed).map_err(failure),
            Err(error) => return Err(failure(error)),
        }
    }
}

/// The stream was flushed when it was closed.
fn closed(error: StreamError) -> Result<(), StreamError> {
    if matches!(error, StreamError::Closed) { Ok(()) } else { Err(error) }
}

fn write_all(stream: &OutputStream, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() <= ONE_CALL {
        return stream.blocking_write_and_flush(bytes).map_err(failure);
    }
    Out(stream).write_all(bytes)?;
    stream.blocking_flush().map_err(failure)
}

/// A stream as a writer: takes what the host has room for.
struct Out<'a>(&'a OutputStream);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let room = usize::try_from(self.0.check_write().map_err(failure)?).unwrap_or(usize::MAX);
            if room > 0 {
                let piece = &bytes[..bytes.len().min(room)];
                self.0.write(piece).map_err(failure)?;
                return Ok(piece.len());
            }
            self.0.subscribe().block();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.blocking_flush().map_err(failure)
    }
}
