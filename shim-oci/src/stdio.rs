//! Standard input and output of processes: named pipes, so that a new worker finds them again.
//!
//! A container writes into a pipe that its own side holds open for reading too: it never meets a pipe
//! without a reader, so neither SIGPIPE nor a loss comes of a worker that is away. The keeper holds the
//! reading end as well, so that the last words of a container that ends meanwhile stay in the pipe.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use catamaran_task::spec::{ContainerId, Output, Stdin};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::launch::compile::Stdio;
use crate::state;

/// How long a reader of a named pipe waits for its writer to open it.
const WRITER_WAIT: Duration = Duration::from_secs(2);

/// The pipe that attach sessions write to, of a container with `stdin: true`, below a shim's `root`.
pub fn stdin_path(root: &Path, id: &ContainerId) -> PathBuf {
    state::container_directory(root, id).join("stdin")
}

/// What stdio of a container's first process is made of.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// For the process.
    pub stdio: Stdio,
    /// Keeps a pipe open for writing, so that the process does not read its end.
    pub stdin_holder: Option<OwnedFd>,
}

/// Names of the pipes in a container's directory.
pub(crate) const STDOUT: &str = "stdout";
pub(crate) const STDERR: &str = "stderr";
pub(crate) const STDIN: &str = "stdin";

/// Makes pipes of a container below `directory` and opens the process's ends. With a terminal the
/// process gets none of them; the pump copies instead.
pub(crate) fn prepare(
    directory: &Path,
    output: &Output,
    stdin: &Stdin,
    owner: (u32, u32),
    terminal: bool,
) -> io::Result<Prepared> {
    if matches!(output, Output::CriLog(_)) && !terminal {
        for name in [STDOUT, STDERR] {
            make_pipe(&directory.join(name), owner)?;
        }
    }
    if matches!(stdin, Stdin::Open | Stdin::Once) {
        make_pipe(&directory.join(STDIN), owner)?;
    }
    let holder = holder(directory, stdin)?;
    if terminal {
        return Ok(Prepared { stdio: Stdio::default(), stdin_holder: holder });
    }
    let input = match stdin {
        Stdin::Null => null(OFlags::RDONLY)?,
        Stdin::Open | Stdin::Once => open_pipe(&directory.join(STDIN), OFlags::RDONLY)?,
        Stdin::Fifo(path) => {
            let (input, holder) = open_stdin(Path::new(path))?;
            let [stdout, stderr] = outputs(directory, output)?;
            let stdio = Stdio([Some(input), Some(stdout), Some(stderr)]);
            return Ok(Prepared { stdio, stdin_holder: holder });
        }
    };
    let [stdout, stderr] = outputs(directory, output)?;
    Ok(Prepared { stdio: Stdio([Some(input), Some(stdout), Some(stderr)]), stdin_holder: holder })
}

/// The holder of our own stdin pipe.
pub(crate) fn holder(directory: &Path, stdin: &Stdin) -> io::Result<Option<OwnedFd>> {
    match stdin {
        Stdin::Open | Stdin::Once => open_pipe(&directory.join(STDIN), OFlags::RDWR).map(Some),
        Stdin::Null | Stdin::Fifo(_) => Ok(None),
    }
}

fn outputs(directory: &Path, output: &Output) -> io::Result<[OwnedFd; 2]> {
    match output {
        Output::CriLog(_) => {
            let open = |name| open_pipe(&directory.join(name), OFlags::RDWR);
            Ok([open(STDOUT)?, open(STDERR)?])
        }
        Output::Fifos { stdout, stderr } => Ok([open_output(stdout)?, open_output(stderr)?]),
        Output::Discard => Ok([null(OFlags::WRONLY)?, null(OFlags::WRONLY)?]),
    }
}

/// The process's end of a named pipe that somebody else reads; empty: discard.
pub(crate) fn open_output(path: &str) -> io::Result<OwnedFd> {
    if path.is_empty() { null(OFlags::WRONLY) } else { open_pipe(Path::new(path), OFlags::RDWR) }
}

/// The reading end of one of a container's own pipes, for the pump.
pub(crate) fn open_reader(path: &Path) -> io::Result<OwnedFd> {
    let reader = open_pipe(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    // The kernel tells a reader that the writers are gone only if it has seen one come: let it see one.
    drop(open_pipe(path, OFlags::RDWR | OFlags::NONBLOCK)?);
    Ok(reader)
}

/// A terminal's copy of a named pipe.
pub(crate) fn open_for_copy(path: &Path) -> io::Result<OwnedFd> {
    open_pipe(path, OFlags::RDWR | OFlags::NONBLOCK)
}

/// The reading end of a named pipe that somebody else writes. Waits a moment for the writer, so that
/// the end that the process reads is the writer's; where none comes, a holder keeps the pipe open
/// until `close_stdin`.
pub(crate) fn open_stdin(path: &Path) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let input = open_pipe(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let deadline = std::time::Instant::now() + WRITER_WAIT;
    loop {
        if has_or_had_writer(&input)? {
            clear_nonblocking(&input)?;
            return Ok((input, None));
        }
        if std::time::Instant::now() >= deadline {
            let holder = open_pipe(path, OFlags::RDWR)?;
            clear_nonblocking(&input)?;
            return Ok((input, Some(holder)));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks without taking anything: a pipe nobody writes copies as 0 bytes, one that is only empty asks
/// to come again; and it tells when a writer has come and gone.
fn has_or_had_writer(reader: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut watched = [PollFd::new(reader, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&at_once))?;
    let [watched] = watched;
    if !watched.revents().is_empty() {
        return Ok(true);
    }
    let (_scratch, into) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match rustix::pipe::tee(reader, &into, 1, rustix::pipe::SpliceFlags::NONBLOCK) {
        Ok(0) => Ok(false),
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn clear_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK)?)
}

pub(crate) fn null(access: OFlags) -> io::Result<OwnedFd> {
    Ok(open("/dev/null", access | OFlags::CLOEXEC, Mode::empty())?)
}

fn make_pipe(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    if owner != (0, 0) {
        std::os::unix::fs::chown(path, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

fn open_pipe(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let fd =
        open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(|e| named(e.into()))?;
    let file = File::from(fd);
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_pipe_is_its_writers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        make_pipe(&path, (0, 0)).unwrap();
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                std::fs::write(path, "hello").unwrap();
            })
        };
        let (input, holder) = open_stdin(&path).unwrap();
        assert!(holder.is_none());
        assert_eq!(io::read_to_string(File::from(input)).unwrap(), "hello");
        writer.join().unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_opens_is_held_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        make_pipe(&path, (0, 0)).unwrap();
        assert!(open_stdin(&path).unwrap().1.is_some());
    }
}
