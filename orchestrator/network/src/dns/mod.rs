//! The cluster's DNS server: names of Services and pods from memory, all others from the host's servers.

mod answer;
mod forward;
mod serve;
mod table;

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use futures::future::BoxFuture;
use hickory_proto::rr::Name;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use tokio::task::JoinSet;

use forward::Forwarder;
pub use forward::Upstreams;
use serve::Server;
use table::Entry;

use crate::ipam::Cidr;
use crate::observe::Follower;

/// How the DNS server is to be.
pub struct DnsConfig {
    /// The API, for Services and EndpointSlices.
    pub client: kube::Client,
    /// Where queries come in.
    pub sockets: DnsSockets,
    /// Domain of the cluster without closing dot: `cluster.local`.
    pub domain: String,
    /// Addresses of pods: their names and reverse names are ours.
    pub pod_range: Cidr,
    /// ClusterIPs: their reverse names are ours.
    pub service_range: Cidr,
    /// Who knows all other names.
    pub upstreams: Upstreams,
}

/// Why the DNS server cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("cannot listen for DNS queries on {address}")]
    Listen {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over cannot be used.
    #[error("cannot use a socket for DNS queries")]
    Socket(#[source] io::Error),
    /// The domain is no DNS name.
    #[error("{domain:?} is no DNS domain; the usual one is cluster.local")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        #[source]
        source: hickory_proto::ProtoError,
    },
}

/// Sockets of the DNS server. Whoever starts it may make them and pass them on: queries then wait in them
/// while the server is started anew.
#[derive(Debug, Default)]
pub struct DnsSockets {
    /// For queries in datagrams.
    pub udp: Vec<UdpSocket>,
    /// For queries in streams.
    pub tcp: Vec<TcpListener>,
}

/// Sockets that can be handed over at a time.
const MOST_SOCKETS: usize = 16;
/// Room for queries that wait, about two thousand.
const RECEIVE_BUFFER: usize = 2 << 20;

impl DnsSockets {
    /// Makes sockets for both transports on each address, which need not exist yet.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, DnsError> {
        let mut sockets = Self::default();
        for address in addresses {
            let fail =
                |errno: rustix::io::Errno| DnsError::Listen { address: *address, source: errno.into() };
            let open = |kind| {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
                if address.is_ipv4() {
                    sockopt::set_ip_freebind(&fd, true)?;
                } else {
                    sockopt::set_ipv6_freebind(&fd, true)?;
                }
                if kind == SocketType::STREAM {
                    sockopt::set_socket_reuseaddr(&fd, true)?;
                }
                net::bind(&fd, address)?;
                Ok(fd)
            };
            let udp = open(SocketType::DGRAM).map_err(fail)?;
            // A smaller buffer works too.
            let _ = sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER);
            let tcp = open(SocketType::STREAM).map_err(fail)?;
            net::listen(&tcp, 1024).map_err(fail)?;
            sockets.udp.push(udp.into());
            sockets.tcp.push(tcp.into());
        }
        Ok(sockets)
    }

    /// Hands copies to another process over a connected unix socket (`SCM_RIGHTS`). The supervisor does this
    /// for every new server process; its own copies keep the queries that come meanwhile.
    pub fn send(&self, over: BorrowedFd<'_>) -> Result<(), DnsError> {
        let fds: Vec<_> = self.udp.iter().map(AsFd::as_fd).chain(self.tcp.iter().map(AsFd::as_fd)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if fds.len() > MOST_SOCKETS || !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(DnsError::Socket(io::Error::other("more sockets than fit into one message")));
        }
        let count = [u8::try_from(self.udp.len()).unwrap_or(0)];
        net::sendmsg(over, &[IoSlice::new(&count)], &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|errno| DnsError::Socket(errno.into()))
    }

    /// Takes what [`Self::send`] hands over, for example over standard input.
    pub fn receive(over: BorrowedFd<'_>) -> Result<Self, DnsError> {
        let fail = |errno: rustix::io::Errno| DnsError::Socket(errno.into());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut count = [0];
        net::recvmsg(over, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(fail)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if fds.is_empty() {
            return Err(DnsError::Socket(io::ErrorKind::UnexpectedEof.into()));
        }
        let tcp = fds.split_off(usize::from(count[0]).min(fds.len()));
        let udp = fds.into_iter().map(UdpSocket::from).collect();
        Ok(Self { udp, tcp: tcp.into_iter().map(TcpListener::from).collect() })
    }
}

/// Answers queries until `stop` ends. Queries for names of the cluster wait until the API was read once;
/// afterwards they are answered whether or not the API can be reached.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run_dns(
    config: DnsConfig,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<(), DnsError>> {
    boxed(config, Box::pin(stop))
}

fn boxed(config: DnsConfig, stop: BoxFuture<'static, ()>) -> BoxFuture<'static, Result<(), DnsError>> {
    Box::pin(answer_all(config, stop))
}

async fn answer_all(config: DnsConfig, mut stop: BoxFuture<'static, ()>) -> Result<(), DnsError> {
    let mut domain = Name::from_ascii(&config.domain)
        .map_err(|source| DnsError::Domain { domain: config.domain.clone(), source })?
        .to_lowercase();
    domain.set_fqdn(true);
    let zone = answer::Zone { domain, ranges: [config.pod_range, config.service_range] };
    let own = config.sockets.udp.iter().filter_map(|socket| socket.local_addr().ok());
    let own = own.map(|address| address.ip()).collect();
    let server = Arc::new(Server::new(
        zone,
        Forwarder::new(config.upstreams, own, [config.pod_range, config.service_range]),
    ));
    let mut loops = JoinSet::new();
    for socket in config.sockets.udp {
        socket.set_nonblocking(true).map_err(DnsError::Socket)?;
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(DnsError::Socket)?;
        loops.spawn(serve::datagrams(Arc::clone(&server), Arc::new(socket)));
    }
    for listener in config.sockets.tcp {
        listener.set_nonblocking(true).map_err(DnsError::Socket)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(DnsError::Socket)?;
        loops.spawn(serve::streams(Arc::clone(&server), listener));
    }
    let mut follower = Follower::new(&config.client);
    loop {
        let round = tokio::select! {
            () = &mut stop => break,
            round = follower.next() => round,
        };
        let Some(round) = round else { break };
        let _span = tracing::debug_span!("dns", changed = round.changed.len()).entered();
        let objects = follower.objects();
        server.update(round.changed.into_iter().map(|name| {
            let entry = objects.service(&name).map(|s| Entry::read(s, objects.slices(&name)));
            (name, entry)
        }));
    }
    loops.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests;
