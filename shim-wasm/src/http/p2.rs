//! `wasi:http/incoming-handler@0.2`: by default an instance for each request, made from the linked
//! program in microseconds; with reuse, instances that ended well are kept for the next request.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::{Failure, HttpPod};
use crate::cpu::Metered;
use crate::guest::Guest;

/// An instance, or what one will be made from.
struct Sandbox {
    /// Dropped before the store, whose end closes the body that a caller is reading.
    unfinished: Option<Unfinished>,
    store: Store<Guest>,
    proxy: Option<Proxy>,
    used: u32,
    idle_since: Instant,
}

/// Instances that wait for their next request.
#[derive(Default)]
pub(super) struct Warm {
    waiting: Mutex<Vec<Sandbox>>,
    reaping: AtomicBool,
}

impl Warm {
    fn take(&self) -> Option<Sandbox> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Says that a call broke off, unless it was told that it came to its end.
struct Unfinished {
    broken: Arc<AtomicBool>,
    ended: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.ended {
            self.broken.store(true, Ordering::SeqCst);
        }
    }
}

/// The body of an answer. Where the guest broke off, its end is an error: the caller must not take what it got
/// for the whole.
struct Checked {
    body: WasiBody,
    broken: Arc<AtomicBool>,
}

impl http_body::Body for Checked {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() && this.broken.swap(false, Ordering::SeqCst) {
            return Poll::Ready(Some(Err(wasmtime_wasi_http::Error::HttpResponseIncomplete)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

type Head = Result<Response<WasiBody>, ErrorCode>;

/// Ends the guest's task when the caller goes away before the answer's head.
struct AbortOnDrop(Option<tokio::task::AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// Answers with the component. The guest may go on writing the body after this returned.
pub(super) async fn answer(
    pod: &Arc<HttpPod>,
    pre: &ProxyPre<Guest>,
    request: Request<WasiBody>,
    permit: OwnedSemaphorePermit,
) -> Result<Response<WasiBody>, Failure> {
    let mut sandbox = match pod.warm.take() {
        Some(sandbox) => sandbox,
        None => {
            let store = pod.template.store(&pod.program.engine).map_err(|e| pod.failed(&e))?;
            Sandbox { unfinished: None, store, proxy: None, used: 0, idle_since: Instant::now() }
        }
    };
    let (sender, head) = oneshot::channel::<Head>();
    let mut view = sandbox.store.data_mut().http();
    let incoming =
        view.new_incoming_request(Scheme::Http, request).map_err(|e| Failure::Invalid(format!("{e:#}")))?;
    let outparam = view.new_response_outparam(sender).map_err(|e| pod.failed(&e))?;
    let broken = Arc::new(AtomicBool::new(false));
    sandbox.unfinished = Some(Unfinished { broken: Arc::clone(&broken), ended: false });
    let call = Call { pod: Arc::clone(pod), pre: pre.clone(), sandbox, incoming, outparam };
    let task = pod.spawn(async move {
        let ended = call.run().await;
        drop(permit);
        ended
    });
    let mut guard = AbortOnDrop(Some(task.abort_handle()));
    let head = head.await;
    guard.0 = None;
    match head {
        Ok(Ok(response)) => Ok(response.map(|body| Checked { body, broken }.boxed_unsync())),
        Ok(Err(code)) => Err(Failure::Refused(format!("{code:?}"))),
        // The guest ended without an answer: its task knows why.
        Err(_) => Err(task.await.unwrap_or(Some(Failure::Host)).unwrap_or(Failure::NoAnswer)),
    }
}

/// One call of the handler.
struct Call {
    pod: Arc<HttpPod>,
    pre: ProxyPre<Guest>,
    sandbox: Sandbox,
    incoming: Resource<HostIncomingRequest>,
    outparam: Resource<HostResponseOutparam>,
}

impl Call {
    /// Runs it to its end, its time or its container's; says what went wrong.
    async fn run(self) -> Option<Failure> {
        let Self { pod, pre, mut sandbox, incoming, outparam } = self;
        let guest = async move {
            let proxy = match sandbox.proxy.take() {
                Some(proxy) => proxy,
                None => pre.instantiate_async(&mut sandbox.store).await?,
            };
            let handler = proxy.wasi_http_incoming_handler();
            handler.call_handle(&mut sandbox.store, incoming, outparam).await?;
            if let Some(mut unfinished) = sandbox.unfinished.take() {
                unfinished.ended = true;
            }
            sandbox.proxy = Some(proxy);
            sandbox.used += 1;
            wasmtime::error::Ok(sandbox)
        };
        let metered = Metered::new(guest, &pod.template.cpu, &pod.ticker);
        let timed = tokio::time::timeout(pod.request_time, AssertUnwindSafe(metered).catch_unwind());
        let ended = tokio::select! {
            biased;
            ended = timed => ended,
            () = pod.killed.cancelled() => return Some(Failure::Stopped),
        };
        match ended {
            Ok(Ok(Ok(sandbox))) => {
                keep(&pod, sandbox);
                None
            }
            Ok(Ok(Err(error))) => Some(pod.failed(&error)),
            Ok(Err(_panic)) => {
                pod.template
                    .output
                    .note("the host failed while it ran this component; the host's log has the details");
                Some(Failure::Host)
            }
            Err(_elapsed) => {
                pod.template.output.note("request dropped: it took too long");
                Some(Failure::TimedOut)
            }
        }
    }
}

/// Keeps an instance for the next request, where the pod asked for that.
fn keep(pod: &Arc<HttpPod>, mut sandbox: Sandbox) {
    if sandbox.used >= pod.reuse.max || pod.draining.is_cancelled() {
        return;
    }
    sandbox.idle_since = Instant::now();
    pod.warm.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sandbox);
    if !pod.warm.reaping.swap(true, Ordering::SeqCst) {
        tokio::spawn(reap(Arc::clone(pod)));
    }
}

/// Drops instances that waited too long; ends when none waits.
async fn reap(pod: Arc<HttpPod>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(pod.reuse.idle) => {}
            () = pod.draining.cancelled() => {}
        }
        let mut waiting = pod.warm.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if pod.draining.is_cancelled() {
            waiting.clear();
        }
        waiting.retain(|sandbox| sandbox.idle_since.elapsed() < pod.reuse.idle);
        if waiting.is_empty() {
            pod.warm.reaping.store(false, Ordering::SeqCst);
            return;
        }
    }
}
