//! Port-forward over SPDY: for each connection the client opens a stream for data and one for an error, with the same
//! `requestID` and `port`. Any number of them share one SPDY connection.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Target;
use crate::spdy::{Arrival, Connection, Headers, StreamReceiver, StreamSender};

/// How long one stream of a pair may wait for the other, as in the kubelet.
const PAIRING: Duration = Duration::from_secs(30);
/// A silent connection is pinged, and forgotten streams are looked for, this often.
const PING: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const PIECE: usize = 32 << 10;

/// What a stream of a pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// What the headers of a stream say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    kind: Kind,
    port: u16,
    request: String,
}

type Ends = (StreamSender, StreamReceiver);

/// A pair of which one stream has come.
struct Half {
    kind: Kind,
    ends: Ends,
    since: Instant,
}

impl Label {
    /// `None` for a stream that is refused.
    fn of(headers: &Headers, stream: u32) -> Option<Self> {
        let kind = match headers.get("streamType")? {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        // Very old clients open the two one after the other, and do not say which belong together.
        let request = match (headers.get("requestID"), kind) {
            (Some(request), _) => request.to_owned(),
            (None, Kind::Error) => format!("#{stream}"),
            (None, Kind::Data) => format!("#{}", stream.saturating_sub(2)),
        };
        Some(Label { kind, port, request })
    }
}

/// Serves a client until it is gone.
pub(super) async fn serve(target: Target, mut connection: Connection) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = JoinSet::new();
    let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
    loop {
        tokio::select! {
            arrival = connection.accept() => {
                let Some(arrival) = arrival else { return };
                if let Some((port, data, error)) = pair(&mut halves, arrival).await {
                    running.spawn(forward(target.clone(), port, data, error));
                }
            }
            Some(_) = running.join_next() => {}
            _ = ping.tick() => {
                halves.retain(|_, half| half.since.elapsed() < PAIRING);
                if connection.ping().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Takes a stream; gives back the port, data and error when it makes a pair whole.
async fn pair(halves: &mut HashMap<String, Half>, arrival: Arrival) -> Option<(u16, Ends, Ends)> {
    let Some(Label { kind, port, request }) = Label::of(arrival.headers(), arrival.stream()) else {
        arrival.refuse().await;
        return None;
    };
    if halves.get(&request).is_some_and(|half| half.kind == kind) {
        arrival.refuse().await;
        return None;
    }
    let ends = arrival.accept().await.ok()?;
    match halves.remove(&request) {
        Some(other) if kind == Kind::Data => Some((port, ends, other.ends)),
        Some(other) => Some((port, other.ends, ends)),
        None => {
            halves.insert(request, Half { kind, ends, since: Instant::now() });
            None
        }
    }
}

/// One connection to the pod, from the first byte to the last.
async fn forward(target: Target, port: u16, (to_client, from_client): Ends, (error, _): Ends) {
    match target.dial(port).await {
        Ok(stream) => copy(stream, &to_client, from_client).await,
        Err(text) => {
            // The client may have gone meanwhile.
            let _ = error.send(Bytes::from(text)).await;
        }
    }
    // The client waits for the end of both.
    let _ = to_client.finish().await;
    let _ = error.finish().await;
}

/// Copies both ways until the pod has said all, or the client wants no more.
async fn copy(stream: TcpStream, to_client: &StreamSender, from_client: StreamReceiver) {
    let (reader, writer) = stream.into_split();
    let to_pod = async {
        write(from_client, writer).await;
        // The client's half-close: the pod may still answer.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = read(reader, to_client) => {}
        () = to_client.reset() => {}
        () = to_pod => {}
    }
}

async fn write(mut from: StreamReceiver, mut to: OwnedWriteHalf) {
    while let Some(data) = from.next().await {
        if to.write_all(&data).await.is_err() {
            return; // The pod reads no more; what it says shows in the other direction.
        }
    }
    let _ = to.shutdown().await;
}

async fn read(mut from: OwnedReadHalf, to: &StreamSender) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match from.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {
                if to.send(buffer.split().freeze()).await.is_err() {
                    return;
                }
            }
            // A reset by the pod is the end of this connection, and of no other.
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let headers = |list: &[(&str, &str)]| {
            list.iter().fold(Headers::default(), |headers, (name, value)| headers.with(name, value))
        };
        let label = |list: &[(&str, &str)]| Label::of(&headers(list), 7);
        let data = Label { kind: Kind::Data, port: 80, request: "4".into() };
        assert_eq!(label(&[("streamType", "data"), ("port", "80"), ("requestID", "4")]), Some(data.clone()));
        let old = |request: &str, kind| Some(Label { kind, port: 80, request: request.into() });
        assert_eq!(label(&[("streamType", "data"), ("port", "80")]), old("#5", Kind::Data));
        assert_eq!(label(&[("streamType", "error"), ("port", "80")]), old("#7", Kind::Error));
        for wrong in [
            &[("streamType", "data")][..],
            &[("port", "80")],
            &[("streamType", "stdin"), ("port", "80")],
            &[("streamType", "data"), ("port", "0")],
            &[("streamType", "data"), ("port", "65536")],
            &[("streamType", "data"), ("port", "http")],
        ] {
            assert_eq!(label(wrong), None, "{wrong:?}");
        }
    }
}
