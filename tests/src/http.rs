//! A plain HTTP/1.1 client over one connection, so that tests decide themselves when a connection is new.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
    /// Whether the server ends the connection after this answer.
    pub closes: bool,
}

/// One keep-alive connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    /// Lines of the present answer that have come in.
    lines: usize,
}

impl Connection {
    /// Connects within five seconds.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let limit = Duration::from_secs(5);
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), host: address.to_string(), lines: 0 })
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not HTTP.
    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.lines = 0;
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.read_answer()
    }

    /// Whether nothing of the last answer came in.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.lines == 0
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.lines += 1;
        Ok(line.trim_end().to_owned())
    }

    fn read_answer(&mut self) -> std::io::Result<Answer> {
        let bad = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
        let (mut length, mut chunked, mut closes) = (None, false, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse::<usize>().ok(),
                Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
                Some(("connection", value)) => closes = value.contains("close"),
                Some(_) => {}
                None => break,
            }
        }
        let body = if chunked { self.chunks()? } else { self.exactly(length.ok_or_else(bad)?)? };
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), closes })
    }

    fn exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16)
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
            body.extend(self.exactly(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// One request on a new connection.
///
/// # Errors
/// What `Connection` says.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    Connection::open(address)?.get(path)
}
