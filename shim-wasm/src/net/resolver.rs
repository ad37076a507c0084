//! Name look-up for guests: the pod's name servers and search domains, from the pod's address.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use catamaran_task::spec::Resolvers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

use super::dns::{self, Answer};

/// How long one server may take for one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// A UDP answer is not longer.
const MAX_DATAGRAM: usize = 4096;

/// Why a name was not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("{0} is not a host name")]
    Invalid(String),
    #[error("no such name: {0}")]
    NoSuchName(String),
    #[error("the pod has no name server")]
    NoServers,
    #[error("no name server answered for {name}")]
    NoAnswer {
        name: String,
        #[source]
        source: Option<io::Error>,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: u8,
    source: Option<Ipv4Addr>,
}

impl Resolver {
    /// `source`: the address questions are sent from; `None`: the kernel chooses.
    pub(crate) fn new(spec: &Resolvers, source: Option<Ipv4Addr>) -> Self {
        let servers = spec.nameservers.iter().map(|ip| SocketAddr::from((*ip, 53))).collect();
        Self { servers, search: spec.search.clone(), ndots: spec.ndots, source }
    }

    /// Addresses of a name or of an address in text form.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        if name.eq_ignore_ascii_case("localhost") {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        if self.servers.is_empty() {
            return Err(LookupError::NoServers);
        }
        for candidate in dns::candidates(name, &self.search, self.ndots) {
            match self.ask(&candidate).await? {
                found if !found.is_empty() => return Ok(found.into_iter().map(IpAddr::V4).collect()),
                _ => {}
            }
        }
        Err(LookupError::NoSuchName(name.to_owned()))
    }

    /// One absolute name; empty: it does not exist or has no address.
    async fn ask(&self, name: &str) -> Result<Vec<Ipv4Addr>, LookupError> {
        let mut last = None;
        for _ in 0..ROUNDS {
            for server in &self.servers {
                let id = random_id();
                let question = dns::question(id, name).map_err(|_| LookupError::Invalid(name.to_owned()))?;
                let asked = tokio::time::timeout(PATIENCE, self.exchange(*server, id, &question)).await;
                match asked {
                    Ok(Ok(Answer::Addresses(addresses))) => return Ok(addresses),
                    Ok(Ok(Answer::NoSuchName)) => return Ok(Vec::new()),
                    Ok(Ok(Answer::Truncated)) => last = Some(io::Error::other("truncated over TCP")),
                    Ok(Ok(Answer::Failed(code))) => {
                        last = Some(io::Error::other(format!("server failure {code}")))
                    }
                    Ok(Err(e)) => last = Some(e),
                    Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
                }
            }
        }
        Err(LookupError::NoAnswer { name: name.to_owned(), source: last })
    }

    async fn exchange(&self, server: SocketAddr, id: u16, question: &[u8]) -> io::Result<Answer> {
        let source = SocketAddr::from((self.source.unwrap_or(Ipv4Addr::UNSPECIFIED), 0));
        let socket = UdpSocket::bind(source).await?;
        socket.connect(server).await?;
        socket.send(question).await?;
        let mut packet = vec![0; MAX_DATAGRAM];
        let answer = loop {
            let length = socket.recv(&mut packet).await?;
            // A packet that does not belong here may be forged: the right one may still come.
            if let Ok(answer) = dns::answer(id, &packet[..length]) {
                break answer;
            }
        };
        if answer == Answer::Truncated {
            self.exchange_tcp(server, source, id, question).await
        } else {
            Ok(answer)
        }
    }

    async fn exchange_tcp(
        &self,
        server: SocketAddr,
        source: SocketAddr,
        id: u16,
        question: &[u8],
    ) -> io::Result<Answer> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(source)?;
        let mut stream = socket.connect(server).await?;
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
        let mut packet = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut packet).await?;
        dns::answer(id, &packet).map_err(io::Error::other)
    }
}

/// Hard to guess: the standard library keys each hasher from the system's random source.
fn random_id() -> u16 {
    let hash = std::hash::RandomState::new().build_hasher().finish();
    u16::from_le_bytes([hash.to_le_bytes()[0], hash.to_le_bytes()[5]])
}
