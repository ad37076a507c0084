//! The program as a container: a small HTTP/1.1 server with keep-alive. On SIGTERM it goes on
//! serving what still arrives, answers `Connection: close`, then stops listening and exits 0.

mod answer;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long the listener stays open after SIGTERM: callers may not know yet.
const LINGER: Duration = Duration::from_millis(500);
/// How long an idle connection may still bring one more request after SIGTERM.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// How often a waiting connection looks whether SIGTERM came.
const LOOK: Duration = Duration::from_millis(250);

static DRAINING: AtomicBool = AtomicBool::new(false);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn main() -> std::io::Result<()> {
    let signal = TermSignal::block();
    let listener = TcpListener::bind(("0.0.0.0", 8080))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        signal.wait();
        DRAINING.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", address.port())); // wakes the accept below
    });
    println!("listening on {address}");
    while !DRAINING.load(SeqCst) {
        let (stream, _) = listener.accept()?;
        start(stream);
    }
    drain(listener)?;
    println!("stopped");
    Ok(())
}

/// Serves what still comes in for a while, closes the listener, waits for the last answers.
fn drain(listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + LINGER;
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => start(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    while let Ok((stream, _)) = listener.accept() {
        start(stream);
    }
    drop(listener);
    while CONNECTIONS.load(SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Serves a connection on a thread of its own.
fn start(stream: TcpStream) {
    CONNECTIONS.fetch_add(1, SeqCst);
    let worker = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let _ = stream.set_nonblocking(false).and_then(|()| serve(stream));
        CONNECTIONS.fetch_sub(1, SeqCst);
    });
    if worker.is_err() {
        CONNECTIONS.fetch_sub(1, SeqCst);
    }
}

/// Answers requests until the client leaves or the server drains.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    let mut reader = BufReader::new(stream);
    while wait_for_request(&mut reader)? {
        reader.get_ref().set_read_timeout(Some(Duration::from_secs(10)))?;
        let Some(request) = read_request(&mut reader)? else { break };
        let answer = answer::answer(&request.path, &pod_name());
        let close = request.close || DRAINING.load(SeqCst);
        let connection = if close { "close" } else { "keep-alive" };
        let reason = if answer.status == 200 { "OK" } else { "Not Found" };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            answer.status,
            answer.body.len(),
        );
        let body = if request.head { "" } else { &answer.body };
        reader.get_mut().write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
        if close {
            break;
        }
        reader.get_ref().set_read_timeout(Some(LOOK))?;
    }
    Ok(())
}

/// Waits for the first byte of a request; false: there will be none.
fn wait_for_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    let mut drained_since = None;
    loop {
        match reader.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
        if DRAINING.load(SeqCst) && drained_since.get_or_insert_with(Instant::now).elapsed() > LAST_REQUEST {
            return Ok(false);
        }
    }
}

struct Request {
    path: String,
    close: bool,
    head: bool,
}

/// Reads a request's head and skips its body; `None` at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    let mut limited = reader.by_ref().take(64 * 1024);
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let mut request =
        Request { path: path.into(), close: line.trim_end().ends_with("HTTP/1.0"), head: method == "HEAD" };
    let mut length = 0;
    loop {
        line.clear();
        if limited.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" => request.close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    Ok(Some(request))
}

/// The pod's name: from the environment, else the host name (in a pod the same).
fn pod_name() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_string()))
        .unwrap_or_else(|_| "unknown".into())
}

/// SIGTERM, blocked in every thread and waited for in one: works as process 1 of a container too,
/// where a signal without a handler is ignored.
struct TermSignal([u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut u64) -> i32;
    fn sigaddset(set: *mut u64, signal: i32) -> i32;
    fn pthread_sigmask(how: i32, set: *const u64, old: *mut u64) -> i32;
    fn sigwait(set: *const u64, signal: *mut i32) -> i32;
}

impl TermSignal {
    const SIG_BLOCK: i32 = 0;
    const SIGTERM: i32 = 15;

    /// Must come before any thread is started.
    fn block() -> Self {
        let mut set = [0u64; 16];
        // SAFETY: a glibc sigset_t on x86_64 and aarch64 is 128 bytes; the pointers are valid for the calls.
        unsafe {
            sigemptyset(set.as_mut_ptr());
            sigaddset(set.as_mut_ptr(), Self::SIGTERM);
            pthread_sigmask(Self::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        }
        Self(set)
    }

    fn wait(&self) {
        let mut signal = 0;
        // SAFETY: the set was made by `block`; `signal` is valid for the call.
        unsafe { sigwait(self.0.as_ptr(), &mut signal) };
    }
}
