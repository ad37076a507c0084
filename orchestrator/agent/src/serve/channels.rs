//! WebSockets with numbered channels (`v5.channel.k8s.io` and older): the first byte of a message says which stream
//! it belongs to.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Refusal;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Half-close; the error channel ends with a `Status`.
    V5,
    /// The error channel ends with a `Status`.
    V4,
    /// The error channel ends with a text.
    Older,
}

/// What comes from the other side.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Closed(u8),
}

/// The end that sends.
pub(super) struct Sender(SplitSink<Socket, Message>);

/// The end that receives.
pub(super) struct Receiver {
    stream: SplitStream<Socket>,
    version: Version,
}

/// SPDY comes as POST; kubectl tries WebSocket first.
pub(super) async fn no_spdy() -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "this node speaks WebSocket; SPDY is not known here".into())
}

// === impl ===

impl Version {
    const ALL: [(&'static str, Version); 5] = [
        ("v5.channel.k8s.io", Version::V5),
        ("v4.channel.k8s.io", Version::V4),
        ("v3.channel.k8s.io", Version::Older),
        ("v2.channel.k8s.io", Version::Older),
        ("channel.k8s.io", Version::Older),
    ];

    /// The newest of `known` that the client offers, and its name.
    fn choose(headers: &HeaderMap, known: &[Version]) -> Option<(&'static str, Version)> {
        let offered: Vec<&str> = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(str::trim))
            .collect();
        Version::ALL.into_iter().find(|(name, version)| known.contains(version) && offered.contains(name))
    }
}

/// Answers the handshake with 101 and runs `session` on the connection.
pub(super) fn upgrade<F, S>(mut request: Request, known: &[Version], session: S) -> Result<Response, Refusal>
where
    S: FnOnce(Version, Sender, Receiver) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let bad = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
    let headers = request.headers();
    let is_websocket =
        headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Err(bad("a WebSocket upgrade is needed here"));
    }
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("the request has no Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let chosen = Version::choose(headers, known)
        .ok_or_else(|| bad("none of the offered WebSocket protocols is known here"))?;
    let (name, version) = chosen;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                let (sink, stream) = socket.split();
                session(version, Sender(sink), Receiver { stream, version }).await;
            }
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let accept = HeaderValue::from_str(&accept).map_err(|_| bad("the Sec-WebSocket-Key is malformed"))?;
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok(response)
}

impl Sender {
    /// Sends on a channel.
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Error> {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        self.0.send(Message::Binary(message.into())).await
    }

    /// Says good-bye. The other side may be gone already.
    pub(super) async fn close(mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.0.send(Message::Close(Some(frame))).await;
        let _ = self.0.close().await;
    }

    /// Keeps a silent connection alive.
    pub(super) async fn ping(&mut self) -> Result<(), Error> {
        self.0.send(Message::Ping(Bytes::new())).await
    }
}

impl Receiver {
    /// The next message; `None` once the other side is gone.
    pub(super) async fn next(&mut self) -> Option<Incoming> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Binary(message)) => {
                    if let Some(incoming) = parse(message, self.version) {
                        return Some(incoming);
                    }
                }
                Ok(Message::Text(text)) => {
                    if let Some(incoming) = parse(Bytes::from(text), self.version) {
                        return Some(incoming);
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
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
        let mut headers = HeaderMap::new();
        headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        let all = [Version::V5, Version::V4];
        assert_eq!(Version::choose(&headers, &all), Some(("v5.channel.k8s.io", Version::V5)));
        assert_eq!(Version::choose(&headers, &[Version::V4]), Some(("v4.channel.k8s.io", Version::V4)));
        assert_eq!(Version::choose(&HeaderMap::new(), &all), None);
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
