//! Port-forward over numbered WebSocket channels: channel 2i carries the data of the i-th port of the query, 2i + 1 its
//! errors; the first message of each is the port, two bytes, little endian.

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::Refusal;
use super::super::channels::{Incoming, Sender, Version, ends};
use super::super::handshake::Socket;
use super::Target;
use crate::spdy::Gone;

/// Pieces that wait for a slow client.
const WAITING: usize = 32;
/// Bytes read at a time.
const PIECE: usize = 32 << 10;
/// More ports have no channel.
const MOST_PORTS: usize = 127;

/// `ports=80&ports=443` or `ports=80,443`.
///
/// # Errors
/// 400 in the kubelet's words.
pub(super) fn ports(query: &[(String, String)]) -> Result<Vec<u16>, Refusal> {
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let mut ports = Vec::new();
    for (_, value) in query.iter().filter(|(name, _)| name == "ports" || name == "port") {
        if value.is_empty() {
            return Err(bad("query parameter \"ports\" cannot be empty".into()));
        }
        for number in value.split(',') {
            match number.trim().parse::<u16>() {
                Ok(0) => return Err(bad(format!("port {value:?} must be > 0"))),
                Ok(port) => ports.push(port),
                Err(error) => return Err(bad(format!("unable to parse {value:?} as a port: {error}"))),
            }
        }
    }
    match ports.len() {
        0 => Err(bad("query parameter \"ports\" is required".into())),
        1..=MOST_PORTS => Ok(ports),
        _ => Err(bad(format!("query parameter \"ports\" names more than {MOST_PORTS} ports"))),
    }
}

/// Serves a client until it is gone, or all ports have said all.
pub(super) async fn forward(target: Target, ports: Vec<u16>, socket: Socket) {
    let (mut sender, mut receiver) = ends(socket, Version::V4);
    let (to, mut from) = mpsc::channel::<(u8, Bytes)>(WAITING);
    let mut tasks = JoinSet::new();
    let Ok(mut writers) = open(&target, ports, &mut sender, &to, &mut tasks).await else { return };
    drop(to);
    loop {
        tokio::select! {
            data = from.recv() => match data {
                Some((channel, data)) => {
                    if sender.send(channel, data).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            incoming = receiver.next() => match incoming {
                Some(Incoming::Data(channel, data)) if channel % 2 == 0 => {
                    let slot = writers.get_mut(usize::from(channel / 2));
                    if let Some(writer) = slot
                        && let Some(open) = writer
                        && open.write_all(&data).await.is_err()
                    {
                        *writer = None;
                    }
                }
                Some(_) => {}
                None => break,
            },
        }
    }
    sender.close(receiver).await;
}

/// Connects to each port; an error goes to its channel.
async fn open(
    target: &Target,
    ports: Vec<u16>,
    sender: &mut Sender,
    to: &mpsc::Sender<(u8, Bytes)>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<Option<OwnedWriteHalf>>, Gone> {
    let mut writers = Vec::new();
    for (number, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(number * 2).unwrap_or(u8::MAX - 1);
        for channel in [channel, channel + 1] {
            sender.send(channel, Bytes::copy_from_slice(&port.to_le_bytes())).await?;
        }
        match target.dial(port).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                tasks.spawn(copy(reader, channel, to.clone()));
                writers.push(Some(writer));
            }
            Err(text) => {
                sender.send(channel + 1, Bytes::from(text)).await?;
                writers.push(None);
            }
        }
    }
    Ok(writers)
}

async fn copy(mut reader: OwnedReadHalf, channel: u8, to: mpsc::Sender<(u8, Bytes)>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match reader.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {
                if to.send((channel, buffer.split().freeze())).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_a_query() {
        let query = |list: &[&str]| {
            let query: Vec<_> = list.iter().map(|value| ("ports".into(), (*value).into())).collect();
            ports(&query).map_err(|refusal| refusal.1)
        };
        assert_eq!(query(&["80", "443"]), Ok(vec![80, 443]));
        assert_eq!(query(&["80,443"]), Ok(vec![80, 443]));
        for (wrong, text) in [
            (&[][..], "is required"),
            (&[""], "cannot be empty"),
            (&["0"], "must be > 0"),
            (&["http"], "unable to parse \"http\" as a port"),
            (&["65536"], "unable to parse"),
        ] {
            assert!(query(wrong).unwrap_err().contains(text), "{wrong:?}");
        }
    }
}
