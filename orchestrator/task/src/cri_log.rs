//! Container logs in the CRI format, one line each: `TIME stdout|stderr F|P text`. `P` marks a piece
//! of a line that is longer than 16 KiB. The file is appended to, and opened anew once it was renamed; one that grows
//! too large is followed by a new one (`rotate`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

mod rotate;

pub use rotate::{Limits, rotated};

/// Longest piece of text in one log line, bytes (the default of the field's container runtimes).
pub const MAX_PIECE: usize = 16 * 1024;

/// Which of the two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log file of one container. Both streams write to it, each through its own [`CriLogStream`].
#[derive(Debug)]
pub struct CriLogWriter {
    path: PathBuf,
    limits: Limits,
    file: Mutex<Option<OpenFile>>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    device: u64,
    inode: u64,
    size: u64,
}

impl CriLogWriter {
    /// Opens (creates, with its directory) the log file for appending.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        Self::open_with(path, Limits::default())
    }

    /// The same with other limits.
    pub fn open_with(path: &Path, limits: Limits) -> io::Result<Arc<Self>> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = Mutex::new(Some(OpenFile::open(path)?));
        Ok(Arc::new(Self { path: path.to_owned(), limits, file }))
    }

    /// The writing end of one stream.
    pub fn stream(self: &Arc<Self>, stream: LogStream) -> CriLogStream {
        CriLogStream {
            writer: Arc::clone(self),
            stream,
            pending: Vec::new(),
            lines: Vec::new(),
            at_once: false,
        }
    }

    /// Appends whole log lines in one write, so that lines of the two streams do not mix.
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever rotates renames the file; then the path is another file or none.
        let current = std::fs::metadata(&self.path).ok();
        let same = |open: &OpenFile| {
            current.as_ref().is_some_and(|m| m.dev() == open.device && m.ino() == open.inode)
        };
        if !slot.as_ref().is_some_and(same) {
            *slot = Some(OpenFile::open(&self.path)?);
        }
        let added = lines.len() as u64;
        // A log that cannot be rotated grows: that is better than one that ends.
        let full = |open: &OpenFile| open.size > 0 && open.size + added > self.limits.size;
        if slot.as_ref().is_some_and(full) && rotate::rotate(&self.path, self.limits).is_ok() {
            *slot = Some(OpenFile::open(&self.path)?);
        }
        match slot.as_mut() {
            Some(open) => {
                open.size += added;
                open.file.write_all(lines)
            }
            None => Err(io::Error::other("the log file is not open")),
        }
    }
}

impl OpenFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let metadata = file.metadata()?;
        let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.len());
        Ok(Self { file, device, inode, size })
    }
}

/// Cuts what one stream says into log lines. Holds at most [`MAX_PIECE`] bytes of an unfinished line.
#[derive(Debug)]
pub struct CriLogStream {
    writer: Arc<CriLogWriter>,
    stream: LogStream,
    pending: Vec<u8>,
    lines: Vec<u8>,
    at_once: bool,
}

impl CriLogStream {
    /// The stream of a program that somebody talks to: an unfinished line, such as a prompt, is written as a piece (`P`)
    /// at once.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Takes `text` as it came; finished lines reach the file in one write, stamped with `now`.
    pub fn write(&mut self, text: &[u8], now: SystemTime) -> io::Result<()> {
        let prefix = prefix(now, self.stream);
        self.lines.clear();
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            self.take(part, &prefix);
        }
        if self.at_once && !self.pending.is_empty() {
            push_line(&mut self.lines, &prefix, 'P', &self.pending);
            self.pending.clear();
        }
        self.flush_lines()
    }

    /// Writes an unfinished last line, if there is one. The stream may be used on afterwards.
    pub fn finish(&mut self, now: SystemTime) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.lines.clear();
        push_line(&mut self.lines, &prefix(now, self.stream), 'F', &pending);
        self.flush_lines()
    }

    /// Bytes of an unfinished line that are held and not yet in the file.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Forgets the unfinished line: for a caller that leaves it where it came from.
    pub fn clear_pending(&mut self) {
        self.pending.clear();
    }

    fn take(&mut self, part: &[u8], prefix: &str) {
        let (text, ended) = match part.split_last() {
            Some((b'\n', text)) => (text, true),
            _ => (part, false),
        };
        let mut text = text;
        while self.pending.len() + text.len() > MAX_PIECE {
            let (piece, rest) = text.split_at(MAX_PIECE - self.pending.len());
            self.pending.extend_from_slice(piece);
            push_line(&mut self.lines, prefix, 'P', &self.pending);
            self.pending.clear();
            text = rest;
        }
        self.pending.extend_from_slice(text);
        if ended {
            push_line(&mut self.lines, prefix, 'F', &self.pending);
            self.pending.clear();
        }
    }

    fn flush_lines(&mut self) -> io::Result<()> {
        if self.lines.is_empty() { Ok(()) } else { self.writer.append(&self.lines) }
    }
}

fn push_line(lines: &mut Vec<u8>, prefix: &str, tag: char, text: &[u8]) {
    lines.extend_from_slice(prefix.as_bytes());
    lines.push(tag as u8);
    lines.push(b' ');
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

fn prefix(now: SystemTime, stream: LogStream) -> String {
    format!("{} {} ", rfc3339_nanos(now), stream.name())
}

/// `2006-01-02T15:04:05.000000000Z`: the layout that readers of CRI logs parse.
pub fn rfc3339_nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day of a count of days since 1970-01-01: eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn times_are_written_as_readers_expect() {
        assert_eq!(rfc3339_nanos(at(0, 0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339_nanos(at(951_782_399, 5)), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(rfc3339_nanos(at(951_782_400, 0)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc3339_nanos(at(1_704_067_199, 999_999_999)), "2023-12-31T23:59:59.999999999Z");
        assert_eq!(rfc3339_nanos(at(4_107_542_400, 0)), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn lines_of_both_streams_with_tags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/0.log");
        let log = CriLogWriter::open(&path).unwrap();
        let (mut out, mut err) = (log.stream(LogStream::Stdout), log.stream(LogStream::Stderr));
        out.write(b"one\ntw", at(1, 0)).unwrap();
        err.write(b"bad\n\n", at(2, 0)).unwrap();
        out.write(b"o\nend", at(3, 0)).unwrap();
        assert_eq!(out.pending(), 3);
        out.finish(at(4, 0)).unwrap();
        out.finish(at(5, 0)).unwrap();
        let expected = "1970-01-01T00:00:01.000000000Z stdout F one\n\
                        1970-01-01T00:00:02.000000000Z stderr F bad\n\
                        1970-01-01T00:00:02.000000000Z stderr F \n\
                        1970-01-01T00:00:03.000000000Z stdout F two\n\
                        1970-01-01T00:00:04.000000000Z stdout F end\n";
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn a_prompt_is_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut out = CriLogWriter::open(&path).unwrap().stream(LogStream::Stdout).at_once();
        for text in ["a\nname? ", "x", "\n"] {
            out.write(text.as_bytes(), at(1, 0)).unwrap();
            assert_eq!(out.pending(), 0);
        }
        out.finish(at(2, 0)).unwrap();
        let log = std::fs::read_to_string(path).unwrap();
        let entries: Vec<_> = log.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
        assert_eq!(entries, ["F a", "P name? ", "P x", "F "]);
    }

    #[test]
    fn rotation_goes_on_in_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = CriLogWriter::open(&path).unwrap();
        let mut out = log.stream(LogStream::Stdout);
        out.write(b"before\n", at(1, 0)).unwrap();
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        out.write(b"after\n", at(2, 0)).unwrap();
        let text = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(text("0.log.old").ends_with("before\n") && text("0.log").ends_with("after\n"));
    }

    #[test]
    fn a_log_has_no_more_than_its_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let limits = Limits { size: 1000, files: 3 };
        let log = CriLogWriter::open_with(&path, limits).unwrap();
        let mut out = log.stream(LogStream::Stdout);
        for number in 0..200 {
            out.write(format!("line {number}\n").as_bytes(), at(1, 0)).unwrap();
        }
        let mut files: Vec<PathBuf> = rotated(&path).unwrap().into_iter().map(|(_, path)| path).collect();
        files.push(path);
        assert_eq!(files.len(), limits.files);
        let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert!(texts.iter().all(|text| text.len() as u64 <= limits.size));
        let numbers = texts.concat();
        let numbers = numbers.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap());
        let numbers: Vec<u32> = numbers.collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no line is missing in between");
        assert_eq!(numbers.last(), Some(&199));
    }

    proptest::proptest! {
        /// However the text is cut on its way, the log holds it: joined pieces are the lines said.
        #[test]
        fn joined_pieces_are_what_was_said(
            lines in proptest::collection::vec(0usize..50_000, 1..4),
            cuts in proptest::collection::vec(1usize..30_000, 1..8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            let log = CriLogWriter::open(&path).unwrap();
            let mut out = log.stream(LogStream::Stdout);
            let said: Vec<u8> = lines.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
            let mut rest = said.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                out.write(now, at(1, 0)).unwrap();
                proptest::prop_assert!(out.pending() <= MAX_PIECE);
                rest = later;
            }
            let mut joined = Vec::new();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let fields: Vec<&str> = line.splitn(4, ' ').collect();
                proptest::prop_assert!(fields[3].len() <= MAX_PIECE);
                joined.extend_from_slice(fields[3].as_bytes());
                if fields[2] == "F" { joined.push(b'\n') }
            }
            proptest::prop_assert_eq!(joined, said);
        }
    }
}
