//! `/exec` runs a command in a container and `/attach` joins its first process, over numbered channels: 0 stdin,
//! 1 stdout, 2 stderr, 3 the end as a `Status`, 4 the size of the terminal.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::{Buf, Bytes};
use catamaran_task::ExecSpec;
use catamaran_task::spec::ContainerId;
use catamaran_task::status::Exit;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{Incoming, Receiver, Sender, Version, upgrade};
use super::{Refusal, find_container, find_pod, status};
use crate::config::log_file;
use crate::context::Context;
use crate::exec::{Pipes, fresh_id, process};
use crate::logs::{self, Stream};
use crate::members::{member, uid};
use crate::record::{PodRecord, container_id};
use crate::runtime::ShimKey;
use crate::shims::{Shim, ShimError};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const KNOWN: [Version; 3] = [Version::V5, Version::V4, Version::Older];
/// A connection without traffic is pinged this often.
const PING: Duration = Duration::from_secs(30);
/// How soon an empty pipe is looked at again.
const LOOK: Duration = Duration::from_millis(2);

/// What the query says. kubectl's names and the kubelet's.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Asked {
    fn of(query: Vec<(String, String)>) -> Self {
        let mut asked = Asked::default();
        for (name, value) in query {
            let yes = matches!(value.as_str(), "1" | "true" | "");
            match name.as_str() {
                "command" => asked.command.push(value),
                "stdin" | "input" => asked.stdin = yes,
                "stdout" | "output" => asked.stdout = yes,
                "stderr" | "error" => asked.stderr = yes,
                "tty" => asked.tty = yes,
                _ => {}
            }
        }
        asked
    }
}

/// The container meant, and its shim.
struct Place {
    shim: Arc<Shim>,
    key: ShimKey,
    id: ContainerId,
}

async fn place(context: &Context, namespace: &str, pod: &str, container: &str) -> Result<Place, Refusal> {
    let (pod, record) = find_pod(context, namespace, pod)?;
    let found = find_container(&pod, &record, container)?;
    let not_running = || Refusal(StatusCode::BAD_REQUEST, format!("container {container:?} is not running"));
    if found.finished.is_some() || !found.created {
        return Err(not_running());
    }
    let shim = context.shims.running(&found.shim).await.ok_or_else(not_running)?;
    Ok(Place { shim, key: found.shim, id: container_id(uid(&pod), container, found.attempt) })
}

pub(super) async fn exec(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(query);
    if asked.command.is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "you must specify a command to run".into()));
    }
    let place = place(&context, &namespace, &pod, &container).await?;
    upgrade(request, &KNOWN, move |version, sender, receiver| async move {
        run(&context, &place, &asked, version, sender, receiver).await;
    })
}

/// Runs the command and copies its streams until it has ended.
async fn run(
    context: &Context,
    place: &Place,
    asked: &Asked,
    version: Version,
    mut sender: Sender,
    receiver: Receiver,
) {
    let exec_id = fresh_id();
    let end = match begin(context, place, asked, &exec_id).await {
        Ok((streams, _pipes)) => {
            let session = Session { place, process: Process::Exec(&exec_id), receiver, sender: &mut sender };
            session.run(streams).await
        }
        Err(refused) => refused,
    };
    let text = if version == Version::Older { plain(&end) } else { end.to_string() };
    // The other side may be gone.
    let _ = sender.send(ERROR, text.as_bytes()).await;
    sender.close().await;
}

/// The ends of a process's streams.
struct Streams {
    stdin: Option<pipe::Sender>,
    output: mpsc::Receiver<(u8, Bytes)>,
    /// Tells the readers that nothing more is written.
    ended: CancellationToken,
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
    let mut exec = ExecSpec {
        exec_id: exec_id.to_owned(),
        process: process(&asked.command, asked.tty),
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    let mut stdin = None;
    if asked.stdin {
        let (path, writer) = pipes.writer("stdin").map_err(failed)?;
        exec.stdin = path;
        stdin = Some(writer);
    }
    if asked.stdout || asked.tty {
        let (path, reader) = pipes.reader("stdout").map_err(failed)?;
        exec.stdout = path;
        tokio::spawn(copy_out(reader, STDOUT, to.clone(), ended.clone()));
    }
    if asked.stderr && !asked.tty {
        let (path, reader) = pipes.reader("stderr").map_err(failed)?;
        exec.stderr = path;
        tokio::spawn(copy_out(reader, STDERR, to, ended.clone()));
    }
    place.shim.exec(&place.id, exec).await.map_err(|error| refused(&error))?;
    Ok((Streams { stdin, output, ended }, pipes))
}

/// An exec that the shim refuses, in words that kubectl shows.
fn refused(error: &ShimError) -> Value {
    use catamaran_task::TaskError;
    match error {
        ShimError::Refused(TaskError::Unimplemented(why)) => status(
            501,
            "NotImplemented",
            &format!(
                "{why}; a wasm sandbox has no processes and no shell to run a command in: look at its logs, or ask its ports (kubectl port-forward)"
            ),
        ),
        ShimError::Refused(TaskError::NotFound(_)) => status(404, "NotFound", "the container is not running"),
        other => status(500, "InternalError", &other.to_string()),
    }
}

/// Which process a connection is to, and what becomes of it when the client goes.
#[derive(Clone, Copy)]
enum Process<'a> {
    /// Started for this connection: its stdin ends with it.
    Exec(&'a str),
    /// The container's first process; others may attach to it again.
    First,
    /// The same, with `stdinOnce`: its stdin ends with the first client.
    FirstOnce,
}

impl<'a> Process<'a> {
    fn exec_id(self) -> Option<&'a str> {
        match self {
            Process::Exec(id) => Some(id),
            Process::First | Process::FirstOnce => None,
        }
    }
}

/// One connection to one process.
struct Session<'a> {
    place: &'a Place,
    process: Process<'a>,
    receiver: Receiver,
    sender: &'a mut Sender,
}

impl Session<'_> {
    /// Copies until the process has ended and all it said is sent; its end as a `Status`.
    async fn run(mut self, mut streams: Streams) -> Value {
        let (shim, id) = (self.place.shim.clone(), self.place.id.clone());
        let exec_id = self.process.exec_id().map(str::to_owned);
        let mut wait = tokio::spawn(async move {
            match exec_id {
                Some(exec_id) => shim.wait_exec(&id, &exec_id).await,
                None => shim.wait(&id).await,
            }
        });
        let mut exit = None;
        let mut listening = true;
        // What the process has not read yet. Its output is sent on meanwhile, or both sides could wait for ever.
        let mut unread = Bytes::new();
        let mut ping = tokio::time::interval(PING);
        loop {
            tokio::select! {
                said = streams.output.recv() => match said {
                    Some((channel, data)) => {
                        if self.sender.send(channel, &data).await.is_err() {
                            self.hang_up(&mut streams).await;
                            return json!({});
                        }
                    }
                    None => {
                        let exit = match exit {
                            Some(exit) => exit,
                            None => (&mut wait).await,
                        };
                        return end_of(exit);
                    }
                },
                ended = &mut wait, if exit.is_none() => {
                    exit = Some(ended);
                    streams.ended.cancel();
                }
                wrote = write_some(&mut streams.stdin, &unread), if !unread.is_empty() => match wrote {
                    Ok(written) => unread.advance(written),
                    // A process that no longer reads loses what is written to it.
                    Err(_) => {
                        streams.stdin = None;
                        unread.clear();
                    }
                },
                incoming = self.receiver.next(), if listening && unread.is_empty() => match incoming {
                    Some(Incoming::Data(STDIN, data)) => unread = data,
                    Some(incoming) => self.take(incoming, &mut streams).await,
                    None => {
                        listening = false;
                        self.hang_up(&mut streams).await;
                        if self.process.exec_id().is_none() {
                            return json!({}); // it goes on without us
                        }
                    }
                },
                _ = ping.tick() => {
                    let _ = self.sender.ping().await;
                }
            }
        }
    }

    /// Nothing more comes from the client.
    async fn hang_up(&self, streams: &mut Streams) {
        streams.stdin = None;
        if !matches!(self.process, Process::First) {
            let _ = self.place.shim.close_stdin(&self.place.id, self.process.exec_id()).await;
        }
    }

    async fn take(&self, incoming: Incoming, streams: &mut Streams) {
        match incoming {
            Incoming::Data(RESIZE, data) => {
                if let Some(size) = size(&data) {
                    let _ = self.place.shim.resize(&self.place.id, self.process.exec_id(), size).await;
                }
            }
            Incoming::Closed(STDIN) => self.hang_up(streams).await,
            Incoming::Data(..) | Incoming::Closed(_) => {}
        }
    }
}

/// Writes what fits; without a stdin all of it is dropped. Nothing is lost when it is interrupted.
async fn write_some(stdin: &mut Option<pipe::Sender>, data: &[u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(data).await,
        None => Ok(data.len()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

fn size(data: &[u8]) -> Option<(u16, u16)> {
    let size: Size = serde_json::from_slice(data).ok()?;
    Some((size.width, size.height))
}

/// Copies what a process says, until it has ended and the pipe is empty.
async fn copy_out(
    mut reader: pipe::Receiver,
    channel: u8,
    to: mpsc::Sender<(u8, Bytes)>,
    ended: CancellationToken,
) {
    let mut buffer = vec![0_u8; 32 << 10];
    loop {
        let read = tokio::select! {
            biased;
            read = reader.read(&mut buffer) => read,
            () = ended.cancelled() => Ok(0),
        };
        match read {
            Ok(0) if ended.is_cancelled() => return,
            // Nobody writes yet.
            Ok(0) => tokio::time::sleep(LOOK).await,
            Ok(read) => {
                if to.send((channel, Bytes::copy_from_slice(&buffer[..read]))).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// How a process ended, as kubectl wants to hear it.
fn end_of(exit: Result<Result<Exit, ShimError>, tokio::task::JoinError>) -> Value {
    match exit {
        Ok(Ok(exit)) if exit.code == 0 => json!({"metadata": {}, "status": "Success"}),
        Ok(Ok(exit)) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
            "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}}),
        Ok(Err(error)) => status(500, "InternalError", &error.to_string()),
        Err(error) => status(500, "InternalError", &error.to_string()),
    }
}

/// For protocols before v4: nothing, or the message.
fn plain(end: &Value) -> String {
    if end["status"] == "Success" {
        String::new()
    } else {
        end["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub(super) async fn attach(
    State(context): State<Arc<Context>>,
    Path((namespace, pod_name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::of(query);
    let place = place(&context, &namespace, &pod_name, &container).await?;
    let (pod, record) = find_pod(&context, &namespace, &pod_name)?;
    let found = find_container(&pod, &record, &container)?;
    let directory = context.paths.log_dir(&namespace, &pod_name, uid(&pod));
    let file = log_file(&directory, &container, found.attempt);
    let record_file = context.paths.pod(uid(&pod)).record();
    let once = member(&pod, &container).is_some_and(|member| member.container.stdin_once == Some(true));
    let holds_stdin = member(&pod, &container).is_some_and(|member| member.container.stdin == Some(true));
    let stdin = (asked.stdin && holds_stdin)
        .then(|| crate::stdin::path(&context.paths, &place.key, &place.id))
        .and_then(|path| pipe::OpenOptions::new().read_write(true).open_sender(path).ok());
    let process = if once { Process::FirstOnce } else { Process::First };
    upgrade(request, &KNOWN, move |version, mut sender, receiver| async move {
        let (to, output) = mpsc::channel(16);
        let (attempt, name) = (found.attempt, container.clone());
        let running = move || {
            let still = PodRecord::load(&record_file)
                .containers
                .get(&name)
                .is_some_and(|record| record.attempt == attempt && record.finished.is_none());
            std::future::ready(still)
        };
        if asked.stdout || asked.tty {
            tokio::spawn(follow_log(file.clone(), Stream::Stdout, running.clone(), to.clone()));
        }
        if asked.stderr && !asked.tty {
            tokio::spawn(follow_log(file, Stream::Stderr, running, to.clone()));
        }
        // With no stream to follow, the connection lasts as long as the container all the same.
        let ended = CancellationToken::new();
        let (until, open) = (ended.clone(), to);
        tokio::spawn(async move {
            until.cancelled().await;
            drop(open);
        });
        let streams = Streams { stdin, output, ended };
        let session = Session { place: &place, process, receiver, sender: &mut sender };
        let end = session.run(streams).await;
        if once {
            let _ = place.shim.close_stdin(&place.id, None).await;
        }
        let text = if version == Version::Older { plain(&end) } else { end.to_string() };
        let _ = sender.send(ERROR, text.as_bytes()).await;
        sender.close().await;
    })
}

/// What the first process says from now on comes from its log.
async fn follow_log<F: Future<Output = bool>>(
    file: std::path::PathBuf,
    stream: Stream,
    running: impl Fn() -> F,
    to: mpsc::Sender<(u8, Bytes)>,
) {
    let channel = match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    };
    let query = logs::Query { follow: true, tail: Some(0), only: Some(stream), ..logs::Query::default() };
    let (lines, mut from) = mpsc::channel(16);
    let reading = logs::stream(file, query, running, lines);
    let copying = async {
        while let Some(Ok(data)) = from.recv().await {
            if to.send((channel, data)).await.is_err() {
                return;
            }
        }
        // The receiver goes with this block: the reader notices, and ends too.
        drop(from);
    };
    tokio::join!(async { reading.await.ok() }, copying);
}

#[cfg(test)]
mod tests {
    use super::*;
    use catamaran_task::status::ExitReason;

    #[test]
    fn both_spellings_are_understood() {
        let query =
            |list: &[(&str, &str)]| Asked::of(list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let expected = Asked {
            command: vec!["sh".into(), "-c".into()],
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        let kubectl =
            [("command", "sh"), ("command", "-c"), ("stdin", "true"), ("stdout", "true"), ("tty", "true")];
        assert_eq!(query(&kubectl), expected);
        let kubelet = [
            ("command", "sh"),
            ("command", "-c"),
            ("input", "1"),
            ("output", "1"),
            ("error", "0"),
            ("tty", "1"),
        ];
        assert_eq!(query(&kubelet), expected);
    }

    #[test]
    fn ends_are_statuses() {
        let exit = |code| Exit { code, at_ms: 0, reason: ExitReason::Exited, message: None };
        assert_eq!(end_of(Ok(Ok(exit(0))))["status"], "Success");
        let failure = end_of(Ok(Ok(exit(7))));
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(plain(&failure), "command terminated with non-zero exit code: exit status 7");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(size(b"x"), None);
    }

    #[test]
    fn exec_into_a_sandbox_says_why_not() {
        let refused =
            refused(&ShimError::Refused(catamaran_task::TaskError::Unimplemented("no exec".into())));
        assert_eq!(refused["reason"], "NotImplemented");
        assert!(refused["message"].as_str().unwrap().contains("port-forward"));
    }
}
