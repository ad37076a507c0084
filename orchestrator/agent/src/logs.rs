//! Container logs in the CRI format (`TIME stdout|stderr F|P text`): parsing, the last lines, following.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod chain;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::OFlags;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use chain::{Chain, Next};

/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The same for who talks to the program, while it answers.
const QUICK_LOOK: Duration = Duration::from_millis(5);
const QUICK_LOOKS: u32 = 200;
const BLOCK: usize = 64 << 10;

/// One entry of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) time: &'a str,
    pub(crate) stream: Stream,
    pub(crate) end: End,
    pub(crate) text: &'a [u8],
}

/// Where the program wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Whether an entry ends a line of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Full,
    Partial,
}

/// What is asked of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) follow: bool,
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    /// Only what was written there.
    pub(crate) only: Option<Stream>,
    /// Where in the file to begin, instead of `tail`: somebody talks to the program and waits for its answers.
    pub(crate) from: Option<u64>,
}

// === impl ===

impl<'a> Entry<'a> {
    /// An entry from a line of the file, without its newline.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let tags = parts.next()?;
        let text = parts.next().unwrap_or_default();
        let end =
            if tags.split(|byte| *byte == b':').any(|tag| tag == b"P") { End::Partial } else { End::Full };
        Some(Entry { time, stream, end, text })
    }
}

impl Query {
    /// What a reader of the log sees of a line of the file; `None` when it is not asked for. `before` is how the
    /// entry before ended: a time stands only where a line of the program begins.
    fn show(&self, line: &[u8], before: &mut End) -> Option<Vec<u8>> {
        let entry = Entry::parse(line)?;
        if self.only.is_some_and(|only| only != entry.stream) {
            return None;
        }
        if let Some(since) = self.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return None;
        }
        let mut shown = Vec::with_capacity(entry.text.len() + 40);
        let begins = std::mem::replace(before, entry.end) == End::Full;
        if self.timestamps && begins {
            shown.extend_from_slice(entry.time.as_bytes());
            shown.push(b' ');
        }
        shown.extend_from_slice(entry.text);
        if entry.end == End::Full {
            shown.push(b'\n');
        }
        Some(shown)
    }
}

/// Sends what is asked for, through all files of the log, until the last one ends or (following) until `running` says
/// that nothing more will come. Ends early when nobody reads.
pub(crate) async fn stream<F>(
    path: PathBuf,
    query: Query,
    running: impl Fn() -> F,
    to: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()>
where
    F: Future<Output = bool>,
{
    let mut chain = Chain::open(path, &query).await?;
    let mut left = query.limit_bytes.unwrap_or(u64::MAX);
    let mut rest: Vec<u8> = Vec::new();
    let mut buffer = vec![0_u8; BLOCK];
    let mut ended = false;
    let mut before = End::Full;
    let mut quiet = 0_u32;
    loop {
        let read = chain.file.read(&mut buffer).await?;
        if read == 0 {
            match chain.next().await? {
                Next::Again => continue,
                Next::Last if !query.follow || ended => return Ok(()),
                Next::Last => {}
            }
            // One more look after it ended: the last lines may have come in between.
            ended = !running().await;
            if !ended {
                let pause = if query.from.is_some() && quiet < QUICK_LOOKS { QUICK_LOOK } else { LOOK };
                quiet = quiet.saturating_add(1);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = to.closed() => return Ok(()),
                }
            }
            continue;
        }
        quiet = 0;
        rest.extend_from_slice(&buffer[..read]);
        let shown = take_lines(&mut rest, &query, &mut before);
        let fits = usize::try_from(left).unwrap_or(usize::MAX).min(shown.len());
        left -= fits as u64;
        if fits > 0 && to.send(Ok(Bytes::copy_from_slice(&shown[..fits]))).await.is_err() {
            return Ok(());
        }
        if left == 0 {
            return Ok(());
        }
    }
}

/// All whole lines, as they are shown; the unfinished one stays.
fn take_lines(rest: &mut Vec<u8>, query: &Query, before: &mut End) -> Vec<u8> {
    let Some(last) = rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
    let shown = rest[..last]
        .split(|byte| *byte == b'\n')
        .filter_map(|line| query.show(line, before))
        .flatten()
        .collect();
    rest.drain(..=last);
    shown
}

/// Where the last `lines` lines of a file begin, and how many there are.
fn offset_of_last(file: &mut std::fs::File, lines: u64) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok((size, 0));
    }
    let mut position = size;
    let mut found = 0;
    let mut block = vec![0_u8; BLOCK];
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        let length = usize::try_from(length).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev() {
            let offset = position + at as u64;
            // The newline at the very end ends the last line, it does not begin another.
            if block[at] == b'\n' && offset + 1 != size {
                found += 1;
                if found == lines {
                    return Ok((offset + 1, found));
                }
            }
        }
    }
    // The first line has no newline before it.
    Ok((0, found + u64::from(size > 0)))
}

/// Where the line begins that a stream has not finished yet, a prompt for example; else the end of the file.
pub(crate) fn offset_of_unfinished(path: &Path, stream: Stream) -> io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let begin = size.saturating_sub(BLOCK as u64);
    file.seek(SeekFrom::Start(begin))?;
    let mut block = Vec::new();
    file.take(size - begin).read_to_end(&mut block)?;
    let mut found = size;
    let mut offset = begin + block.len() as u64;
    for line in block.split_inclusive(|byte| *byte == b'\n').rev() {
        offset -= line.len() as u64;
        let Some(entry) = Entry::parse(line.trim_ascii_end()) else { continue };
        match entry.end {
            _ if entry.stream != stream => {}
            End::Partial => found = offset,
            End::Full => break,
        }
    }
    Ok(found)
}

/// The last lines of a log as one text, for a termination message.
pub(crate) fn last_lines(path: &Path, lines: u64, bytes: usize) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let (start, _) = offset_of_last(&mut file, lines).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut raw = Vec::new();
    file.take(1 << 20).read_to_end(&mut raw).ok()?;
    let shown = take_lines(&mut raw, &Query::default(), &mut End::Full);
    let from = shown.len().saturating_sub(bytes);
    (!shown.is_empty()).then(|| String::from_utf8_lossy(&shown[from..]).into_owned())
}

/// The end of a file as text; `None` when there is nothing in it. A container may have put anything in its place: only
/// a plain file is read.
pub(crate) fn last_bytes(path: &Path, bytes: u64) -> Option<String> {
    use std::os::unix::fs::OpenOptionsExt;
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(careful.bits()).ok()?;
    let mut file = std::fs::File::options().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let size = meta.len();
    file.seek(SeekFrom::Start(size.saturating_sub(bytes))).ok()?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-21T13:00:00.000000001Z stdout F one\n\
        2026-11-21T13:00:01.000000001Z stderr P tw\n\
        2026-11-21T13:00:02.000000001Z stderr F o\n\
        2026-11-21T13:00:03.000000001Z stdout F \n\
        2026-11-21T13:00:04.000000001Z stdout F a b  c\n";

    async fn shown(query: Query) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (to, mut from) = mpsc::channel(16);
        stream(path, query, || async { false }, to).await.unwrap();
        let mut text = Vec::new();
        while let Some(Ok(bytes)) = from.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn what_is_asked_for_is_shown() {
        let since = |text: &str| Some(text.parse().unwrap());
        let table = [
            (Query::default(), "one\ntwo\n\na b  c\n"),
            (Query { tail: Some(2), ..Query::default() }, "\na b  c\n"),
            (Query { tail: Some(0), ..Query::default() }, ""),
            (Query { tail: Some(99), ..Query::default() }, "one\ntwo\n\na b  c\n"),
            (Query { since: since("2026-11-21T13:00:03Z"), ..Query::default() }, "\na b  c\n"),
            (Query { limit_bytes: Some(5), ..Query::default() }, "one\nt"),
            (Query { only: Some(Stream::Stderr), ..Query::default() }, "two\n"),
            (
                Query { tail: Some(1), timestamps: true, ..Query::default() },
                "2026-11-21T13:00:04.000000001Z a b  c\n",
            ),
            (
                Query { tail: Some(4), timestamps: true, limit_bytes: Some(35), ..Query::default() },
                "2026-11-21T13:00:01.000000001Z two\n",
            ),
        ];
        for (query, expected) in table {
            assert_eq!(shown(query.clone()).await, expected, "{query:?}");
        }
    }

    #[tokio::test]
    async fn a_log_is_followed_to_the_end_of_its_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (to, mut from) = mpsc::channel(16);
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = running.clone();
        let query = Query { follow: true, tail: Some(1), ..Query::default() };
        let task = tokio::spawn(stream(
            path.clone(),
            query,
            move || {
                let running = flag.load(std::sync::atomic::Ordering::Relaxed);
                async move { running }
            },
            to,
        ));
        assert_eq!(from.recv().await.unwrap().unwrap(), "a b  c\n");
        use std::io::Write;
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        file.write_all(b"2026-11-21T13:00:05Z stdout F more").unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(from.recv().await.unwrap().unwrap(), "more\n");
        running.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(from.recv().await.is_none());
        task.await.unwrap().unwrap();
    }

    /// A log in three files, and what it says in all.
    fn in_three_files(dir: &Path) -> PathBuf {
        let path = dir.join("0.log");
        let line = |text: &str| format!("2026-11-21T13:00:00Z stdout F {text}\n");
        std::fs::write(dir.join("0.log.7"), line("a") + &line("b")).unwrap();
        std::fs::write(dir.join("0.log.8"), line("c") + "2026-11-21T13:00:00Z stdout P d\n").unwrap();
        std::fs::write(&path, line("d") + &line("e")).unwrap();
        path
    }

    #[tokio::test]
    async fn all_files_of_a_log_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = in_three_files(dir.path());
        let table = [
            (None, "a\nb\nc\ndd\ne\n"),
            (Some(0), ""),
            (Some(2), "d\ne\n"),
            (Some(4), "c\ndd\ne\n"),
            (Some(5), "b\nc\ndd\ne\n"),
            (Some(50), "a\nb\nc\ndd\ne\n"),
        ];
        for (tail, expected) in table {
            let (to, mut from) = mpsc::channel(16);
            let query = Query { tail, ..Query::default() };
            stream(path.clone(), query, || async { false }, to).await.unwrap();
            let mut text = Vec::new();
            while let Some(Ok(bytes)) = from.recv().await {
                text.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{tail:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_follows_misses_nothing_while_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let limits = catamaran_task::cri_log::Limits { size: 2000, files: 1000 };
        let writer = catamaran_task::cri_log::CriLogWriter::open_with(&path, limits).unwrap();
        let (to, mut from) = mpsc::channel(16);
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = running.clone();
        let still = move || std::future::ready(flag.load(std::sync::atomic::Ordering::Relaxed));
        let query = Query { follow: true, ..Query::default() };
        let reader = tokio::spawn(stream(path, query, still, to));
        let lines = 3000;
        let write = std::thread::spawn(move || {
            let mut out = writer.stream(catamaran_task::LogStream::Stdout);
            for number in 0..lines {
                out.write(format!("{number}\n").as_bytes(), std::time::SystemTime::now()).unwrap();
            }
            running.store(false, std::sync::atomic::Ordering::Relaxed);
        });
        let mut text = Vec::new();
        while let Some(Ok(bytes)) = from.recv().await {
            text.extend_from_slice(&bytes);
        }
        write.join().unwrap();
        reader.await.unwrap().unwrap();
        let expected: String = (0..lines).map(|number| format!("{number}\n")).collect();
        assert!(String::from_utf8(text).unwrap() == expected, "each line once, in order");
    }

    #[test]
    fn an_unfinished_line_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let entry = |rest: &str| format!("2026-11-21T13:00:00.000000001Z {rest}\n");
        let (done, begun, goes_on) = (entry("stdout F a"), entry("stdout P na"), entry("stdout P me? "));
        let other = entry("stderr F x");
        let table = [
            (vec![], 0),
            (vec![&done], 1),
            (vec![&done, &begun], 1),
            (vec![&done, &begun, &other, &goes_on, &other], 1),
            (vec![&begun, &goes_on], 0),
            (vec![&done, &begun, &goes_on, &done], 4),
            (vec![&begun, &other, &done], 3),
        ];
        for (lines, expected) in table {
            std::fs::write(&path, lines.iter().map(|line| line.as_str()).collect::<String>()).unwrap();
            let expected: usize = lines[..expected].iter().map(|line| line.len()).sum();
            assert_eq!(offset_of_unfinished(&path, Stream::Stdout).unwrap(), expected as u64, "{lines:?}");
        }
    }

    #[test]
    fn entries() {
        let entry = Entry::parse(b"2026-11-21T13:00:00Z stdout P:x text here").unwrap();
        assert_eq!((entry.end, entry.text), (End::Partial, &b"text here"[..]));
        for wrong in ["", "x", "2026-11-21T13:00:00Z", "2026-11-21T13:00:00Z stdin F x"] {
            assert_eq!(Entry::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(last_lines(&path, 2, 100).as_deref(), Some("\na b  c\n"));
        assert_eq!(last_lines(&path, 80, 4).as_deref(), Some("  c\n"));
        assert_eq!(last_lines(&dir.path().join("none"), 80, 4), None);
        std::fs::write(&path, "first last").unwrap();
        assert_eq!(last_bytes(&path, 4).as_deref(), Some("last"));
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(last_bytes(&dir.path().join("link"), 4), None, "a link leads elsewhere");
        assert_eq!(last_bytes(&path, 100).as_deref(), Some("first last"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(last_bytes(&path, 4), None);
    }
}
