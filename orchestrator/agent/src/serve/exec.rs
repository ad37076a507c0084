//! `/exec` runs a command in a container, over numbered channels: 0 stdin, 1 stdout, 2 stderr, 3 the end as a `Status`,
//! 4 the size of the terminal.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use catamaran_task::ExecSpec;
use catamaran_task::spec::ContainerId;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{Receiver, STDERR, STDOUT, Sender, Version, Wanted, upgrade};
use super::session::{Place, Process, Session, Streams, copy_out, finish};
use super::{Refusal, find_container, find_pod, status};
use crate::context::Context;
use crate::exec::{Pipes, fresh_id, process};
use crate::members::uid;
use crate::record::container_id;
use crate::runtime::ShimKey;
use crate::shims::ShimError;

/// What the query says. kubectl's names and the kubelet's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) command: Vec<String>,
    pub(super) streams: Wanted,
}

impl Asked {
    /// # Errors
    /// 400 when it leaves no stream to talk over.
    pub(super) fn of(query: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut command = Vec::new();
        let mut streams = Wanted { stdin: false, stdout: false, stderr: false, tty: false };
        for (name, value) in query {
            let yes = matches!(value.as_str(), "1" | "true" | "");
            match name.as_str() {
                "command" => command.push(value),
                "stdin" | "input" => streams.stdin = yes,
                "stdout" | "output" => streams.stdout = yes,
                "stderr" | "error" => streams.stderr = yes,
                "tty" => streams.tty = yes,
                _ => {}
            }
        }
        // A terminal has one stream for both.
        streams.stderr &= !streams.tty;
        if !streams.stdin && !streams.stdout && !streams.stderr {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal(StatusCode::BAD_REQUEST, text.into()));
        }
        Ok(Asked { command, streams })
    }
}

/// The running container that is meant, and which shim has it.
///
/// # Errors
/// As the kubelet: 404 without such a pod, 500 without such a container.
pub(super) fn locate(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(ShimKey, ContainerId), Refusal> {
    let no_pod = |_| Refusal(StatusCode::NOT_FOUND, "pod does not exist".into());
    let (pod, record) = find_pod(context, namespace, pod).map_err(no_pod)?;
    let found = find_container(&pod, &record, container).ok();
    let found = found.filter(|found| found.created && found.finished.is_none());
    let found = found.ok_or_else(|| not_running(container))?;
    Ok((found.shim, container_id(uid(&pod), container, found.attempt)))
}

fn not_running(container: &str) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})"))
}

/// The same with its shim.
///
/// # Errors
/// As [`locate`].
pub(super) async fn place(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<Place, Refusal> {
    let (key, id) = locate(context, namespace, pod, container)?;
    let shim = context.shims.running(&key).await.ok_or_else(|| not_running(container))?;
    Ok(Place { shim, key, id })
}

pub(super) async fn exec(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(query)?;
    if asked.command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify a command to run".into()));
    }
    if let (ShimKey::Shared(_) | ShimKey::Solo(_), _) = locate(&context, &namespace, &pod, &container)? {
        return Ok(no_processes(&pod, &container));
    }
    let place = place(&context, &namespace, &pod, &container).await?;
    upgrade(request, asked.streams, move |version, sender, receiver| async move {
        run(&context, &place, &asked, version, (sender, receiver)).await;
    })
}

/// The refusal of a command in a sandbox, before any switch of protocols: every client shows it as it is.
fn no_processes(pod: &str, container: &str) -> Response {
    let text = format!(
        "cannot run a command in container {container:?} of pod {pod:?}: it is WebAssembly, which has no processes and no shell; \
         read its logs (kubectl logs), join its input and output (kubectl attach) or talk to its ports (kubectl port-forward)"
    );
    let body = status(StatusCode::METHOD_NOT_ALLOWED.as_u16(), "MethodNotAllowed", &text);
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::METHOD_NOT_ALLOWED, headers, body.to_string()).into_response()
}

/// Runs the command and copies its streams until it has ended.
async fn run(
    context: &Context,
    place: &Place,
    asked: &Asked,
    version: Version,
    (mut sender, mut receiver): (Sender, Receiver),
) {
    let exec_id = fresh_id();
    let end = match begin(context, place, asked, &exec_id).await {
        Ok((streams, _pipes)) => {
            let process = Process::Exec(&exec_id);
            let (sender, receiver) = (&mut sender, &mut receiver);
            Session { place, process, receiver, sender, terminal: None }.run(streams).await
        }
        Err(refused) => refused,
    };
    finish((sender, receiver), version, &end).await;
}

async fn begin(
    context: &Context,
    place: &Place,
    asked: &Asked,
    exec_id: &str,
) -> Result<(Streams, Pipes), Value> {
    let failed = |error: std::io::Error| {
        status(500, "InternalError", &format!("the pipes of the command cannot be made: {error}"))
    };
    let pipes = Pipes::new(&context.paths.run).map_err(failed)?;
    let (to, output) = mpsc::channel(16);
    let ended = CancellationToken::new();
    let Wanted { stdin: wants_stdin, stdout, stderr, tty } = asked.streams;
    let mut exec = ExecSpec {
        exec_id: exec_id.to_owned(),
        process: process(&asked.command, tty),
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    let mut stdin = None;
    if wants_stdin {
        let (path, writer) = pipes.writer("stdin").map_err(failed)?;
        exec.stdin = path;
        stdin = Some(writer);
    }
    if stdout || tty {
        let (path, reader) = pipes.reader("stdout").map_err(failed)?;
        exec.stdout = path;
        tokio::spawn(copy_out(reader, STDOUT, to.clone(), ended.clone()));
    }
    if stderr {
        let (path, reader) = pipes.reader("stderr").map_err(failed)?;
        exec.stderr = path;
        tokio::spawn(copy_out(reader, STDERR, to.clone(), ended.clone()));
    }
    if let Err(error) = place.shim.exec(&place.id, exec).await {
        ended.cancel();
        return Err(refused(&error));
    }
    last_as_long_as(to, &ended);
    Ok((Streams { stdin, output, ended }, pipes))
}

/// With no stream to read, the connection lasts as long as the process all the same.
pub(super) fn last_as_long_as(open: mpsc::Sender<(u8, bytes::Bytes)>, ended: &CancellationToken) {
    let ended = ended.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = open.closed() => {}
        }
    });
}

/// An exec that the shim refuses, in words that kubectl shows.
fn refused(error: &ShimError) -> Value {
    use catamaran_task::TaskError;
    match error {
        ShimError::Refused(TaskError::NotFound(_)) => status(404, "NotFound", "the container is not running"),
        other => status(500, "InternalError", &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(list: &[(&str, &str)]) -> Result<Asked, Refusal> {
        Asked::of(list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn both_spellings_are_understood() {
        let expected = || Asked {
            command: vec!["sh".into(), "-c".into()],
            streams: Wanted { stdin: true, stdout: true, stderr: false, tty: true },
        };
        let kubectl =
            [("command", "sh"), ("command", "-c"), ("stdin", "true"), ("stdout", "true"), ("tty", "true")];
        assert_eq!(asked(&kubectl).unwrap(), expected());
        let kubelet = [
            ("command", "sh"),
            ("command", "-c"),
            ("input", "1"),
            ("output", "1"),
            ("error", "1"),
            ("tty", "1"),
        ];
        assert_eq!(asked(&kubelet).unwrap(), expected(), "a terminal has no stderr");
        let nothing = asked(&[("command", "sh"), ("tty", "1")]).unwrap_err();
        assert_eq!(nothing.1, "you must specify at least 1 of stdin, stdout, stderr");
    }
}
