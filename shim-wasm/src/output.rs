//! What a guest writes on stdout and stderr: split into log lines, held to a rate per container. A
//! guest that writes faster waits; nothing is buffered for it.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use catamaran_task::cri_log::{CriLogStream, CriLogWriter, LogStream};
use catamaran_task::spec::{Output, Stdin};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Bytes a second that a container may write, over all instances and both streams.
const RATE: f64 = 4.0 * 1024.0 * 1024.0;
/// Bytes it may write at once.
const BURST: f64 = 4.0 * 1024.0 * 1024.0;
/// Most that one write takes.
const CHUNK: usize = 64 * 1024;
/// How long to wait for a reader of a full pipe.
const PIPE_PAUSE: Duration = Duration::from_millis(5);

/// Where the output of a container goes.
pub(crate) enum Sink {
    Log(Arc<CriLogWriter>),
    Pipes { stdout: Option<Arc<std::fs::File>>, stderr: Option<Arc<std::fs::File>> },
    Discard,
}

/// The output of one container: sink and rate.
pub(crate) struct ContainerOutput {
    sink: Sink,
    /// Somebody may talk to it: prompts are logged at once.
    talks: bool,
    rate: Mutex<Rate>,
}

struct Rate {
    level: f64,
    at: Instant,
}

impl ContainerOutput {
    /// Opens what `output` names.
    pub(crate) fn open(output: &Output, stdin: &Stdin) -> io::Result<Arc<Self>> {
        let sink = match output {
            Output::CriLog(path) => Sink::Log(CriLogWriter::open(path)?),
            Output::Fifos { stdout, stderr } => Sink::Pipes { stdout: pipe(stdout)?, stderr: pipe(stderr)? },
            Output::Discard => Sink::Discard,
        };
        let talks = *stdin != Stdin::Null;
        Ok(Arc::new(Self { sink, talks, rate: Mutex::new(Rate { level: BURST, at: Instant::now() }) }))
    }

    /// The stream of one instance: an unfinished line of one does not mix with another's.
    pub(crate) fn stream(self: &Arc<Self>, stream: LogStream) -> GuestOutput {
        let target = match (&self.sink, stream) {
            (Sink::Log(log), stream) if self.talks => Target::Log(log.stream(stream).at_once()),
            (Sink::Log(log), stream) => Target::Log(log.stream(stream)),
            (Sink::Pipes { stdout: Some(pipe), .. }, LogStream::Stdout)
            | (Sink::Pipes { stderr: Some(pipe), .. }, LogStream::Stderr) => Target::Pipe(Arc::clone(pipe)),
            _ => Target::Nowhere,
        };
        GuestOutput { container: Arc::clone(self), target: Arc::new(Mutex::new(target)) }
    }

    /// Lines of the host itself, on stderr: traps and refusals. They ignore the rate but use it up.
    pub(crate) fn note(self: &Arc<Self>, text: &str) {
        let stream = self.stream(LogStream::Stderr);
        let mut lines = text.trim_end().to_owned();
        lines.push('\n');
        self.charge(lines.len());
        if let Err(e) = stream.write(lines.as_bytes()) {
            tracing::warn!(error = %e, "write a container log");
        }
    }

    /// How long until something may be written; zero: now.
    fn wait(&self) -> Duration {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        rate.level = (rate.level + now.duration_since(rate.at).as_secs_f64() * RATE).min(BURST);
        rate.at = now;
        // A whole chunk's worth, so that a flood is woken 60 times a second, not thousands.
        if rate.level > 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((CHUNK as f64 - rate.level) / RATE)
        }
    }

    fn charge(&self, bytes: usize) {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).level -= bytes as f64;
    }
}

/// A pipe that somebody else reads; opened for both ways so that opening does not wait for them.
fn pipe(path: &str) -> io::Result<Option<Arc<std::fs::File>>> {
    use std::os::unix::fs::OpenOptionsExt;
    if path.is_empty() {
        return Ok(None);
    }
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file =
        std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(Path::new(path))?;
    Ok(Some(Arc::new(file)))
}

enum Target {
    Log(CriLogStream),
    Pipe(Arc<std::fs::File>),
    Nowhere,
}

impl Target {
    /// How much was taken; `WouldBlock` from a full pipe.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Self::Log(log) => log.write(text, SystemTime::now()).map(|()| text.len()),
            Self::Pipe(pipe) => (&**pipe).write(text),
            Self::Nowhere => Ok(text.len()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::Log(log) = self
            && let Err(e) = log.finish(SystemTime::now())
        {
            tracing::warn!(error = %e, "write the last line of a container log");
        }
    }
}

/// stdout or stderr of one instance.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    container: Arc<ContainerOutput>,
    target: Arc<Mutex<Target>>,
}

impl GuestOutput {
    fn write(&self, text: &[u8]) -> io::Result<usize> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).write(text)
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Writer { output: self.clone(), pause: None, held: Bytes::new() })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Writer { output: self.clone(), pause: None, held: Bytes::new() })
    }
}

/// A handle on a [`GuestOutput`] that can wait.
struct Writer {
    output: GuestOutput,
    pause: Option<Pin<Box<Sleep>>>,
    /// What a full pipe did not take yet.
    held: Bytes,
}

impl Writer {
    /// Hands on what is held; false while a pipe is full.
    fn push_held(&mut self) -> io::Result<bool> {
        while !self.held.is_empty() {
            match self.output.write(&self.held) {
                Ok(taken) => drop(self.held.split_to(taken)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn delay(&mut self) -> io::Result<Duration> {
        if self.push_held()? { Ok(self.output.container.wait()) } else { Ok(PIPE_PAUSE) }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let delay = self.delay()?;
            if delay.is_zero() {
                return Poll::Ready(Ok(()));
            }
            self.pause = Some(Box::pin(tokio::time::sleep(delay)));
        }
    }

    fn take(&mut self, text: Bytes) -> io::Result<()> {
        self.output.container.charge(text.len());
        self.held = text;
        self.push_held().map(drop)
    }
}

fn failed(e: io::Error) -> StreamError {
    StreamError::LastOperationFailed(e.into())
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        // An error shows in the next `check_write`.
        let _ = std::future::poll_fn(|cx| self.poll_writable(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(bytes).map_err(failed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.delay().map_err(failed)?.is_zero() { CHUNK } else { 0 })
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, text: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable(cx))?;
        let taken = text.len().min(CHUNK);
        Poll::Ready(self.take(Bytes::copy_from_slice(&text[..taken])).map(|()| taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_held_to_the_rate() {
        let dir = tempfile::tempdir().unwrap();
        let output = ContainerOutput::open(&Output::CriLog(dir.path().join("0.log")), &Stdin::Null).unwrap();
        let mut stream = Pin::from(output.stream(LogStream::Stdout).async_stream());
        let begin = Instant::now();
        for _ in 0..16 {
            stream.write_all(&[b'x'; 1 << 20]).await.unwrap();
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((2.5..4.0).contains(&took), "16 MiB took {took} s");
    }

    #[tokio::test]
    async fn instances_do_not_mix_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let output = ContainerOutput::open(&Output::CriLog(path.clone()), &Stdin::Null).unwrap();
        let (one, two) = (output.stream(LogStream::Stdout), output.stream(LogStream::Stdout));
        one.write(b"on").unwrap();
        two.write(b"two\n").unwrap();
        one.write(b"e").unwrap();
        drop(one);
        output.note("said by the host\n");
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(lines, ["stdout F two", "stdout F one", "stderr F said by the host"]);
    }
}
