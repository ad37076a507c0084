//! Name look-up for guests: the pod's name servers and search domains, from the pod's address.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use catamaran_task::spec::Resolvers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::Semaphore;

use super::dns::{self, Answer};

/// How long one server may take for one question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// Look-ups of one container at a time.
const AT_A_TIME: usize = 64;
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
    #[error("the name servers fail for {name}, with code {code}")]
    Failed { name: String, code: u8 },
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
    hosts: BTreeMap<String, Vec<IpAddr>>,
    source: Option<Ipv4Addr>,
    /// Look-ups of the container at a time; more wait.
    permits: Semaphore,
}

impl Resolver {
    /// `source`: the address questions are sent from; `None`: the kernel chooses.
    pub(crate) fn new(spec: &Resolvers, source: Option<Ipv4Addr>) -> Self {
        let servers = spec.nameservers.iter().map(|ip| SocketAddr::from((*ip, 53))).collect();
        let permits = Semaphore::new(AT_A_TIME);
        let (search, hosts) = (spec.search.clone(), spec.hosts.clone());
        Self { servers, search, ndots: spec.ndots, hosts, source, permits }
    }

    /// Addresses of a name or of an address in text form.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        if name.eq_ignore_ascii_case("localhost") {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        if let Some(known) = self.hosts.get(&name.trim_end_matches('.').to_ascii_lowercase()) {
            return Ok(known.clone());
        }
        if self.servers.is_empty() {
            return Err(LookupError::NoServers);
        }
        // Each has a socket, of which the host has only so many for all. It is never closed.
        let _permit = self.permits.acquire().await;
        let mut failure = None;
        for candidate in dns::candidates(name, &self.search, self.ndots) {
            match self.ask(&candidate).await {
                Ok(found) if !found.is_empty() => return Ok(found.into_iter().map(IpAddr::V4).collect()),
                Ok(_) => {}
                // With a search domain it is too long; without, it may be fine.
                Err(LookupError::Invalid(_)) if candidate != name => {}
                // A server that cannot tell about one domain may know the next.
                Err(error @ LookupError::Failed { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| LookupError::NoSuchName(name.to_owned())))
    }

    /// One absolute name; empty: it does not exist or has no address.
    async fn ask(&self, name: &str) -> Result<Vec<Ipv4Addr>, LookupError> {
        let (mut last, mut refusal) = (None, None);
        for _ in 0..ROUNDS {
            for server in &self.servers {
                let id = random_id();
                let question = dns::question(id, name).map_err(|_| LookupError::Invalid(name.to_owned()))?;
                let asked = tokio::time::timeout(PATIENCE, self.exchange(*server, id, &question)).await;
                match asked {
                    Ok(Ok(Answer::Addresses(addresses))) => return Ok(addresses),
                    Ok(Ok(Answer::NoSuchName)) => return Ok(Vec::new()),
                    Ok(Ok(Answer::Truncated)) => last = Some(io::Error::other("truncated over TCP")),
                    Ok(Ok(Answer::Failed(code))) => refusal = Some(code),
                    Ok(Err(e)) => last = Some(e),
                    Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
                }
            }
        }
        let name = name.to_owned();
        Err(match refusal {
            Some(code) => LookupError::Failed { name, code },
            None => LookupError::NoAnswer { name, source: last },
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A name server that fails for names below `bad.`, knows `good.` and nothing else.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let mut reply = packet[..length].to_vec();
                let asks = |label: &[u8]| reply[12..].windows(label.len()).any(|part| part == label);
                let (bad, good) = (asks(b"\x03bad"), asks(b"\x04good"));
                reply[2] |= 0x80;
                if bad {
                    reply[3] = 2;
                } else if good {
                    reply[7] = 1;
                    reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
                } else {
                    reply[3] = 3;
                }
                let _ = socket.send_to(&reply, peer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_need_no_server() {
        let hosts = BTreeMap::from([("db.example".to_owned(), vec![IpAddr::from([192, 0, 2, 7])])]);
        let resolver = Resolver::new(&Resolvers { hosts, ..Resolvers::default() }, None);
        for name in ["db.example", "DB.example."] {
            assert_eq!(resolver.lookup(name).await.unwrap(), [IpAddr::from([192, 0, 2, 7])], "{name}");
        }
        assert!(matches!(resolver.lookup("other").await, Err(LookupError::NoServers)));
    }

    #[tokio::test]
    async fn a_domain_that_fails_does_not_hide_the_next() {
        let servers = vec![server().await];
        let resolver = |search: &[&str]| Resolver {
            servers: servers.clone(),
            search: search.iter().map(|domain| (*domain).to_owned()).collect(),
            ndots: 5,
            hosts: BTreeMap::new(),
            source: None,
            permits: Semaphore::new(1),
        };
        let found = vec![IpAddr::from([192, 0, 2, 1])];
        assert_eq!(resolver(&["bad", "good"]).lookup("web").await.unwrap(), found);
        let long = format!("{}.good", ["x"; 120].join("."));
        assert_eq!(resolver(&[&"y.".repeat(60)]).lookup(&long).await.unwrap(), found);
        let failed = resolver(&["bad", "none"]).lookup("web").await;
        assert!(matches!(failed, Err(LookupError::Failed { code: 2, .. })), "{failed:?}");
        let absent = resolver(&["none"]).lookup("web").await;
        assert!(matches!(absent, Err(LookupError::NoSuchName(_))), "{absent:?}");
        assert!(matches!(resolver(&[]).lookup("a b").await, Err(LookupError::Invalid(_))));
    }
}
