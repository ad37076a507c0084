//! Outgoing `wasi:http`: connections from the pod's address, names by the pod's resolver, every
//! address checked against the policy after look-up, connections kept for reuse per container.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::GuestNetwork;
use super::dialed::{Born, Dialed};

/// Outgoing requests of a container at a time.
const MAX_REQUESTS: usize = 256;
/// Idle connections kept to one host.
const MAX_IDLE: usize = 8;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection is used again: a Service chooses a backend for each connection, so a client that kept
/// one for ever would never see the others, nor those that come later.
const LIFETIME: Duration = Duration::from_secs(1);
/// Time to connect where the guest names none.
const CONNECT: Duration = Duration::from_secs(30);
/// Time to the response's head, and between parts of its body, where the guest names none.
const RESPONSE: Duration = Duration::from_secs(600);

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{0} is not granted to this pod (outbound policy)")]
    Denied(String),
    #[error("look up {name}")]
    Lookup {
        name: String,
        #[source]
        source: super::LookupError,
    },
    #[error("connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
}

type HttpClient = Client<HttpsConnector<PodConnector>, WasiBody>;

/// The HTTP client of one container.
pub(crate) struct Outgoing {
    network: Arc<GuestNetwork>,
    client: OnceLock<HttpClient>,
    permits: Arc<Semaphore>,
}

impl Outgoing {
    pub(crate) fn new(network: &Arc<GuestNetwork>) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(MAX_REQUESTS));
        Arc::new(Self { network: Arc::clone(network), client: OnceLock::new(), permits })
    }

    /// Made when first used: most containers call nobody.
    fn client(&self) -> HttpClient {
        let make = || {
            let connector = PodConnector(Arc::clone(&self.network));
            let https = HttpsConnectorBuilder::new()
                .with_tls_config(tls_config())
                .https_or_http()
                .enable_http1()
                .wrap_connector(connector);
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .pool_timer(TokioTimer::new())
                .build(https)
        };
        self.client.get_or_init(make).clone()
    }

    async fn send(
        self: Arc<Self>,
        mut request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<http::Response<WasiBody>, Error> {
        let permit =
            Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        let uri = request.uri().clone();
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
        if !self.network.policy.may_look_up() && host.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::HttpRequestDenied);
        }
        *request.version_mut() = http::Version::HTTP_11;
        let head =
            options.connect_timeout.unwrap_or(CONNECT) + options.first_byte_timeout.unwrap_or(RESPONSE);
        let between = options.between_bytes_timeout.unwrap_or(RESPONSE);
        let connection = capture_connection(&mut request);
        let response = tokio::time::timeout(head, self.client().request(request))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|e| wasi_error(&e))?;
        if let Some(connected) = connection.connection_metadata().as_ref() {
            let mut extras = http::Extensions::new();
            connected.get_extras(&mut extras);
            if extras.get::<Born>().is_some_and(|Born(at)| at.elapsed() >= LIFETIME) {
                connected.poison();
            }
        }
        Ok(response.map(|body| TimedBody { body, between, sleep: None, _permit: permit }.boxed_unsync()))
    }
}

/// The machine's certificate authorities, read once.
fn tls_config() -> rustls::ClientConfig {
    static CONFIG: OnceLock<rustls::ClientConfig> = OnceLock::new();
    let make = || {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, "certificate authorities for guests");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring provides the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    CONFIG.get_or_init(make).clone()
}

/// The code that the guest sees.
fn wasi_error(error: &ClientError) -> Error {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        match cause.downcast_ref::<ConnectError>() {
            Some(ConnectError::Denied(_)) => return Error::DestinationIpProhibited,
            Some(ConnectError::Lookup { source, .. }) => {
                return Error::DnsError { rcode: Some(source.to_string()), info_code: None };
            }
            Some(ConnectError::Connect { source, .. }) => {
                return match source.kind() {
                    io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                    io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    _ => Error::DestinationUnavailable,
                };
            }
            None => source = cause.source(),
        }
    }
    if error.is_connect() { Error::TlsProtocolError } else { Error::HttpProtocolError }
}

/// Connects from the pod's address.
#[derive(Clone)]
struct PodConnector(Arc<GuestNetwork>);

impl PodConnector {
    async fn connect(self, uri: Uri) -> Result<Dialed, ConnectError> {
        let host = uri.host().unwrap_or_default().to_owned();
        let default = if uri.scheme() == Some(&http::uri::Scheme::HTTPS) { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let found = self
            .0
            .lookup(&host)
            .await
            .map_err(|source| ConnectError::Lookup { name: host.clone(), source })?;
        let mut last = ConnectError::Denied(host);
        for ip in found {
            let address = self.0.policy.remote(SocketAddr::from((ip, port)));
            if !self.0.policy.may_reach(address.ip()) {
                last = ConnectError::Denied(address.to_string());
                continue;
            }
            match self.open(address).await {
                Ok(stream) => return Ok(Dialed::new(stream, Instant::now())),
                Err(source) => last = ConnectError::Connect { address: address.to_string(), source },
            }
        }
        Err(last)
    }

    async fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        if let Some(source) = self.0.source() {
            // The port is chosen by connect, where it need be unique to the destination only.
            bind_without_port(&socket)?;
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        socket.connect(address).await
    }
}

/// `IP_BIND_ADDRESS_NO_PORT`.
#[allow(unsafe_code)]
fn bind_without_port(socket: &TcpSocket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open, the pointer and its length describe `on`.
    let done = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl tower_service::Service<Uri> for PodConnector {
    type Response = Dialed;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(connector.connect(uri).await?) })
    }
}

/// A response's body that ends with an error when nothing comes for too long.
struct TimedBody {
    body: hyper::body::Incoming,
    between: Duration,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl http_body::Body for TimedBody {
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.sleep = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let between = this.between;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(between)));
        sleep.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What `wasi:http` asks the host about an instance.
pub(crate) struct HttpHooks(pub(crate) Arc<Outgoing>);

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for HttpHooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let outgoing = Arc::clone(&self.0);
        Box::new(async move {
            let response = outgoing.send(request, options.unwrap_or_default()).await?;
            let finished: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((response, finished))
        })
    }
}
