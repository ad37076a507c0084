//! HTTP components: who may be answered now, in which instance, and what a failure looks like to the
//! caller. `front` has the sockets, `p2` and `p3` the instances.

pub(crate) mod front;
mod p2;
mod p3;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use catamaran_task::spec::{InstancePolicy, WasmSpec};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi_http::WasiBody;

use crate::guest::GuestTemplate;
use crate::host::Shared;
use crate::outcome;
use crate::program::{Entry, Program};
use crate::ticker::Ticker;

/// Requests of a container at a time.
const CONCURRENCY: usize = 100;
/// Requests that wait for one of those to end.
const QUEUE: usize = 100;
/// How long they wait.
const QUEUE_PATIENCE: Duration = Duration::from_secs(2);
/// Where the pod names no time for a request.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// An HTTP container: all that answering a request needs.
pub(crate) struct HttpPod {
    program: Arc<Program>,
    template: Arc<GuestTemplate>,
    ticker: Arc<Ticker>,
    bulk: Handle,
    reuse: Reuse,
    request_time: Duration,
    permits: Arc<Semaphore>,
    queued: AtomicUsize,
    traps: AtomicU64,
    warm: p2::Warm,
    workers: p3::Workers,
    /// Cancelled once the container is to answer `Connection: close`.
    pub(crate) draining: CancellationToken,
    /// Cancelled to drop every instance now.
    pub(crate) killed: CancellationToken,
}

/// How much one instance serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reuse {
    max: u32,
    concurrency: u32,
    idle: Duration,
}

/// Why a request got no answer from the component.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the pod has too many requests at the moment")]
    Busy,
    #[error("the request is not valid: {0}")]
    Invalid(String),
    #[error("the component trapped; its log has the backtrace")]
    Trapped,
    #[error("the component ended without an answer")]
    NoAnswer,
    #[error("the component took too long")]
    TimedOut,
    #[error("the component answered with an error: {0}")]
    Refused(String),
    #[error("the pod is being stopped")]
    Stopped,
    #[error("the host failed")]
    Host,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Busy | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Refused(_) => StatusCode::BAD_GATEWAY,
            Self::Trapped | Self::NoAnswer | Self::Host => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl HttpPod {
    pub(crate) fn new(
        program: Arc<Program>,
        template: Arc<GuestTemplate>,
        host: &Shared,
        wasm: &WasmSpec,
    ) -> Arc<Self> {
        let (policy, request_seconds) = (&wasm.instance, wasm.request_timeout_seconds);
        let reuse = match policy {
            InstancePolicy::Fresh => Reuse { max: 1, concurrency: 1, idle: Duration::ZERO },
            InstancePolicy::Reuse { max, concurrency, idle_seconds } => Reuse {
                max: (*max).max(1),
                concurrency: (*concurrency).max(1),
                idle: Duration::from_secs(u64::from(*idle_seconds)),
            },
        };
        Arc::new(Self {
            program,
            template,
            ticker: Arc::clone(host.engines.ticker()),
            bulk: host.runtimes.bulk().clone(),
            reuse,
            request_time: request_seconds
                .map_or(REQUEST_TIME, |seconds| Duration::from_secs(u64::from(seconds))),
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
            queued: AtomicUsize::new(0),
            traps: AtomicU64::new(0),
            warm: p2::Warm::default(),
            workers: p3::Workers::default(),
            draining: CancellationToken::new(),
            killed: CancellationToken::new(),
        })
    }

    /// Answers one request, whatever happens.
    pub(crate) async fn answer<B>(
        self: Arc<Self>,
        request: Request<B>,
    ) -> Result<Response<WasiBody>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
    {
        let version = request.version();
        let request = request.map(|body| body.map_err(wasmtime_wasi_http::Error::from).boxed_unsync());
        let mut response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(failure) => refusal(&failure),
        };
        if self.draining.is_cancelled() && version < http::Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn dispatch(self: &Arc<Self>, request: Request<WasiBody>) -> Result<Response<WasiBody>, Failure> {
        let permit = self.admit().await?;
        match &self.program.entry {
            Entry::Http2(pre) => p2::answer(self, pre, request, permit).await,
            Entry::Http3(pre) => p3::answer(self, pre, request, permit).await,
            _ => Err(Failure::Host),
        }
    }

    /// Runs a guest: beside the others, or with lower priority where the container lately computed much.
    fn spawn<F>(&self, guest: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        if self.template.cpu.is_heavy() { self.bulk.spawn(guest) } else { tokio::spawn(guest) }
    }

    /// A place among the running requests; a short queue, then no.
    async fn admit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        if self.queued.fetch_add(1, Relaxed) >= QUEUE {
            self.queued.fetch_sub(1, Relaxed);
            return Err(Failure::Busy);
        }
        let waited = tokio::time::timeout(QUEUE_PATIENCE, Arc::clone(&self.permits).acquire_owned()).await;
        self.queued.fetch_sub(1, Relaxed);
        waited.ok().and_then(Result::ok).ok_or(Failure::Busy)
    }

    /// Notes how an instance failed in the container's log, and names it for the caller.
    fn failed(&self, error: &wasmtime::Error) -> Failure {
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            tracing::warn!("no instance slot is free");
            return Failure::Busy;
        }
        let count = self.traps.fetch_add(1, Relaxed) + 1;
        let memory =
            if self.template.memory.take_refused() { " (the memory limit refused growth)" } else { "" };
        self.template
            .output
            .note(&format!("request failed{memory}, {count} so far: {}", outcome::describe(error)));
        Failure::Trapped
    }
}

/// The answer that the host gives in place of the component.
fn refusal(failure: &Failure) -> Response<WasiBody> {
    let text = Full::new(Bytes::from(format!("{failure}\n"))).map_err(|never: Infallible| match never {});
    let mut response = Response::new(text.boxed_unsync());
    *response.status_mut() = failure.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if failure.status() == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
