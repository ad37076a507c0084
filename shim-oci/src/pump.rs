//! Moves what containers say into their logs: one task for each stream, woken by the pipe.
//!
//! Text is looked at (tee), written to the log, and only then taken out of the pipe; an unfinished
//! line stays in the pipe. So a worker that is killed loses nothing; what it had written and not yet
//! taken out, some microseconds' worth, its successor writes once more. A terminal cannot be looked
//! at: there a killed worker loses what it had read and not yet written.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use catamaran_task::cri_log::CriLogStream;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes moved at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// While a line is unfinished the pipe is looked at this often, whatever the kernel tells.
const RECHECK: Duration = Duration::from_secs(1);

/// A descriptor in tokio's reactor.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: an OwnedFd stays open and the same until the AsyncFd that owns it is dropped.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Reads a container's pipe into its log until all its writers are gone.
pub(crate) async fn pipe_to_log(reader: OwnedFd, mut log: CriLogStream) {
    let pipe = match watch(reader, Interest::READABLE) {
        Ok(pipe) => pipe,
        Err(e) => return tracing::error!(error = %e, "watch a container's output"),
    };
    let mut unfinished = 0;
    let mut ready = None;
    loop {
        match move_lines(pipe.get_ref(), &mut log, &mut unfinished) {
            Ok(Moved::Some) => {}
            Ok(Moved::End) => return,
            Ok(Moved::Nothing) => {
                if let Some(Ok(guard)) = ready.as_mut() {
                    tokio::io::unix::AsyncFdReadyGuard::clear_ready(guard);
                }
                ready = if unfinished > 0 {
                    tokio::time::timeout(RECHECK, pipe.readable()).await.ok()
                } else {
                    Some(pipe.readable().await)
                };
            }
            Err(e) => {
                // A full disk, say. The container is held up, its text not lost.
                tracing::error!(error = %e, "write a container's log");
                tokio::time::sleep(RECHECK).await;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Moved {
    Some,
    Nothing,
    End,
}

struct Scratch {
    reader: OwnedFd,
    writer: OwnedFd,
    buffer: Vec<u8>,
}

thread_local! {
    /// A look is made and used up without waiting in between, so one scratch pipe a thread is enough.
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Writes the whole lines that the pipe holds now, and takes them out. `unfinished` is the length of
/// what is left in it.
fn move_lines(pipe: &OwnedFd, log: &mut CriLogStream, unfinished: &mut usize) -> io::Result<Moved> {
    SCRATCH.with_borrow_mut(|slot| {
        let scratch = match slot {
            Some(scratch) => scratch,
            None => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                slot.insert(Scratch { reader, writer, buffer: vec![0; CHUNK] })
            }
        };
        let moved = look_and_take(pipe, log, unfinished, scratch);
        if moved.is_err() {
            // Something may be left in the scratch pipe.
            *slot = None;
        }
        moved
    })
}

fn look_and_take(
    pipe: &OwnedFd,
    log: &mut CriLogStream,
    unfinished: &mut usize,
    scratch: &mut Scratch,
) -> io::Result<Moved> {
    let seen = match tee(pipe, &scratch.writer, CHUNK, SpliceFlags::NONBLOCK) {
        Ok(seen) => seen,
        Err(rustix::io::Errno::AGAIN) => return Ok(Moved::Nothing),
        Err(e) => return Err(e.into()),
    };
    if seen == 0 {
        return Ok(Moved::End);
    }
    let text = scratch.buffer.get_mut(..seen).ok_or_else(|| io::Error::other("tee gave too much"))?;
    read_all(&scratch.reader, text)?;
    if seen == *unfinished {
        // Nothing new. Once nobody can finish the line, it counts as one.
        if !hung_up(pipe)? {
            return Ok(Moved::Nothing);
        }
        let now = SystemTime::now();
        log.write(text, now)?;
        log.finish(now)?;
        take(pipe, text)?;
        *unfinished = 0;
        return Ok(Moved::Some);
    }
    let written = log.write(text, SystemTime::now());
    let rest = log.pending();
    log.clear_pending();
    written?;
    let taken = seen - rest;
    if let Some(text) = text.get_mut(..taken) {
        take(pipe, text)?;
    }
    *unfinished = rest;
    Ok(Moved::Some)
}

/// Takes out of the pipe as much as `place` holds.
fn take(pipe: &OwnedFd, place: &mut [u8]) -> io::Result<()> {
    if place.is_empty() { Ok(()) } else { read_all(pipe, place) }
}

fn read_all(fd: &OwnedFd, mut place: &mut [u8]) -> io::Result<()> {
    while !place.is_empty() {
        let got = rustix::io::read(fd, &mut *place)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        place = place.get_mut(got..).unwrap_or_default();
    }
    Ok(())
}

fn hung_up(pipe: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut watched = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let [watched] = watched;
    Ok(watched.revents().contains(PollFlags::HUP))
}

/// Where a terminal's output goes.
pub(crate) enum Sink {
    Log(CriLogStream),
    Pipe(AsyncFd<OwnedFd>),
    Nowhere,
}

/// Copies a terminal's output until its last user is gone.
pub(crate) async fn terminal_output(terminal: std::sync::Arc<AsyncFd<OwnedFd>>, mut sink: Sink) {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let read =
            terminal.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer[..])?)).await;
        let text = match read {
            // EIO is how the end of a terminal's other side reads.
            Ok(0) | Err(_) => break,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
        };
        let written = match &mut sink {
            Sink::Log(log) => log.write(text, SystemTime::now()),
            Sink::Pipe(pipe) => write_all(pipe, text).await,
            Sink::Nowhere => Ok(()),
        };
        if let Err(e) = written {
            tracing::warn!(error = %e, "copy a terminal's output");
        }
    }
    if let Sink::Log(log) = &mut sink
        && let Err(e) = log.finish(SystemTime::now())
    {
        tracing::warn!(error = %e, "finish a log");
    }
}

/// Copies a named pipe to a terminal until dropped.
pub(crate) async fn terminal_input(input: OwnedFd, terminal: std::sync::Arc<AsyncFd<OwnedFd>>) {
    let input = match watch(input, Interest::READABLE) {
        Ok(input) => input,
        Err(e) => return tracing::error!(error = %e, "watch a terminal's input"),
    };
    let mut buffer = vec![0; 4 * 1024];
    loop {
        let read = input.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer[..])?)).await;
        let Ok(length @ 1..) = read else { return };
        if write_all(&terminal, buffer.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

async fn write_all(to: &AsyncFd<OwnedFd>, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        let written = to.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, text)?)).await?;
        text = text.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: &impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads a struct winsize.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use catamaran_task::{CriLogWriter, LogStream};

    use super::*;

    fn texts(path: &std::path::Path) -> Vec<String> {
        let log = std::fs::read_to_string(path).unwrap();
        log.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn lines_as_they_come_and_the_rest_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CriLogWriter::open(&path).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut writer = writer;
        let pump = tokio::spawn(pipe_to_log(reader.into(), log.stream(LogStream::Stdout)));
        for part in ["one\ntw", "o", "\nthr"] {
            writer.write_all(part.as_bytes()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(texts(&path), ["F one", "F two"]);
        drop(writer);
        pump.await.unwrap();
        assert_eq!(texts(&path), ["F one", "F two", "F thr"]);
    }

    #[tokio::test]
    async fn a_prompt_is_there_before_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CriLogWriter::open(&path).unwrap().stream(LogStream::Stdout).at_once();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pump = tokio::spawn(pipe_to_log(reader.into(), log));
        writer.write_all(b"name? ").unwrap();
        while texts(&path).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        writer.write_all(b"hello\n").unwrap();
        drop(writer);
        pump.await.unwrap();
        assert_eq!(texts(&path), ["P name? ", "F hello"]);
    }

    /// A worker that is killed loses nothing: an unfinished line is still in the pipe for the next.
    #[tokio::test]
    async fn a_successor_goes_on_where_the_killed_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CriLogWriter::open(&path).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let first =
            tokio::spawn(pipe_to_log(reader.try_clone().unwrap().into(), log.stream(LogStream::Stdout)));
        writer.write_all(b"a\nunfini").unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        first.abort();
        writer.write_all(b"shed\nb\n").unwrap();
        let second = tokio::spawn(pipe_to_log(reader.into(), log.stream(LogStream::Stdout)));
        drop(writer);
        second.await.unwrap();
        assert_eq!(texts(&path), ["F a", "F unfinished", "F b"]);
    }

    #[tokio::test]
    async fn more_than_a_pipe_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CriLogWriter::open(&path).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pump = tokio::spawn(pipe_to_log(reader.into(), log.stream(LogStream::Stderr)));
        let said = "0123456789".repeat(30_000);
        let text = said.clone();
        tokio::task::spawn_blocking(move || writer.write_all(text.as_bytes()).unwrap()).await.unwrap();
        pump.await.unwrap();
        let joined: String = texts(&path).iter().map(|t| &t[2..]).collect();
        assert_eq!(joined, said);
    }
}
