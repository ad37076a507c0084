//! SPDY inside of WebSocket (KEP-4006): the bytes of the connection, in binary messages of any length.

use std::io;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, future};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::super::handshake::Socket;
use crate::spdy::Connection;

/// The SPDY connection in a WebSocket.
pub(super) fn connection(socket: Socket) -> Connection {
    let (sink, stream) = socket.split();
    let pieces = stream
        .take_while(|message| future::ready(!is_end(message)))
        .filter_map(|message| future::ready(content(message)));
    let messages = sink
        .sink_map_err(io::Error::other)
        .with(|piece: Bytes| future::ready(Ok::<_, io::Error>(Message::Binary(piece))));
    Connection::start(
        StreamReader::new(Box::pin(pieces)),
        SinkWriter::new(CopyToBytes::new(Box::pin(messages))),
    )
}

fn is_end(message: &Result<Message, Error>) -> bool {
    matches!(message, Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed))
}

/// What a message adds to the connection.
fn content(message: Result<Message, Error>) -> Option<io::Result<Bytes>> {
    match message {
        Ok(Message::Binary(piece)) => Some(Ok(piece)),
        Ok(Message::Text(_)) => {
            let text = "a text message in a tunnel, which carries binary ones";
            Some(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
        }
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    }
}
