//! Queries in, answers out, over UDP and TCP.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::answer::{Response, Transport, Zone, encode, reply_to, respond};
use super::forward::Forwarder;
use super::table::{Entry, Table};
use crate::model::Name;

/// Queries that may wait for upstream servers at the same time.
const WAITING: usize = 1024;
/// Streams that may be open at the same time.
const STREAMS: usize = 256;
/// A stream without a query for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Aliases in a row that are followed.
const MOST_ALIASES: usize = 8;
/// How long a query for a name of the cluster waits for the first reading of the API.
const FIRST_READING: Duration = Duration::from_secs(4);

/// The state that all sockets share.
pub(super) struct Server {
    zone: Zone,
    table: RwLock<Table>,
    read: watch::Sender<bool>,
    forwarder: Forwarder,
    waiting: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    turn: AtomicUsize,
}

impl Server {
    pub(super) fn new(zone: Zone, forwarder: Forwarder) -> Self {
        Self {
            zone,
            table: RwLock::default(),
            read: watch::Sender::new(false),
            forwarder,
            waiting: Arc::new(Semaphore::new(WAITING)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes over what changed.
    pub(super) fn update(&self, changes: impl Iterator<Item = (Name, Option<Entry>)>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        changes.for_each(|(name, entry)| table.set(&name, entry));
        drop(table);
        self.read.send_if_modified(|read| !std::mem::replace(read, true));
    }

    fn respond(&self, request: &Message) -> Response {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        respond(&self.zone, &table, request, turn)
    }

    /// The answer if it needs no waiting.
    fn at_once(&self, request: &Message, transport: Transport) -> Option<Vec<u8>> {
        match self.respond(request) {
            Response::Reply(reply) if *self.read.borrow() => Some(encode(reply, request, transport)),
            Response::Reply(_) | Response::Forward | Response::Follow(..) => None,
        }
    }

    /// The answer however long it takes.
    async fn answer(&self, bytes: &[u8], request: &Message, transport: Transport) -> Vec<u8> {
        let failure = |code| {
            let mut reply = reply_to(request);
            reply.metadata.response_code = code;
            encode(reply, request, transport)
        };
        if let Response::Forward = self.respond(request) {
            let answer = self.forwarder.ask(bytes, transport).await;
            return answer.unwrap_or_else(|| failure(ResponseCode::ServFail));
        }
        let mut read = self.read.subscribe();
        if !matches!(timeout(FIRST_READING, read.wait_for(|read| *read)).await, Ok(Ok(_))) {
            return failure(ResponseCode::ServFail);
        }
        match self.respond(request) {
            Response::Reply(reply) => encode(reply, request, transport),
            Response::Follow(mut reply, target) => {
                self.follow(&mut reply, request, target, transport).await;
                encode(reply, request, transport)
            }
            Response::Forward => failure(ResponseCode::ServFail),
        }
    }

    /// Adds the addresses of the name that a Service of type ExternalName points to, which may be such a
    /// Service again. Clients do not go on by themselves.
    async fn follow(
        &self,
        reply: &mut Message,
        request: &Message,
        mut target: hickory_proto::rr::Name,
        transport: Transport,
    ) {
        let mut question = request.clone();
        for _ in 0..MOST_ALIASES {
            question.queries.iter_mut().for_each(|query| query.name = target.clone());
            let answer = match self.respond(&question) {
                Response::Reply(answer) => Some(answer),
                Response::Follow(answer, next) => {
                    reply.answers.extend(answer.answers);
                    target = next;
                    continue;
                }
                Response::Forward => self.forward(&question, transport).await,
            };
            match answer {
                Some(answer) => {
                    reply.metadata.response_code = answer.metadata.response_code;
                    reply.metadata.truncation |= answer.metadata.truncation;
                    reply.answers.extend(answer.answers);
                    reply.authorities.extend(answer.authorities);
                }
                None => reply.metadata.response_code = ResponseCode::ServFail,
            }
            return;
        }
        tracing::warn!(name = ?request.queries.first().map(|q| q.name.to_ascii()), "Services of type ExternalName go round in circles");
        reply.answers.clear();
        reply.metadata.response_code = ResponseCode::ServFail;
    }

    async fn forward(&self, question: &Message, transport: Transport) -> Option<Message> {
        let bytes = self.forwarder.ask(&question.to_vec().ok()?, transport).await?;
        Message::from_vec(&bytes).ok()
    }
}

/// A query, or nothing where the bytes are none: such senders get no answer that could be sent on to others.
fn read(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok().filter(|message| message.metadata.message_type == MessageType::Query)
}

/// Serves one UDP socket. Names of the cluster are answered in turn, without any waiting between.
pub(super) async fn datagrams(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer met a closed port; the socket itself is fine.
                tracing::debug!(%error, "DNS query could not be received");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let Some(request) = read(&buffer[..length]) else { continue };
        match server.at_once(&request, Transport::Udp) {
            Some(answer) => send(&socket, &answer, peer).await,
            None => later(&server, &socket, buffer[..length].to_vec(), request, peer).await,
        }
    }
}

async fn later(
    server: &Arc<Server>,
    socket: &Arc<UdpSocket>,
    bytes: Vec<u8>,
    request: Message,
    peer: SocketAddr,
) {
    let Ok(permit) = Arc::clone(&server.waiting).try_acquire_owned() else {
        let mut reply = reply_to(&request);
        reply.metadata.response_code = ResponseCode::ServFail;
        return send(socket, &encode(reply, &request, Transport::Udp), peer).await;
    };
    let (server, socket) = (Arc::clone(server), Arc::clone(socket));
    tokio::spawn(async move {
        let answer = server.answer(&bytes, &request, Transport::Udp).await;
        send(&socket, &answer, peer).await;
        drop(permit);
    });
}

async fn send(socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(answer, peer).await {
        tracing::debug!(%peer, %error, "DNS answer could not be sent");
    }
}

/// Serves one TCP listener.
pub(super) async fn streams(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok(permit) = Arc::clone(&server.streams).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    if let Err(error) = serve_stream(&server, stream).await {
                        tracing::debug!(%peer, %error, "DNS stream ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "DNS stream could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_stream(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let Ok(length) = timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
        let length = match length {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let mut bytes = vec![0; usize::from(length)];
        if !matches!(timeout(IDLE, stream.read_exact(&mut bytes)).await, Ok(Ok(_))) {
            return Ok(());
        }
        let Some(request) = read(&bytes) else { return Ok(()) };
        let answer = match server.at_once(&request, Transport::Tcp) {
            Some(answer) => answer,
            None => server.answer(&bytes, &request, Transport::Tcp).await,
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        // Whoever does not read its answers must not keep a place among the streams.
        let answer = [&length.to_be_bytes()[..], &answer[..]].concat();
        timeout(IDLE, stream.write_all(&answer)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    }
}
