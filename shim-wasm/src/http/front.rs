//! The sockets of an HTTP container: accept, serve HTTP/1.1 and HTTP/2 without TLS, drain.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::HttpPod;

/// Connections of a container at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// A connection without a request is closed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// While draining: no new connection for this long means that callers know.
const QUIET: Duration = Duration::from_millis(100);
/// While draining: the longest that new connections are waited for.
const LINGER: Duration = Duration::from_secs(2);
/// While draining: how long an idle connection may bring one more request. Closing it at once would
/// lose a request that is on its way.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// How often the other end of an HTTP/2 connection is asked whether it is there, and how long it may take.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);
/// Size of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 128;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Serves `listeners` until the pod drains or is killed; returns when the last connection has ended.
pub(crate) async fn serve(pod: Arc<HttpPod>, listeners: Vec<TcpListener>) {
    let connections = TaskTracker::new();
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = listeners.iter().map(|listener| accept(&pod, listener, &connections, &limit));
    let accepting = futures::future::join_all(accepting);
    tokio::select! {
        _ = accepting => {}
        () = pod.killed.cancelled() => {}
    }
    // Closed here; a copy that the agent keeps goes on taking connections for the next to serve.
    drop(listeners);
    connections.close();
    connections.wait().await;
}

async fn accept(
    pod: &Arc<HttpPod>,
    listener: &TcpListener,
    connections: &TaskTracker,
    limit: &Arc<Semaphore>,
) {
    loop {
        let next = async {
            let permit = Arc::clone(limit).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = pod.draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let pod = Arc::clone(pod);
                connections.spawn(async move {
                    connection(pod, stream).await;
                    drop(permit);
                });
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                tracing::error!(error = %e, "the listener was shut down elsewhere");
                return;
            }
            Err(e) => backoff(&e).await,
        }
    }
    let end = Instant::now() + LINGER;
    while let Ok(Ok((stream, _))) =
        tokio::time::timeout_at(end.min(Instant::now() + QUIET), listener.accept()).await
    {
        connections.spawn(connection(Arc::clone(pod), stream));
    }
}

/// A connection that ended before it was accepted is nothing; lack of descriptors takes a while.
async fn backoff(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::warn!(error = %error, "accept a connection");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connection(pod: Arc<HttpPod>, stream: TcpStream) {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "set TCP_NODELAY");
    }
    let traffic = Arc::new(Traffic::default());
    let (inside, seen) = (Arc::clone(&pod), Arc::clone(&traffic));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answering = seen.begin(request.version());
        let answer = Arc::clone(&inside).answer(request);
        async move {
            let answer = answer.await;
            drop(answering);
            answer
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(KEEP_ALIVE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let served = builder.serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = pod.killed.cancelled() => return,
        () = farewell(&pod, &traffic) => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served.as_mut() => ended,
                () = pod.killed.cancelled() => return,
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection");
    }
}

/// What went over a connection.
struct Traffic {
    multiplexed: AtomicBool,
    answering: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Traffic {
    fn default() -> Self {
        let (multiplexed, answering) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { multiplexed, answering, last: Mutex::new(Instant::now()) }
    }
}

/// A request that has no answer yet.
struct Answering(Arc<Traffic>);

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    fn begin(self: &Arc<Self>, version: http::Version) -> Answering {
        if version == http::Version::HTTP_2 {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        self.answering.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Ends when there was no request for too long, from the first byte on: also a caller that never says
    /// which protocol it speaks has a place among the connections.
    async fn idle(&self) {
        loop {
            let since = if self.answering.load(Ordering::Relaxed) > 0 {
                Instant::now()
            } else {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner)
            };
            let end = since + KEEP_ALIVE;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Ends when the connection should take no further request. HTTP/2 can say so without losing one.
async fn farewell(pod: &HttpPod, traffic: &Traffic) {
    tokio::select! {
        () = pod.draining.cancelled() => {}
        () = traffic.idle() => return,
    }
    if !traffic.multiplexed.load(Ordering::Relaxed) {
        tokio::time::sleep(LAST_REQUEST).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_nothing_was_asked_for_long_enough() {
        let traffic = Arc::new(Traffic::default());
        let begin = Instant::now();
        traffic.idle().await;
        assert_eq!(begin.elapsed().as_secs(), KEEP_ALIVE.as_secs());
        let answering = traffic.begin(http::Version::HTTP_11);
        let end = async {
            tokio::time::sleep(KEEP_ALIVE * 3).await;
            drop(answering);
        };
        tokio::join!(traffic.idle(), end);
        assert_eq!(begin.elapsed().as_secs(), KEEP_ALIVE.as_secs() * 5);
        assert!(!traffic.multiplexed.load(Ordering::Relaxed));
        drop(traffic.begin(http::Version::HTTP_2));
        assert!(traffic.multiplexed.load(Ordering::Relaxed));
    }
}
