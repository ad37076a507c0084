//! `/portForward/NAMESPACE/POD?ports=…` over numbered channels: channel 2i carries the data of the i-th port, 2i + 1
//! its errors; the first message of each is the port, two bytes, little endian.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::channels::{Incoming, Receiver, Sender, Version, upgrade};
use super::{Refusal, find_pod};
use crate::context::Context;
use crate::record::Sandbox;
use crate::runtime::Place;

/// Pieces that wait for a slow client.
const WAITING: usize = 32;
/// How long a port may take to answer.
const DIAL: Duration = Duration::from_secs(10);
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
    let sandbox = record.sandbox.filter(|_| !record.released).ok_or_else(|| bad("the pod is not running"))?;
    upgrade(request, &[Version::V4], move |_, sender, receiver| forward(sandbox, ports, sender, receiver))
}

/// `ports=80&ports=443` or `ports=80,443`.
fn ports(query: &[(String, String)]) -> Option<Vec<u16>> {
    let named = query.iter().filter(|(name, _)| name == "ports" || name == "port");
    let numbers = named.flat_map(|(_, value)| value.split(','));
    numbers.map(|number| number.trim().parse().ok().filter(|port| *port > 0)).collect()
}

/// Connects to a port of the pod: to its loopback address, as a program in the pod would, else to its own.
async fn dial(sandbox: &Sandbox, port: u16) -> io::Result<TcpStream> {
    let own = SocketAddr::from((sandbox.ip, port));
    let (Place::Own, Some(netns)) = (&sandbox.place, sandbox.netns.clone()) else {
        return TcpStream::connect(own).await;
    };
    // A thread of its own: it stays in the pod's namespace until it ends.
    let (to, from) = oneshot::channel::<io::Result<std::net::TcpStream>>();
    std::thread::Builder::new().name("port-forward".into()).spawn(move || {
        let connect = || {
            let netns = std::fs::File::open(netns)?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            let stream = std::net::TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), DIAL);
            let stream = stream.or_else(|_| std::net::TcpStream::connect_timeout(&own, DIAL))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // The client may have gone meanwhile.
        let _ = to.send(connect());
    })?;
    TcpStream::from_std(from.await.map_err(io::Error::other)??)
}

async fn forward(sandbox: Sandbox, ports: Vec<u16>, mut sender: Sender, mut receiver: Receiver) {
    let (to, mut from) = mpsc::channel::<(u8, Bytes)>(WAITING);
    let mut tasks = JoinSet::new();
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::new();
    for (number, port) in ports.into_iter().enumerate() {
        let channel = u8::try_from(number * 2).unwrap_or(u8::MAX - 1);
        for channel in [channel, channel + 1] {
            if sender.send(channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        match dial(&sandbox, port).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                tasks.spawn(copy(reader, channel, to.clone()));
                writers.push(Some(writer));
            }
            Err(error) => {
                let text = format!("failed to connect to port {port}: {error}");
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
