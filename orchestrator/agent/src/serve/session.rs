//! One client at one process: copies between its channels and the process's streams until either ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use catamaran_task::spec::ContainerId;
use catamaran_task::status::Exit;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channels::{ERROR, Incoming, RESIZE, Receiver, STDIN, STDOUT, Sender, Version};
use super::status;
use super::terminal::{self, Terminal, Then, Typed};
use crate::runtime::ShimKey;
use crate::shims::{Shim, ShimError};

/// A connection without traffic is pinged this often.
const PING: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;
/// How soon an empty pipe is looked at again.
const LOOK: Duration = Duration::from_millis(2);
/// Longest piece that is read at a time.
const PIECE: usize = 32 << 10;

/// The container meant, and its shim.
pub(super) struct Place {
    pub(super) shim: Arc<Shim>,
    pub(super) key: ShimKey,
    pub(super) id: ContainerId,
}

/// The ends of a process's streams.
pub(super) struct Streams {
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) output: mpsc::Receiver<(u8, Bytes)>,
    /// Tells the readers that nothing more is written.
    pub(super) ended: CancellationToken,
}

/// Which process a connection is to, and what becomes of it when the client goes.
#[derive(Clone, Copy)]
pub(super) enum Process<'a> {
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

    /// The end as kubectl wants to hear it. How a container ended is told by its status, not to whom was attached.
    fn end(self, exit: Result<Result<Exit, ShimError>, tokio::task::JoinError>) -> Value {
        match (self, exit) {
            (Process::First | Process::FirstOnce, Ok(Ok(_))) => success(),
            (_, exit) => end_of(exit),
        }
    }
}

/// One connection to one process.
pub(super) struct Session<'a> {
    pub(super) place: &'a Place,
    pub(super) process: Process<'a>,
    pub(super) receiver: &'a mut Receiver,
    pub(super) sender: &'a mut Sender,
    /// Stands between client and process where the process has no terminal of its own.
    pub(super) terminal: Option<Terminal>,
}

/// What is to be done when the process has read all that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Listen,
    /// Nothing more comes from this client.
    HangUp,
    /// Its input ends, for everybody.
    EndInput,
    /// It is ended.
    Kill,
    /// The client is gone.
    Nothing,
}

impl Session<'_> {
    /// Copies until the process has ended and all it said is sent; its end as a `Status`.
    pub(super) async fn run(mut self, mut streams: Streams) -> Value {
        let mut wait = tokio::spawn(self.wait());
        // However this ends, the readers of its output do not stay.
        let _over = streams.ended.clone().drop_guard();
        let mut exit = None;
        let mut next = Next::Listen;
        // What the process has not read yet. Its output is sent on meanwhile, or both sides could wait for ever.
        let mut unread = Bytes::new();
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        loop {
            if unread.is_empty() && !matches!(next, Next::Listen | Next::Nothing) {
                self.end_input(next, &mut streams).await;
                next = Next::Listen;
            }
            tokio::select! {
                said = streams.output.recv() => match said {
                    Some((channel, data)) => {
                        let data = if self.terminal.is_some() { terminal::show(data) } else { data };
                        if self.sender.send(channel, data).await.is_err() {
                            self.hang_up(&mut streams).await;
                            return json!({});
                        }
                    }
                    None => {
                        let exit = match exit {
                            Some(exit) => exit,
                            None => (&mut wait).await,
                        };
                        return self.process.end(exit);
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
                incoming = self.receiver.next(), if next == Next::Listen && unread.is_empty() => match incoming {
                    Some(incoming) => (unread, next) = self.take(incoming).await,
                    None => {
                        next = Next::Nothing;
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

    /// Waits for the end of the process.
    fn wait(&self) -> impl Future<Output = Result<Exit, ShimError>> + Send + use<> {
        let (shim, id) = (self.place.shim.clone(), self.place.id.clone());
        let exec_id = self.process.exec_id().map(str::to_owned);
        async move {
            match exec_id {
                Some(exec_id) => shim.wait_exec(&id, &exec_id).await,
                None => shim.wait(&id).await,
            }
        }
    }

    async fn end_input(&self, next: Next, streams: &mut Streams) {
        // Either way it may have ended by itself.
        match next {
            Next::Kill => drop(self.place.shim.kill(&self.place.id, SIGKILL).await),
            Next::EndInput => {
                drop(self.place.shim.close_stdin(&self.place.id, self.process.exec_id()).await);
            }
            Next::Listen | Next::HangUp | Next::Nothing => {}
        }
        self.hang_up(streams).await;
    }

    /// Nothing more comes from the client.
    async fn hang_up(&self, streams: &mut Streams) {
        streams.stdin = None;
        if !matches!(self.process, Process::First) {
            let _ = self.place.shim.close_stdin(&self.place.id, self.process.exec_id()).await;
        }
    }

    /// What the process is to read of a message, and what then.
    async fn take(&mut self, incoming: Incoming) -> (Bytes, Next) {
        let nothing = Bytes::new();
        match incoming {
            Incoming::Data(STDIN, data) => match &mut self.terminal {
                Some(terminal) => {
                    let Typed { lines, echo, then } = terminal.type_keys(&data);
                    // A client that is gone shows when it is read from.
                    let _ = self.sender.send(STDOUT, echo.into()).await;
                    let next = match then {
                        Then::GoOn => Next::Listen,
                        Then::End => Next::EndInput,
                        Then::Interrupt => Next::Kill,
                    };
                    (lines.into(), next)
                }
                None => (data, Next::Listen),
            },
            Incoming::Data(RESIZE, data) => {
                if let Some(size) = size(&data) {
                    // A program without a terminal has no use for its size.
                    let _ = self.place.shim.resize(&self.place.id, self.process.exec_id(), size).await;
                }
                (nothing, Next::Listen)
            }
            Incoming::Closed(STDIN) => (nothing, Next::HangUp),
            Incoming::Data(..) | Incoming::Closed(_) => (nothing, Next::Listen),
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
pub(super) async fn copy_out(
    mut reader: pipe::Receiver,
    channel: u8,
    to: mpsc::Sender<(u8, Bytes)>,
    ended: CancellationToken,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        let read = tokio::select! {
            biased;
            read = reader.read_buf(&mut buffer) => read,
            () = ended.cancelled() => Ok(0),
        };
        match read {
            Ok(0) if ended.is_cancelled() => return,
            // Nobody writes yet.
            Ok(0) => tokio::time::sleep(LOOK).await,
            Ok(_) => {
                if to.send((channel, buffer.split().freeze())).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// How a command ended.
fn end_of(exit: Result<Result<Exit, ShimError>, tokio::task::JoinError>) -> Value {
    match exit {
        Ok(Ok(exit)) if exit.code == 0 => success(),
        Ok(Ok(exit)) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
            "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}}),
        Ok(Err(error)) => status(500, "InternalError", &error.to_string()),
        Err(error) => status(500, "InternalError", &error.to_string()),
    }
}

/// Tells the client how it ended, and says good-bye.
pub(super) async fn finish((mut sender, receiver): (Sender, Receiver), version: Version, end: &Value) {
    let text = if version.ends_with_status() { end.to_string() } else { plain(end) };
    // The other side may be gone.
    let _ = sender.send(ERROR, text.into()).await;
    sender.close(receiver).await;
}

/// For protocols before v4: nothing, or the message.
fn plain(end: &Value) -> String {
    if end["status"] == "Success" {
        String::new()
    } else {
        end["message"].as_str().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catamaran_task::status::ExitReason;

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
        assert_eq!(size(b"{\"Width\":80,\"Height\":24}\n"), Some((80, 24)), "as Go writes it");
        assert_eq!(size(b"x"), None);
    }
}
