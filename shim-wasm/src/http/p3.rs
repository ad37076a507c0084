//! `wasi:http/handler@0.3`: an instance serves as many requests, at a time and in all, as the pod's
//! policy says. Each instance is a worker task; requests reach it through a bounded channel.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use wasmtime::AsContextMut;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::{Failure, HttpPod};
use crate::cpu::Metered;
use crate::guest::Guest;

type Head = wasmtime::Result<Response<WasiBody>>;
type Job = (Request<WasiBody>, oneshot::Sender<Head>);

/// The instances of a container that take requests.
#[derive(Default)]
pub(super) struct Workers(Mutex<Vec<Arc<Worker>>>);

struct Worker {
    jobs: mpsc::Sender<Job>,
    running: AtomicU32,
    taken: AtomicU32,
    /// Drops the instance and all that runs in it.
    dropped: CancellationToken,
}

/// Counts a request until its body is sent.
struct Running(Arc<Worker>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// How often a request is offered to another worker when one is found ended.
const OFFERS: usize = 8;

/// Answers with the component. The request counts, for its instance and for the container, until its body is sent.
pub(super) async fn answer(
    pod: &Arc<HttpPod>,
    pre: &ServicePre<Guest>,
    request: Request<WasiBody>,
    permit: OwnedSemaphorePermit,
) -> Result<Response<WasiBody>, Failure> {
    let (sender, head) = oneshot::channel();
    let running = offer(pod, pre, (request, sender))?;
    let head = tokio::select! {
        head = tokio::time::timeout(pod.request_time, head) => head,
        () = pod.killed.cancelled() => return Err(Failure::Stopped),
    };
    match head {
        Ok(Ok(Ok(response))) => Ok(response.map(|body| Kept::new(body, (running, permit)).boxed_unsync())),
        Ok(Ok(Err(error))) => {
            retire(pod, &running.0);
            Err(pod.failed(&error))
        }
        Ok(Err(_gone)) => {
            retire(pod, &running.0);
            Err(Failure::Trapped)
        }
        Err(_elapsed) => {
            // One request cannot be cancelled alone: its instance goes, and what else runs there.
            retire(pod, &running.0);
            running.0.dropped.cancel();
            pod.template.output.note("request dropped with its instance: it took too long");
            Err(Failure::TimedOut)
        }
    }
}

/// Gives a request to a worker. One may have ended since it took its last request: that is nobody's failure.
fn offer(pod: &Arc<HttpPod>, pre: &ServicePre<Guest>, mut job: Job) -> Result<Running, Failure> {
    for _ in 0..OFFERS {
        let running = choose(pod, pre);
        match running.0.jobs.try_send(job) {
            Ok(()) => return Ok(running),
            Err(TrySendError::Closed(back) | TrySendError::Full(back)) => job = back,
        }
        retire(pod, &running.0);
    }
    Err(Failure::Host)
}

/// A body that keeps something until it was sent or dropped.
struct Kept<T> {
    body: WasiBody,
    kept: Option<T>,
}

impl<T> Kept<T> {
    fn new(body: WasiBody, kept: T) -> Self {
        Self { body, kept: Some(kept) }
    }
}

impl<T: Unpin> http_body::Body for Kept<T> {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() || this.body.is_end_stream() {
            this.kept = None;
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

/// A worker with room, or a new one. Counted under the lock, so that no worker leaves meanwhile.
fn choose(pod: &Arc<HttpPod>, pre: &ServicePre<Guest>) -> Running {
    let mut workers = pod.workers.0.lock().unwrap_or_else(PoisonError::into_inner);
    let found = workers.iter().find(|worker| worker.running.load(SeqCst) < pod.reuse.concurrency).cloned();
    let worker = found.unwrap_or_else(|| {
        let worker = start(pod, pre);
        workers.push(Arc::clone(&worker));
        worker
    });
    worker.running.fetch_add(1, SeqCst);
    if worker.taken.fetch_add(1, SeqCst) + 1 >= pod.reuse.max {
        workers.retain(|other| !Arc::ptr_eq(other, &worker));
    }
    Running(worker)
}

/// No more requests for this worker; it ends once those it has are done.
fn retire(pod: &HttpPod, worker: &Arc<Worker>) {
    pod.workers.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, worker));
}

fn start(pod: &Arc<HttpPod>, pre: &ServicePre<Guest>) -> Arc<Worker> {
    // A request leaves the channel before it stops counting, so this never fills.
    let (jobs, queue) = mpsc::channel(usize::try_from(pod.reuse.concurrency).unwrap_or(1));
    let dropped = CancellationToken::new();
    let worker = Arc::new(Worker {
        jobs,
        running: AtomicU32::new(0),
        taken: AtomicU32::new(0),
        dropped: dropped.clone(),
    });
    let (inside, pre, weak) = (Arc::clone(pod), pre.clone(), Arc::downgrade(&worker));
    pod.spawn(async move {
        let pod = inside;
        // However it ends: nobody may be sent here any more.
        let _leaving = Leaving { pod: Arc::clone(&pod), worker: weak.clone() };
        let inside = Arc::clone(&pod);
        let guest = async move { serve(&inside, &pre, queue, weak).await };
        let metered = Metered::new(guest, &pod.template.cpu, &pod.ticker);
        let ended = tokio::select! {
            biased;
            () = pod.killed.cancelled() => return,
            () = dropped.cancelled() => return,
            ended = AssertUnwindSafe(metered).catch_unwind() => ended,
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => drop(pod.failed(&error)),
            Err(_panic) => {
                pod.template
                    .output
                    .note("the host failed while it ran this component; the host's log has the details");
            }
        }
    });
    worker
}

/// Retires a worker whose task ends.
struct Leaving {
    pod: Arc<HttpPod>,
    worker: std::sync::Weak<Worker>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.upgrade() {
            retire(&self.pod, &worker);
        }
    }
}

async fn serve(
    pod: &Arc<HttpPod>,
    pre: &ServicePre<Guest>,
    queue: mpsc::Receiver<Job>,
    worker: std::sync::Weak<Worker>,
) -> wasmtime::Result<()> {
    let mut store = pod.template.store(&pod.program.engine)?;
    let proxy = Proxy::P3(pre.instantiate_async(&mut store).await?);
    store.run_concurrent(async |accessor| take_jobs(pod, accessor, &proxy, queue, worker).await).await?
}

async fn take_jobs(
    pod: &HttpPod,
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    mut queue: mpsc::Receiver<Job>,
    worker: std::sync::Weak<Worker>,
) -> wasmtime::Result<()> {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            job = queue.recv(), if open => match job {
                Some((request, sender)) => {
                    let prepared = accessor
                        .with(|mut store| Prepared::new(store.as_context_mut(), proxy, request, Guest::http, sender))?;
                    running.push(prepared.run(accessor, std::future::pending()));
                }
                // Nobody can send any more: the worker was retired.
                None => open = false,
            },
            Some(done) = running.next(), if !running.is_empty() => drop(done?),
            () = tokio::time::sleep(pod.reuse.idle), if open && running.is_empty() => {
                open = !leave(pod, &worker);
            }
        }
    }
    // Bodies may still be on their way.
    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
    Ok(())
}

/// Retires an idle worker; false when a request was just given to it.
fn leave(pod: &HttpPod, worker: &std::sync::Weak<Worker>) -> bool {
    let mut workers = pod.workers.0.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(worker) = worker.upgrade() else { return true };
    if worker.running.load(SeqCst) > 0 {
        return false;
    }
    workers.retain(|other| !Arc::ptr_eq(other, &worker));
    true
}
