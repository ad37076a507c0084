//! For tests: the endpoint on a socket without TLS, and a client that speaks its protocols by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::context::Context;
use crate::record::{ContainerRecord, PodRecord, Sandbox};
use crate::runtime::{Place, ShimKey};
use crate::spdy::{Decoder, Encoder, Frame, Headers};
use crate::testing::Bench;

/// An agent whose endpoint serves the pod `web` of the namespace `shop`: it has the address 127.0.0.1, a container
/// `c` and one of wasm, `w`.
pub(super) struct Endpoint {
    pub(super) bench: Bench,
    pub(super) address: SocketAddr,
}

/// An upgraded connection.
pub(super) struct Connection {
    io: TcpStream,
    /// What came after the answer.
    buffer: BytesMut,
}

/// SPDY, directly or inside of WebSocket messages.
pub(super) struct SpdyClient {
    io: SpdyTransport,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
    newest: u32,
}

enum SpdyTransport {
    Plain(TcpStream),
    Tunnel(Box<WebSocketStream<TcpStream>>),
}

fn pod() -> Pod {
    let containers = json!([
        {"name": "c", "stdin": true, "stdinOnce": true},
        {"name": "w", "stdin": true, "stdinOnce": true, "tty": true},
    ]);
    let metadata = json!({"name": "web", "namespace": "shop", "uid": "u1"});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": containers}})).unwrap()
}

pub(super) fn record() -> PodRecord {
    let container = |shim| ContainerRecord {
        attempt: 0,
        shim,
        image: String::new(),
        image_id: String::new(),
        created: true,
        finished: None,
        last: None,
        crashes: 0,
    };
    let domain = "shop".to_owned();
    let place = Place::Shared { domain: domain.clone() };
    PodRecord {
        sandbox: Some(Sandbox { place, ip: Ipv4Addr::LOCALHOST, netns: None }),
        containers: [("c".into(), container(ShimKey::Oci)), ("w".into(), container(ShimKey::Shared(domain)))]
            .into(),
        ..PodRecord::default()
    }
}

// === impl ===

impl Endpoint {
    pub(super) async fn start() -> Self {
        let mut bench = Bench::new().await;
        let context = bench.agent();
        let wasm_host = context.shims.pretend_running(&ShimKey::Shared("shop".into()));
        let (shim, socket) = (bench.shim.clone(), wasm_host.clone());
        tokio::spawn(async move {
            let serving =
                catamaran_task::server::serve(&wasm_host, shim, Arc::default(), std::future::pending::<()>());
            serving.await.unwrap();
        });
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        bench.shim.pretend_running("u1_c_0");
        bench.shim.pretend_running("u1_w_0");
        context.roster.put(Arc::new(pod()));
        record().save(&context.paths.pod("u1").record()).unwrap();
        Self::of(bench, context).await
    }

    /// The endpoint of an agent.
    pub(super) async fn of(bench: Bench, context: Arc<Context>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, super::router(context)).into_future());
        Endpoint { bench, address }
    }

    /// Sends a request; the status line and headers of the answer, and the connection.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (String, Connection) {
        let mut io = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n");
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        io.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut buffer = BytesMut::new();
        loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(buffer.split_to(end + 4).to_vec()).unwrap();
                return (head, Connection { io, buffer });
            }
            assert_ne!(io.read_buf(&mut buffer).await.unwrap(), 0, "{buffer:?}");
        }
    }

    /// Switches to SPDY.
    pub(super) async fn spdy(&self, path: &str, protocols: &[&str]) -> SpdyClient {
        let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
        headers.extend(protocols.iter().map(|protocol| ("X-Stream-Protocol-Version", *protocol)));
        let (head, connection) = self.ask("POST", path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        SpdyClient::new(SpdyTransport::Plain(connection.io), connection.buffer)
    }

    /// Switches to WebSocket.
    pub(super) async fn websocket(&self, path: &str, protocol: &str) -> WebSocketStream<TcpStream> {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", protocol),
        ];
        let (head, Connection { io, buffer }) = self.ask("GET", path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        WebSocketStream::from_partially_read(io, buffer.to_vec(), Role::Client, None).await
    }

    /// Switches to SPDY inside of WebSocket.
    pub(super) async fn tunnel(&self, path: &str) -> SpdyClient {
        let socket = self.websocket(path, "SPDY/3.1+portforward.k8s.io").await;
        SpdyClient::new(SpdyTransport::Tunnel(Box::new(socket)), BytesMut::new())
    }
}

impl Connection {
    /// The rest of the answer, of a known length.
    pub(super) async fn body(mut self, head: &str) -> String {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let length: usize = length.parse().unwrap();
        while self.buffer.len() < length {
            assert_ne!(self.io.read_buf(&mut self.buffer).await.unwrap(), 0);
        }
        String::from_utf8(self.buffer.to_vec()).unwrap()
    }

    /// The body as JSON.
    pub(super) async fn json(self, head: &str) -> Value {
        serde_json::from_str(&self.body(head).await).unwrap()
    }
}

impl SpdyClient {
    fn new(io: SpdyTransport, buffer: BytesMut) -> Self {
        SpdyClient { io, encoder: Encoder::new(), decoder: Decoder::new(), buffer, newest: 0 }
    }

    pub(super) async fn send(&mut self, frame: &Frame) {
        let mut out = Vec::new();
        self.encoder.write(frame, &mut out);
        match &mut self.io {
            SpdyTransport::Plain(io) => io.write_all(&out).await.unwrap(),
            SpdyTransport::Tunnel(socket) => {
                // Messages of a tunnel are cut anywhere.
                let (first, second) = out.split_at(out.len() / 2);
                for piece in [first, second] {
                    socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
                }
            }
        }
    }

    /// Opens a stream; its number.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = if self.newest == 0 { 1 } else { self.newest + 2 };
        self.newest = stream;
        let headers =
            headers.iter().fold(Headers::default(), |headers, (name, value)| headers.with(name, value));
        self.send(&Frame::SynStream { stream, fin: false, headers }).await;
        stream
    }

    /// Opens the two streams of a forwarded connection: data, error.
    pub(super) async fn pair(&mut self, port: u16, request: &str) -> (u32, u32) {
        let port = port.to_string();
        let mut numbers = [0; 2];
        for (number, kind) in numbers.iter_mut().zip(["error", "data"]) {
            *number = self.open(&[("streamType", kind), ("port", &port), ("requestID", request)]).await;
        }
        (numbers[1], numbers[0])
    }

    pub(super) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        self.send(&Frame::Data { stream, fin, data: Bytes::copy_from_slice(data) }).await;
    }

    /// The next frame that is not a ping; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next(&mut self.buffer).unwrap() {
                Some(Frame::Ping(_)) => continue,
                Some(frame) => return Some(frame),
                None => {}
            }
            match &mut self.io {
                SpdyTransport::Plain(io) => {
                    if io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                        return None;
                    }
                }
                SpdyTransport::Tunnel(socket) => match socket.next().await {
                    Some(Ok(Message::Binary(piece))) => self.buffer.extend_from_slice(&piece),
                    Some(Ok(Message::Close(_))) | None => return None,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => panic!("{error}"),
                },
            }
        }
    }

    /// Everything that is said on a stream, up to its end; what comes on others is dropped.
    pub(super) async fn all_of(&mut self, wanted: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await.expect("the stream ends before the connection") {
                Frame::Data { stream, fin, data } if stream == wanted => {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
                Frame::RstStream { stream, why } if stream == wanted => panic!("reset: {why:?}"),
                _ => {}
            }
        }
    }

    /// What is said on each stream up to the good-bye, which comes after the end of each.
    pub(super) async fn everything(&mut self) -> BTreeMap<u32, Vec<u8>> {
        let mut said = BTreeMap::<u32, Vec<u8>>::new();
        let mut ended = BTreeSet::new();
        loop {
            match self.next().await.expect("there is a good-bye") {
                Frame::Data { stream, fin, data } => {
                    said.entry(stream).or_default().extend_from_slice(&data);
                    if fin {
                        ended.insert(stream);
                    }
                }
                Frame::GoAway { .. } => {
                    assert!(said.keys().all(|stream| ended.contains(stream)), "{ended:?}");
                    return said;
                }
                _ => {}
            }
        }
    }
}
