//! Sockets: listens on several addresses (also on ones that appear later), shakes hands beside the accept
//! loop, serves HTTP/1.1 with upgrades and HTTP/2, and ends gracefully.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::audit::Peer;
use crate::authenticate::{ConnectionUser, UserInfo};
use crate::body::{self, Body};

/// Connections at one time and listener; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// Streams in one HTTP/2 connection, as in Kubernetes.
const STREAMS: u32 = 250;
const BACKLOG: u32 = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// How long running requests may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}; choose another port, or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificate or key are unusable.
    #[error("the server's certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The certificate authority cannot verify clients.
    #[error("the client certificate authority cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Address and port; port 0 takes any.
    pub address: SocketAddr,
    /// Whether the address need not exist yet.
    pub binding: Binding,
}

/// Whether an address must exist when it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It must.
    Present,
    /// It may come later (`IP_FREEBIND`).
    Free,
}

impl Listen {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn open(&self) -> Result<TcpListener, ServeError> {
        let open = || -> io::Result<TcpListener> {
            let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            if self.binding == Binding::Free {
                if self.address.is_ipv4() {
                    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
                } else {
                    rustix::net::sockopt::set_ipv6_freebind(&socket, true)?;
                }
            }
            socket.bind(self.address)?;
            socket.listen(BACKLOG)
        };
        open().map_err(|source| ServeError::Listen { address: self.address, source })
    }
}

/// TLS with client certificates that are verified when given.
///
/// # Errors
/// When certificate, key or authority are unusable.
pub fn tls(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    authority: CertificateDer<'static>,
) -> Result<TlsAcceptor, ServeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(ServeError::Certificate)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(ServeError::Authority)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServeError::Certificate)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(ServeError::Certificate)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers requests of all connections.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// Several listeners with one handler, until told to stop.
pub(crate) struct Listeners<H> {
    handler: H,
    graceful: Arc<GracefulShutdown>,
    tasks: tokio::task::JoinSet<()>,
}

impl<H: Handler> Listeners<H> {
    pub(crate) fn new(handler: H) -> Self {
        Listeners { handler, graceful: Arc::new(GracefulShutdown::new()), tasks: tokio::task::JoinSet::new() }
    }

    /// Serves what comes in on `listener`, over TLS when there is an acceptor.
    pub(crate) fn add(&mut self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let accept = Acceptor {
            handler: self.handler.clone(),
            tls,
            graceful: self.graceful.clone(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        };
        self.tasks.spawn(accept.run(listener));
    }

    /// Accepts nothing more and lets running requests end, for a while.
    pub(crate) async fn stop(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        // The accept loops, now gone, held the other references.
        if let Some(graceful) = Arc::into_inner(self.graceful) {
            timeout(DRAIN, graceful.shutdown()).await.ok();
        }
    }
}

struct Acceptor<H> {
    handler: H,
    tls: Option<TlsAcceptor>,
    graceful: Arc<GracefulShutdown>,
    permits: Arc<Semaphore>,
}

impl<H: Handler> Acceptor<H> {
    async fn run(self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: closing connections helps, spinning does not.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (handler, tls, watcher) = (self.handler.clone(), self.tls.clone(), self.graceful.watcher());
            tokio::spawn(async move {
                connection(stream, handler, tls, watcher).await;
                drop(permit);
            });
        }
    }
}

async fn connection<H: Handler>(stream: TcpStream, handler: H, tls: Option<TlsAcceptor>, watcher: Watcher) {
    stream.set_nodelay(true).ok();
    let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
    let Some(tls) = tls else { return http(stream, handler, (ConnectionUser(None), peer), watcher).await };
    match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let user = ConnectionUser(certificate.and_then(UserInfo::from_certificate));
            http(stream, handler, (user, peer), watcher).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn http<H, S>(stream: S, handler: H, (user, peer): (ConnectionUser, Option<Peer>), watcher: Watcher)
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let handler = handler.clone();
        request.extensions_mut().insert(user.clone());
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        async move { Ok::<_, Infallible>(handler.handle(request.map(body::boxed)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).adaptive_window(true);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
