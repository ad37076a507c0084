//! Blocks of names and values: counted strings, compressed with zlib and the dictionary of the draft (2.6.10). Each
//! direction of a connection is one zlib stream, flushed at the end of each block.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ProtocolError;

/// Bytes of a block once it is decompressed. Kubernetes' clients send less than 200.
const LONGEST_BLOCK: usize = 64 << 10;
/// How much room is made for output at a time.
const STEP: usize = 1 << 10;

/// Words of the dictionary: each stands in it with its length before it, four bytes, big endian.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// Text of the dictionary after the words.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
    charset=iso-8859-1,utf-,*,enq=0.";

/// Names, in lower case, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

/// Compresses the blocks of one direction.
pub(super) struct Deflater(Compress);

/// Decompresses the blocks of one direction.
pub(super) struct Inflater(Decompress);

fn dictionary() -> Vec<u8> {
    let mut whole = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        put_text(&mut whole, &word);
    }
    whole.extend_from_slice(TEXT.as_bytes());
    whole
}

fn put_number(block: &mut Vec<u8>, number: usize) {
    block.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_text(block: &mut Vec<u8>, text: &str) {
    put_number(block, text.len());
    block.extend_from_slice(text.as_bytes());
}

// === impl ===

impl Headers {
    /// Adds a value.
    #[cfg(test)]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// The (first) value of a name; names have no case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        // Several values are separated by NUL.
        found.and_then(|(_, value)| value.split('\0').next())
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        put_number(&mut block, self.0.len());
        for (name, value) in &self.0 {
            put_text(&mut block, name);
            put_text(&mut block, value);
        }
        block
    }

    fn from_block(mut block: &[u8]) -> Result<Self, ProtocolError> {
        let count = take_number(&mut block)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut block)?.to_ascii_lowercase();
            headers.push((name, take_text(&mut block)?.to_owned()));
        }
        Ok(Headers(headers))
    }
}

fn take_number(block: &mut &[u8]) -> Result<usize, ProtocolError> {
    let (number, rest) = block.split_first_chunk().ok_or(ProtocolError::Headers)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number) as usize)
}

fn take_text<'a>(block: &mut &'a [u8]) -> Result<&'a str, ProtocolError> {
    let length = take_number(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(ProtocolError::Headers)?;
    *block = rest;
    std::str::from_utf8(text).map_err(|_| ProtocolError::Headers)
}

impl Deflater {
    pub(super) fn new() -> Self {
        let mut state = Compress::new(Compression::fast(), true);
        state.set_dictionary(&dictionary()).expect("a new stream takes a dictionary");
        Deflater(state)
    }

    /// The next block.
    pub(super) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.to_block();
        let mut rest = block.as_slice();
        let mut out = Vec::new();
        loop {
            out.reserve(STEP);
            let before = self.0.total_in();
            let flushed = self.0.compress_vec(rest, &mut out, FlushCompress::Sync);
            flushed.expect("a stream that is never finished compresses anything");
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
        }
    }
}

impl Inflater {
    pub(super) fn new() -> Self {
        Inflater(Decompress::new(true))
    }

    /// Reads the next block.
    pub(super) fn headers(&mut self, mut block: &[u8]) -> Result<Headers, ProtocolError> {
        let mut out = Vec::new();
        loop {
            out.reserve(STEP);
            let before = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(block.len());
            block = &block[taken..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| ProtocolError::Compression)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(ProtocolError::Compression),
                Ok(_) => {}
            }
            if out.len() > LONGEST_BLOCK {
                return Err(ProtocolError::TooManyHeaders);
            }
            if block.is_empty() && out.len() < out.capacity() {
                return Headers::from_block(&out);
            }
            if before == (self.0.total_in(), self.0.total_out()) {
                return Err(ProtocolError::Compression);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2, "its Adler-32, which every SPDY/3 stream begins with");
    }

    #[test]
    fn a_stream_begins_with_the_dictionarys_name() {
        let block = Deflater::new().block(&Headers::default().with("streamType", "data"));
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(block[1] & 0x20, 0x20, "a preset dictionary is used");
        assert!(block.ends_with(&[0, 0, 0xff, 0xff]), "flushed");
    }

    /// The first two blocks of a port-forward by kubectl, as moby/spdystream sends them.
    #[test]
    fn blocks_of_kubectl() {
        let error = hex(FIRST_BLOCK_OF_KUBECTL);
        let data = hex(SECOND_BLOCK_OF_KUBECTL);
        let mut inflater = Inflater::new();
        let error = inflater.headers(&error).unwrap();
        let data = inflater.headers(&data).unwrap();
        for (headers, kind) in [(error, "error"), (data, "data")] {
            assert_eq!(headers.get("streamType"), Some(kind));
            assert_eq!(headers.get("port"), Some("8080"));
            assert_eq!(headers.get("requestID"), Some("0"));
        }
    }

    const FIRST_BLOCK_OF_KUBECTL: &str = "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663400000000ffff";
    const SECOND_BLOCK_OF_KUBECTL: &str = "c2aa19540e2512d60b000000ffff";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let mut deflater = Deflater::new();
        let whole = deflater.block(&Headers::default().with("a", "b"));
        assert_eq!(Inflater::new().headers(b"garbage"), Err(ProtocolError::Compression));
        assert_eq!(Inflater::new().headers(&[]), Err(ProtocolError::Headers));
        assert_eq!(Inflater::new().headers(&whole[..whole.len() - 8]), Err(ProtocolError::Headers));
        let bomb = deflater_of(&vec![0; 1 << 20]);
        assert_eq!(Inflater::new().headers(&bomb), Err(ProtocolError::TooManyHeaders));
        for torn in
            [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 0, 0, 0, 9, b'x'], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(Headers::from_block(torn), Err(ProtocolError::Headers));
        }
        assert_eq!(Headers::from_block(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff]), Err(ProtocolError::Headers));
    }

    fn deflater_of(raw: &[u8]) -> Vec<u8> {
        let mut state = Compress::new(Compression::fast(), true);
        state.set_dictionary(&dictionary()).unwrap();
        let mut out = Vec::with_capacity(raw.len());
        state.compress_vec(raw, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    #[test]
    fn several_values_of_a_name() {
        let headers = Headers::default().with("a", "1\x002");
        assert_eq!((headers.get("A"), headers.get("b")), (Some("1"), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Blocks of one direction are read as they were written, one after the other.
        #[test]
        fn written_is_read(blocks in prop::collection::vec(
            prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,3000}"), 0..6), 1..8)
        ) {
            let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
            for block in blocks {
                let headers = Headers(block);
                prop_assert_eq!(inflater.headers(&deflater.block(&headers)).unwrap(), headers);
            }
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Inflater::new().headers(&block);
            let _ = Headers::from_block(&block);
        }
    }
}
