//! Numbered channels between a client and a process: as WebSocket messages whose first byte is the number
//! (`v5.channel.k8s.io` and older), or as the streams of a SPDY connection.

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::Refusal;
use super::handshake::{self, Socket, Transport};
use super::streams::{self, StreamsReceiver, StreamsSender};
use crate::spdy::Gone;

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
/// How it ended.
pub(super) const ERROR: u8 = 3;
/// The size of the terminal.
pub(super) const RESIZE: u8 = 4;

/// How long a client may take to hang up.
const GOOD_BYE: Duration = Duration::from_secs(10);

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Half-close; the error channel ends with a `Status`.
    V5,
    /// The error channel ends with a `Status`.
    V4,
    /// The error channel ends with a text.
    V3,
    /// The same, and the size of a terminal is never told.
    Older,
}

/// What comes from the other side.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Closed(u8),
}

/// The channels that a client says it uses, besides that for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The end that sends.
pub(super) enum Sender {
    WebSocket(SplitSink<Socket, Message>),
    Spdy(StreamsSender),
}

/// The end that receives.
pub(super) enum Receiver {
    WebSocket { stream: SplitStream<Socket>, version: Version },
    Spdy(StreamsReceiver),
}

/// Answers the handshake with 101 and runs `session` on the connection.
pub(super) fn upgrade<F, S>(request: Request, wanted: Wanted, session: S) -> Result<Response, Refusal>
where
    S: FnOnce(Version, Sender, Receiver) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    match handshake::transport(request.headers())? {
        Transport::WebSocket => {
            let switch = handshake::websocket(request, |offered| Version::choose(offered, &Version::ALL))?;
            Ok(switch.run_websocket(|version, socket| {
                let (sender, receiver) = ends(socket, version);
                session(version, sender, receiver)
            }))
        }
        Transport::Spdy => {
            // Half-close is SPDY's own.
            let switch = handshake::spdy(request, &Version::ALL[1..])?;
            Ok(switch.run_spdy(move |version, connection| async move {
                if let Some((sender, receiver)) = streams::collect(connection, wanted, version).await {
                    session(version, Sender::Spdy(sender), Receiver::Spdy(receiver)).await;
                }
            }))
        }
    }
}

/// The two ends of a WebSocket.
pub(super) fn ends(socket: Socket, version: Version) -> (Sender, Receiver) {
    let (sink, stream) = socket.split();
    (Sender::WebSocket(sink), Receiver::WebSocket { stream, version })
}

// === impl ===

impl Version {
    const ALL: [(&'static str, Version); 5] = [
        ("v5.channel.k8s.io", Version::V5),
        ("v4.channel.k8s.io", Version::V4),
        ("v3.channel.k8s.io", Version::V3),
        ("v2.channel.k8s.io", Version::Older),
        ("channel.k8s.io", Version::Older),
    ];
    /// The one that port-forward over numbered channels is spoken in.
    pub(super) const ONLY_V4: [(&'static str, Version); 1] = [("v4.channel.k8s.io", Version::V4)];

    /// The first of `known` that the client offers, and its name.
    pub(super) fn choose(
        offered: &[String],
        known: &[(&'static str, Version)],
    ) -> Option<(&'static str, Version)> {
        known.iter().find(|(name, _)| offered.iter().any(|offer| offer == name)).copied()
    }

    /// Whether the end is told as a `Status`, not as a text.
    pub(super) fn ends_with_status(self) -> bool {
        matches!(self, Version::V5 | Version::V4)
    }
}

impl Sender {
    /// Sends on a channel.
    pub(super) async fn send(&mut self, channel: u8, data: Bytes) -> Result<(), Gone> {
        match self {
            Sender::WebSocket(sink) => {
                let mut message = Vec::with_capacity(data.len() + 1);
                message.push(channel);
                message.extend_from_slice(&data);
                sink.send(Message::Binary(message.into())).await.map_err(|_| Gone)
            }
            Sender::Spdy(streams) => streams.send(channel, data).await,
        }
    }

    /// Says good-bye, and reads on until the other side has hung up: data that nobody has read when a connection ends
    /// would take along what was sent last. The other side may be gone already.
    pub(super) async fn close(self, mut receiver: Receiver) {
        match self {
            Sender::WebSocket(mut sink) => {
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = sink.send(Message::Close(Some(frame))).await;
                let _ = sink.flush().await;
                let rest = async { while receiver.next().await.is_some() {} };
                let _ = timeout(GOOD_BYE, rest).await;
            }
            Sender::Spdy(streams) => {
                drop(receiver);
                streams.close().await;
            }
        }
    }

    /// Keeps a silent connection alive.
    pub(super) async fn ping(&mut self) -> Result<(), Gone> {
        match self {
            Sender::WebSocket(sink) => sink.send(Message::Ping(Bytes::new())).await.map_err(|_| Gone),
            Sender::Spdy(streams) => streams.ping().await,
        }
    }
}

impl Receiver {
    /// The next message; `None` once the other side is gone.
    pub(super) async fn next(&mut self) -> Option<Incoming> {
        let (stream, version) = match self {
            Receiver::WebSocket { stream, version } => (stream, *version),
            Receiver::Spdy(streams) => return streams.next().await,
        };
        loop {
            let message = match stream.next().await? {
                Ok(Message::Binary(message)) => message,
                Ok(Message::Text(text)) => Bytes::from(text),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => continue,
            };
            if let Some(incoming) = parse(message, version) {
                return Some(incoming);
            }
        }
    }
}

fn parse(mut message: Bytes, version: Version) -> Option<Incoming> {
    if message.is_empty() {
        return None;
    }
    let channel = message.split_to(1)[0];
    if version == Version::V5 && channel == 255 {
        return message.first().map(|closed| Incoming::Closed(*closed));
    }
    Some(Incoming::Data(channel, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        let offered = ["v4.channel.k8s.io".to_owned(), "v5.channel.k8s.io".to_owned()];
        assert_eq!(Version::choose(&offered, &Version::ALL), Some(("v5.channel.k8s.io", Version::V5)));
        assert_eq!(Version::choose(&offered, &Version::ONLY_V4), Some(("v4.channel.k8s.io", Version::V4)));
        assert_eq!(Version::choose(&[], &Version::ALL), None);
    }

    #[test]
    fn the_first_byte_says_the_channel() {
        let data = |bytes: &'static [u8], version| parse(Bytes::from_static(bytes), version);
        assert_eq!(data(b"\x00abc", Version::V4), Some(Incoming::Data(0, Bytes::from_static(b"abc"))));
        assert_eq!(data(b"\xff\x00", Version::V5), Some(Incoming::Closed(0)));
        assert_eq!(data(b"\xff\x00", Version::V4), Some(Incoming::Data(255, Bytes::from_static(b"\x00"))));
        assert_eq!(data(b"\xff", Version::V5), None);
        assert_eq!(data(b"", Version::V5), None);
    }
}
