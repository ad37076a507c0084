//! Keep-alive connections that ask again as soon as they have their answer, from one thread, with the times they took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use catamaran_tests::http;
use catamaran_tests::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const WARM_UP: Duration = Duration::from_millis(300);

/// What one round came to.
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// CPU time of the server for each request.
    pub(crate) cpu_micros: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

/// The median of each figure.
pub(crate) fn median(rounds: Vec<Round>) -> Round {
    let middle = |pick: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Round {
        per_second: middle(|round| round.per_second),
        cpu_micros: middle(|round| round.cpu_micros),
        p50_micros: middle(|round| round.p50_micros),
        p99_micros: middle(|round| round.p99_micros),
    }
}

/// Waits until a server answers.
pub(crate) fn wait_for(address: SocketAddr) {
    until("an answer", Duration::from_secs(30), || match http::get(address, "/") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Drives `connections` against a server whose process is `pid`.
pub(crate) fn drive(address: SocketAddr, pid: i32, connections: usize, time: Duration) -> Round {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let streams = futures::future::join_all((0..connections).map(|_| TcpStream::connect(address))).await;
        let warm = Instant::now() + WARM_UP;
        let streams = streams.into_iter().map(|stream| stream.expect("it connects"));
        let warmed = futures::future::join_all(streams.map(|stream| ask(stream, warm))).await;
        let (before, start) = (crate::idle::cpu_micros(pid), Instant::now());
        let end = start + time;
        let done = futures::future::join_all(warmed.into_iter().map(|(stream, _)| ask(stream, end))).await;
        let (elapsed, cpu) = (start.elapsed(), crate::idle::cpu_micros(pid) - before);
        let mut took: Vec<Duration> = done.into_iter().flat_map(|(_, took)| took).collect();
        took.sort_unstable();
        let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e6;
        Round {
            per_second: took.len() as f64 / elapsed.as_secs_f64(),
            cpu_micros: cpu / took.len() as f64,
            p50_micros: at(50),
            p99_micros: at(99),
        }
    })
}

/// Asks over and over until the time has come.
async fn ask(mut stream: TcpStream, end: Instant) -> (TcpStream, Vec<Duration>) {
    stream.set_nodelay(true).expect("an open connection");
    let mut took = Vec::new();
    let mut buffer = vec![0; 8192];
    while Instant::now() < end {
        let start = Instant::now();
        stream.write_all(REQUEST).await.expect("the server is there");
        let mut have = 0;
        while !is_whole(&buffer[..have]) {
            let read = stream.read(&mut buffer[have..]).await.expect("the server is there");
            assert_ne!(read, 0, "the server ended a connection");
            have += read;
        }
        took.push(start.elapsed());
    }
    (stream, took)
}

/// Whether an answer with a known length, or in chunks with the last one, is there.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes[..head]));
    let length = bytes[..head].split(|b| *b == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|b| *b == b':')?)?;
        let value = std::str::from_utf8(&value[1..]).ok()?;
        name.eq_ignore_ascii_case(b"content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) => bytes.len() >= head + 4 + length,
        None => bytes.ends_with(b"0\r\n\r\n"),
    }
}
