//! `/portForward/NAMESPACE/POD?ports=…` over numbered channels: channel 2i carries the data of the i-th port, 2i + 1
//! its errors; the first message of each is the port, two bytes, little endian.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channels::{Incoming, Receiver, Sender, Version, upgrade};
use super::{Refusal, find_pod};
use crate::context::Context;

/// Pieces that wait for a slow client.
const WAITING: usize = 32;
/// More ports have no channel.
const MOST_PORTS: usize = 127;

pub(super) async fn serve(
    State(context): State<Arc<Context>>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let bad = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
    let ports =
        ports(&query).ok_or_else(|| bad("query parameter \"ports\" must be numbers from 1 to 65535"))?;
    if ports.is_empty() || ports.len() > MOST_PORTS {
        return Err(bad("query parameter \"ports\" is required"));
    }
    let (_, record) = find_pod(&context, &namespace, &pod)?;
    let ip = record.ip().filter(|_| !record.released).ok_or_else(|| bad("the pod is not running"))?;
    let addresses: Vec<SocketAddr> = ports.into_iter().map(|port| SocketAddr::from((ip, port))).collect();
    upgrade(request, &[Version::V4], move |_, sender, receiver| forward(addresses, sender, receiver))
}

/// `ports=80&ports=443` or `ports=80,443`.
fn ports(query: &[(String, String)]) -> Option<Vec<u16>> {
    let named = query.iter().filter(|(name, _)| name == "ports" || name == "port");
    let numbers = named.flat_map(|(_, value)| value.split(','));
    numbers.map(|number| number.trim().parse().ok().filter(|port| *port > 0)).collect()
}

async fn forward(addresses: Vec<SocketAddr>, mut sender: Sender, mut receiver: Receiver) {
    let (to, mut from) = mpsc::channel::<(u8, Bytes)>(WAITING);
    let mut tasks = JoinSet::new();
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let channel = u8::try_from(number * 2).unwrap_or(u8::MAX - 1);
        for channel in [channel, channel + 1] {
            if sender.send(channel, &address.port().to_le_bytes()).await.is_err() {
                return;
            }
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                tasks.spawn(copy(reader, channel, to.clone()));
                writers.push(Some(writer));
            }
            Err(error) => {
                let text = format!("failed to connect to port {}: {error}", address.port());
                if sender.send(channel + 1, text.as_bytes()).await.is_err() {
                    return;
                }
                writers.push(None);
            }
        }
    }
    drop(to);
    loop {
        tokio::select! {
            data = from.recv() => match data {
                Some((channel, data)) if sender.send(channel, &data).await.is_ok() => {}
                _ => break,
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
    sender.close().await;
}

async fn copy(mut reader: OwnedReadHalf, channel: u8, to: mpsc::Sender<(u8, Bytes)>) {
    let mut buffer = vec![0_u8; 32 << 10];
    while let Ok(read) = reader.read(&mut buffer).await {
        if read == 0 || to.send((channel, Bytes::copy_from_slice(&buffer[..read]))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_a_query() {
        let query = |list: &[&str]| {
            ports(&list.iter().map(|value| ("ports".into(), (*value).into())).collect::<Vec<_>>())
        };
        assert_eq!(query(&["80", "443"]), Some(vec![80, 443]));
        assert_eq!(query(&["80,443"]), Some(vec![80, 443]));
        assert_eq!(query(&[]), Some(vec![]));
        assert_eq!(query(&["0"]), None);
        assert_eq!(query(&["x"]), None);
    }
}
