//! `/attach` joins the first process of a container: its stdin is a named pipe, what it says comes from its log as it
//! is written.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use bytes::Bytes;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{STDERR, STDOUT, Wanted, upgrade};
use super::exec::{Asked, last_as_long_as, place};
use super::session::{Place, Process, Session, Streams, finish};
use super::terminal::Terminal;
use super::{Refusal, find_container, find_pod};
use crate::config::log_file;
use crate::context::Context;
use crate::logs::{self, Stream};
use crate::members::{member, uid};
use crate::record::PodRecord;
use crate::runtime::ShimKey;

/// Where what the process says is read.
#[derive(Clone)]
struct Output {
    log: PathBuf,
    /// What the agent remembers of the pod.
    record: PathBuf,
    container: String,
    attempt: u32,
}

pub(super) async fn attach(
    State(context): State<Arc<Context>>,
    Path((namespace, pod_name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(query)?;
    let place = place(&context, &namespace, &pod_name, &container).await?;
    let (pod, record) = find_pod(&context, &namespace, &pod_name)?;
    let attempt = find_container(&pod, &record, &container)?.attempt;
    let spec = member(&pod, &container).map(|member| member.container);
    let says = |field: fn(&k8s_openapi::api::core::v1::Container) -> Option<bool>| {
        spec.is_some_and(|spec| field(spec) == Some(true))
    };
    let process = if says(|spec| spec.stdin_once) { Process::FirstOnce } else { Process::First };
    let stdin = (asked.streams.stdin && says(|spec| spec.stdin))
        .then(|| crate::stdin::path(&context.paths, &place.key, &place.id))
        .and_then(|path| pipe::OpenOptions::new().read_write(true).open_sender(path).ok());
    // A sandbox has no terminal; one is played here.
    let plays = asked.streams.tty && says(|spec| spec.tty) && place.key != ShimKey::Oci;
    let terminal = plays.then(Terminal::default);
    let output = Output {
        log: log_file(&context.paths.log_dir(&namespace, &pod_name, uid(&pod)), &container, attempt),
        record: context.paths.pod(uid(&pod)).record(),
        container,
        attempt,
    };
    upgrade(request, asked.streams, move |version, mut sender, mut receiver| async move {
        let streams = output.follow(asked.streams, stdin).await;
        let (place, from, to) = (&place, &mut receiver, &mut sender);
        let session = Session { place, process, receiver: from, sender: to, terminal };
        let end = session.run(streams).await;
        detach(place, process).await;
        finish((sender, receiver), version, &end).await;
    })
}

/// With `stdinOnce` the input ends with its first client.
async fn detach(place: &Place, process: Process<'_>) {
    if matches!(process, Process::FirstOnce) {
        // It may have ended meanwhile.
        let _ = place.shim.close_stdin(&place.id, None).await;
    }
}

impl Output {
    /// Reads what is asked for from now on: where that is, is known before the first input goes in.
    async fn follow(&self, wanted: Wanted, stdin: Option<pipe::Sender>) -> Streams {
        let (to, output) = mpsc::channel(16);
        let (stdout, stderr) = ((Stream::Stdout, STDOUT), (Stream::Stderr, STDERR));
        let asked = [(wanted.stdout || wanted.tty).then_some(stdout), wanted.stderr.then_some(stderr)];
        for (stream, channel) in asked.into_iter().flatten() {
            let log = self.log.clone();
            let from = tokio::task::spawn_blocking(move || logs::offset_of_unfinished(&log, stream)).await;
            let from = from.ok().and_then(Result::ok).unwrap_or_default();
            tokio::spawn(self.clone().copy((stream, from), channel, to.clone()));
        }
        let ended = CancellationToken::new();
        last_as_long_as(to, &ended);
        Streams { stdin, output, ended }
    }

    async fn copy(self, (stream, from): (Stream, u64), channel: u8, to: mpsc::Sender<(u8, Bytes)>) {
        let query =
            logs::Query { follow: true, from: Some(from), only: Some(stream), ..logs::Query::default() };
        let running = || std::future::ready(self.still_runs());
        let (lines, mut from) = mpsc::channel(16);
        let reading = logs::stream(self.log.clone(), query, running, lines);
        let copying = async {
            while let Some(Ok(data)) = from.recv().await {
                if to.send((channel, data)).await.is_err() {
                    break;
                }
            }
            // The receiver goes with this block: the reader notices, and ends too.
            drop(from);
        };
        // A log that cannot be read any more says nothing more.
        tokio::join!(async { reading.await.ok() }, copying);
    }

    fn still_runs(&self) -> bool {
        PodRecord::load(&self.record)
            .containers
            .get(&self.container)
            .is_some_and(|record| record.attempt == self.attempt && record.finished.is_none())
    }
}
