//! SPDY/3.1 (draft-mbelshe-httpbis-spdy-00), as far as Kubernetes' clients speak it: streams with headers in one
//! connection. `kubectl` before 1.30 runs commands over it, and every `kubectl` forwards ports over it.
//!
//! | file | what |
//! | --- | --- |
//! | `frame` | frames, and their form on the wire (pure) |
//! | `headers` | blocks of names and values, compressed with the dictionary of the draft (pure) |
//! | `connection` | the streams of one connection |

mod connection;
mod frame;
mod headers;

pub(crate) use connection::{Arrival, Connection, Gone, StreamReceiver, StreamSender};
#[cfg(test)]
pub(crate) use frame::{Decoder, Encoder, Frame, Reset};
pub(crate) use headers::Headers;

/// What the other side sent is not SPDY/3.1. The connection is of no use any more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    #[error("a frame of version {0}; only version 3 is spoken here")]
    Version(u16),
    #[error("a frame of {0} bytes; at most {max} are taken", max = frame::LONGEST)]
    TooLong(usize),
    #[error("a {0} frame that is not whole")]
    Torn(&'static str),
    #[error("a block of headers that cannot be decompressed")]
    Compression,
    #[error("a block of headers that is too long")]
    TooManyHeaders,
    #[error("a block of headers that is not whole, or not text")]
    Headers,
}
