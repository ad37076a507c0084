//! Names outside the cluster: asked of the host's own servers.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::answer::Transport;
use crate::ipam::Cidr;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many servers are asked, the first ones again if there are fewer.
const TRIES: usize = 3;
/// How often it is looked whether the host's configuration changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const HEADER: usize = 12;
/// In the third byte of a message.
const TRUNCATED: u8 = 2;

/// Where names outside the cluster are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// The `nameserver` lines of a file in the form of `resolv.conf(5)`, read again when it changes.
    ResolvConf(PathBuf),
    /// These servers.
    Servers(Vec<SocketAddr>),
}

/// Asks upstream servers.
pub(super) struct Forwarder {
    upstreams: Upstreams,
    /// Addresses of our own, and those of the cluster, one of which leads here: asking ourselves would go round
    /// in circles.
    own: Vec<IpAddr>,
    cluster: [Cidr; 2],
    read: Mutex<Option<Read>>,
    /// Position of the server that answered last: one that is down is not waited for with every query.
    preferred: AtomicUsize,
}

struct Read {
    at: Instant,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams, own: Vec<IpAddr>, cluster: [Cidr; 2]) -> Self {
        Self { upstreams, own, cluster, read: Mutex::new(None), preferred: AtomicUsize::new(0) }
    }

    /// The answer of the first server that gives one, with the id of the query. A server that says that it
    /// failed or refuses is believed only when the others know no better. `None`: nobody answered.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let servers = self.servers();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut refusal = None;
        for turn in first..first + TRIES.min(servers.len() * 2) {
            let at = turn % servers.len();
            let server = &servers[at];
            let attempt = async {
                match transport {
                    Transport::Udp => ask_udp(*server, query).await,
                    Transport::Tcp => ask_tcp(*server, query).await,
                }
            };
            match timeout(PATIENCE, attempt).await {
                Ok(Ok(answer)) if is_refusal(&answer) => refusal = Some(answer),
                Ok(Ok(answer)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream DNS server failed"),
                Err(_) => tracing::debug!(%server, "upstream DNS server did not answer"),
            }
        }
        refusal
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstreams {
            Upstreams::Servers(servers) => return servers.clone(),
            Upstreams::ResolvConf(path) => path,
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(read) = read.as_ref().filter(|read| now - read.at < LOOK_AGAIN) {
            return read.servers.clone();
        }
        let changed = fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let servers = match read.take() {
            Some(old) if old.changed == changed => old.servers,
            _ => self.read_file(path),
        };
        *read = Some(Read { at: now, changed, servers: servers.clone() });
        servers
    }

    fn leads_here(&self, address: IpAddr) -> bool {
        let in_cluster =
            matches!(address, IpAddr::V4(ip) if self.cluster.iter().any(|range| range.contains(ip)));
        in_cluster || self.own.contains(&address)
    }

    fn read_file(&self, path: &Path) -> Vec<SocketAddr> {
        let text = fs::read_to_string(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read the host's DNS configuration");
            String::new()
        });
        let mut servers = nameservers(&text);
        servers.retain(|server| !self.leads_here(server.ip()));
        if servers.is_empty() {
            tracing::warn!(
                path = %path.display(),
                "no DNS server outside the cluster is named here: names outside the cluster will not be found"
            );
        }
        servers
    }
}

/// The answer says that the server failed (2), cannot (4) or will not (5).
fn is_refusal(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| matches!(flags & 0xf, 2 | 4 | 5))
}

/// The servers that a `resolv.conf` names.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53))
    };
    text.lines().filter_map(address).collect()
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A fresh port and a fresh id for every query: an answer cannot be guessed by others.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let query = with_id(query, rand::random())?;
    socket.send(&query.sent).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(mut answer) = query.accept(&buffer[..length]) {
            // More than fits: cut off by us, so the client asks again by TCP.
            if length == buffer.len() {
                answer[2] |= TRUNCATED;
            }
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let query = with_id(query, rand::random())?;
    let length = u16::try_from(query.sent.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query.sent[..]].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    query.accept(&answer).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// A query as it is sent, and how to know its answer.
struct Asked {
    sent: Vec<u8>,
    original_id: [u8; 2],
    question: std::ops::Range<usize>,
}

fn with_id(query: &[u8], id: u16) -> io::Result<Asked> {
    let end = question_end(query).ok_or_else(|| io::Error::other("the query has no question"))?;
    let mut sent = query.to_vec();
    let original_id = [sent[0], sent[1]];
    sent[..2].copy_from_slice(&id.to_be_bytes());
    Ok(Asked { sent, original_id, question: HEADER..end })
}

impl Asked {
    /// The answer with the client's id, if it is one to this query.
    fn accept(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let same_id = answer.get(..2)? == &self.sent[..2];
        let is_answer = answer.get(2)? & 0x80 != 0;
        let question = answer.get(self.question.clone());
        // A server that cannot read the query may leave the question out.
        let same_question = question
            .is_some_and(|q| q.eq_ignore_ascii_case(&self.sent[self.question.clone()]))
            || answer.get(4..6)? == [0, 0];
        (same_id && is_answer && same_question).then(|| {
            let mut answer = answer.to_vec();
            answer[..2].copy_from_slice(&self.original_id);
            answer
        })
    }
}

/// Where the first question ends.
fn question_end(query: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1 + length;
        match length {
            0 => break,
            64.. => return None,
            _ => {}
        }
    }
    (at + 4 <= query.len()).then_some(at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let text =
            "# nameserver 9.9.9.9\nnameserver 10.0.0.2\nsearch a b\n nameserver fd00::1 # x\nnameserver ?\n";
        let servers: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fd00::1]:53"]);
    }

    #[test]
    fn servers_that_lead_back_here_are_not_asked() {
        let ranges = ["10.128.0.0/10", "10.96.0.0/16"].map(|text| text.parse().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(
            &path,
            "nameserver 10.96.0.10\nnameserver 10.128.0.1\nnameserver 192.0.2.5\nnameserver 192.0.2.1\n",
        )
        .unwrap();
        let own = vec!["192.0.2.5".parse().unwrap()];
        let forwarder = Forwarder::new(Upstreams::ResolvConf(path), own, ranges);
        assert_eq!(forwarder.servers(), ["192.0.2.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_server_that_fails_is_passed_over_and_the_one_that_knows_is_kept() {
        let servers =
            [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
        let addresses = servers.iter().map(|server| server.local_addr().unwrap()).collect();
        let asked = std::sync::Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        for (at, (server, code)) in servers.into_iter().zip([2_u8, 3]).enumerate() {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                while let Ok((length, peer)) = server.recv_from(&mut buffer).await {
                    asked[at].fetch_add(1, Ordering::SeqCst);
                    buffer[2] |= 0x80;
                    buffer[3] = code;
                    let _ = server.send_to(&buffer[..length], peer).await;
                }
            });
        }
        let ranges = ["10.128.0.0/10", "10.96.0.0/16"].map(|text| text.parse().unwrap());
        let forwarder = Forwarder::new(Upstreams::Servers(addresses), Vec::new(), ranges);
        let query = [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\0", &[0, 1, 0, 1]].concat();
        for _ in 0..3 {
            let answer = forwarder.ask(&query, Transport::Udp).await.unwrap();
            assert_eq!((answer[3] & 0xf, &answer[..2]), (3, &[1, 2][..]));
        }
        let counts = [0, 1].map(|at: usize| asked[at].load(Ordering::SeqCst));
        assert_eq!(counts, [1, 3]);
        // Nobody knows better: the refusal is passed on.
        let only = Forwarder::new(Upstreams::Servers(forwarder.servers()[..1].to_vec()), Vec::new(), ranges);
        assert_eq!(only.ask(&query, Transport::Udp).await.map(|answer| answer[3] & 0xf), Some(2));
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x02bc\0", &[0, 1, 0, 1]].concat();
        let asked = with_id(&query, 0x0908).unwrap();
        let mut answer = asked.sent.clone();
        assert_eq!(asked.accept(&answer), None, "a query is no answer");
        answer[2] |= 0x80;
        let upper: Vec<u8> = answer.iter().map(u8::to_ascii_uppercase).collect();
        assert_eq!(asked.accept(&upper).map(|a| a[..2].to_vec()), Some(vec![1, 2]));
        answer[13] = b'x';
        assert_eq!(asked.accept(&answer), None, "another name");
        answer[13] = b'a';
        answer[0] = 7;
        assert_eq!(asked.accept(&answer), None, "another id");
        assert!(with_id(&query[..14], 1).is_err());
    }
}
