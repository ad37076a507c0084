//! Bodies: bytes, what comes in over a connection, what a reader gives, or what is written while it is sent.

use std::fmt;
use std::io::{self, Read, Write};

type Writer = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()>>;

/// The body of a request or response. It is a reader; what comes in over a connection is not kept in memory.
#[derive(Default)]
pub struct Body(pub(crate) Content);

pub(crate) enum Content {
    Bytes(io::Cursor<Vec<u8>>),
    Reader(Box<dyn Read>),
    Writer(Writer),
    #[cfg(target_family = "wasm")]
    Incoming(crate::wasi::streams::Incoming),
}

impl Default for Content {
    fn default() -> Self {
        Content::Bytes(io::Cursor::default())
    }
}

impl Body {
    /// What a reader gives, such as an open file, piece by piece.
    #[must_use]
    pub fn reader(reader: impl Read + 'static) -> Self {
        Body(Content::Reader(Box::new(reader)))
    }

    /// What a function writes once the head of the response is sent; `flush` sends what was written so far. An error of
    /// it ends the connection, so that the client sees that something is missing.
    #[must_use]
    pub fn writer(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'static) -> Self {
        Body(Content::Writer(Box::new(write)))
    }

    /// All of it.
    ///
    /// # Errors
    /// When the connection breaks before its end, or a reader or writer fails.
    pub fn read_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// All of it as text.
    ///
    /// # Errors
    /// As [`Body::read_bytes`], and when it is not UTF-8.
    pub fn read_text(&mut self) -> io::Result<String> {
        String::from_utf8(self.read_bytes()?)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the body is not UTF-8"))
    }

    /// All of it; other tasks go on while it comes in.
    ///
    /// # Errors
    /// As [`Body::read_bytes`].
    pub async fn read_bytes_async(&mut self) -> io::Result<Vec<u8>> {
        #[cfg(target_family = "wasm")]
        if let Content::Incoming(incoming) = &mut self.0 {
            return incoming.read_bytes_async().await;
        }
        self.read_bytes()
    }

    /// Its length where that is known before it is sent.
    pub(crate) fn length(&self) -> Option<usize> {
        match &self.0 {
            Content::Bytes(bytes) => {
                Some(bytes.get_ref().len() - usize::try_from(bytes.position()).unwrap_or(0))
            }
            _ => None,
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Content::Writer(_) = self.0 {
            let Content::Writer(write) = std::mem::take(&mut self.0) else { return Ok(0) };
            let mut written = Vec::new();
            write(&mut written)?;
            self.0 = Content::Bytes(io::Cursor::new(written));
        }
        match &mut self.0 {
            Content::Bytes(bytes) => bytes.read(into),
            Content::Reader(reader) => reader.read(into),
            Content::Writer(_) => Ok(0),
            #[cfg(target_family = "wasm")]
            Content::Incoming(incoming) => incoming.read(into),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length() {
            Some(length) => write!(f, "Body({length} bytes)"),
            None => f.write_str("Body(stream)"),
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body(Content::Bytes(io::Cursor::new(bytes)))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        text.as_bytes().to_vec().into()
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<std::fs::File> for Body {
    fn from(file: std::fs::File) -> Self {
        Body::reader(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_the_same() {
        let write = |out: &mut dyn Write| {
            out.write_all(b"ab")?;
            out.flush()?;
            out.write_all(b"c")
        };
        for mut body in [Body::from("abc"), Body::reader(&b"abc"[..]), Body::writer(write)] {
            assert_eq!(body.read_text().unwrap(), "abc");
            assert_eq!(body.read_text().unwrap(), "", "it is read once");
        }
    }

    #[test]
    fn the_length_is_what_is_left() {
        let mut body = Body::from("abc");
        body.read_exact(&mut [0; 1]).unwrap();
        assert_eq!((body.length(), format!("{body:?}").as_str()), (Some(2), "Body(2 bytes)"));
        assert_eq!(Body::reader(io::empty()).length(), None);
    }

    #[test]
    fn a_failure_of_a_writer_is_told() {
        let mut body = Body::writer(|_| Err(io::Error::other("no more")));
        assert_eq!(body.read_bytes().unwrap_err().to_string(), "no more");
        assert!(Body::from(vec![0xff]).read_text().is_err());
    }
}
