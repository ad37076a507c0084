//! Frames and their form on the wire: eight bytes that say what it is and how long, then its content.

use bytes::{Buf, Bytes, BytesMut};

use super::ProtocolError;
use super::headers::{Deflater, Headers, Inflater};

const VERSION: u16 = 3;
/// Longest content of a frame that is taken.
pub(super) const LONGEST: usize = 1 << 20;
const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// One frame. Streams of the client have odd numbers, those of the server even ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream. `fin`: whoever sends it says nothing more on it.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// The stream is taken.
    SynReply { stream: u32, fin: bool, headers: Headers },
    /// The stream ends at once, both ways.
    RstStream { stream: u32, why: Reset },
    /// Limits that the other side asks for: numbers and values.
    Settings(Vec<(u32, u32)>),
    /// To be sent back as it is.
    Ping(u32),
    /// No new streams; `last` is the newest that was looked at.
    GoAway { last: u32 },
    /// More headers of a stream.
    Headers { stream: u32, fin: bool, headers: Headers },
    /// So much was read and may be sent anew; of the whole connection when `stream` is 0.
    WindowUpdate { stream: u32, bytes: u32 },
    /// What is said on a stream.
    Data { stream: u32, fin: bool, data: Bytes },
}

/// Why a stream is reset (2.6.3 of the draft).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// It breaks the rules.
    ProtocolError,
    /// There is no such stream.
    InvalidStream,
    /// It was not begun.
    Refused,
    /// Nobody wants it any more.
    Cancel,
    /// Anything else.
    Other(u32),
}

/// Reads the frames of one direction.
pub(crate) struct Decoder(Inflater);

/// Writes the frames of one direction.
pub(crate) struct Encoder(Deflater);

// === impl ===

impl Reset {
    fn code(self) -> u32 {
        match self {
            Reset::ProtocolError => 1,
            Reset::InvalidStream => 2,
            Reset::Refused => 3,
            Reset::Cancel => 5,
            Reset::Other(code) => code,
        }
    }

    fn of(code: u32) -> Self {
        match code {
            1 => Reset::ProtocolError,
            2 => Reset::InvalidStream,
            3 => Reset::Refused,
            5 => Reset::Cancel,
            other => Reset::Other(other),
        }
    }
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Decoder(Inflater::new())
    }

    /// Takes the next whole frame out of `buffer`; `None` when more bytes are needed. Frames of unknown kinds are left
    /// out, as the draft has it.
    ///
    /// # Errors
    /// When it is not SPDY/3.1: nothing can be read after that.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        while let Some(head) = buffer.first_chunk::<HEAD>() {
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            let flags = head[4];
            if length > LONGEST {
                return Err(ProtocolError::TooLong(length));
            }
            if buffer.len() < HEAD + length {
                return Ok(None);
            }
            buffer.advance(HEAD);
            let content = buffer.split_to(length).freeze();
            let fin = flags & FIN != 0;
            if first & CONTROL == 0 {
                return Ok(Some(Frame::Data { stream: first, fin, data: content }));
            }
            let version = u16::try_from(first >> 16 & 0x7fff).expect("15 bits");
            if version != VERSION {
                return Err(ProtocolError::Version(version));
            }
            let kind = u16::try_from(first & 0xffff).expect("16 bits");
            if let Some(frame) = self.control(kind, fin, content)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn control(&mut self, kind: u16, fin: bool, mut content: Bytes) -> Result<Option<Frame>, ProtocolError> {
        Ok(Some(match kind {
            SYN_STREAM => {
                let stream = number(&mut content, "SYN_STREAM")?;
                // The stream it belongs to, its priority and a slot: of no meaning here.
                let rest = content.get(6..).ok_or(ProtocolError::Torn("SYN_STREAM"))?;
                Frame::SynStream { stream, fin, headers: self.0.headers(rest)? }
            }
            SYN_REPLY => {
                let stream = number(&mut content, "SYN_REPLY")?;
                Frame::SynReply { stream, fin, headers: self.0.headers(&content)? }
            }
            HEADERS => {
                let stream = number(&mut content, "HEADERS")?;
                Frame::Headers { stream, fin, headers: self.0.headers(&content)? }
            }
            RST_STREAM => {
                let stream = number(&mut content, "RST_STREAM")?;
                Frame::RstStream { stream, why: Reset::of(word(&mut content, "RST_STREAM")?) }
            }
            SETTINGS => Frame::Settings(settings(content)?),
            PING => Frame::Ping(word(&mut content, "PING")?),
            GOAWAY => Frame::GoAway { last: number(&mut content, "GOAWAY")? },
            WINDOW_UPDATE => {
                let stream = number(&mut content, "WINDOW_UPDATE")?;
                Frame::WindowUpdate { stream, bytes: number(&mut content, "WINDOW_UPDATE")? }
            }
            _ => return Ok(None),
        }))
    }
}

fn settings(mut content: Bytes) -> Result<Vec<(u32, u32)>, ProtocolError> {
    let count = word(&mut content, "SETTINGS")?;
    // Flags come before the number: they are about storing the value, which nobody does.
    let entry =
        |content: &mut Bytes| Ok((word(content, "SETTINGS")? & 0x00ff_ffff, word(content, "SETTINGS")?));
    (0..count).map(|_| entry(&mut content)).collect()
}

fn word(content: &mut Bytes, frame: &'static str) -> Result<u32, ProtocolError> {
    content.try_get_u32().map_err(|_| ProtocolError::Torn(frame))
}

/// A word whose first bit is reserved.
fn number(content: &mut Bytes, frame: &'static str) -> Result<u32, ProtocolError> {
    Ok(word(content, frame)? & !CONTROL)
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Encoder(Deflater::new())
    }

    /// Appends a frame.
    pub(crate) fn write(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let block = self.0.block(headers);
                control(out, SYN_STREAM, *fin, &[&stream.to_be_bytes(), &[0; 6], &block]);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.0.block(headers);
                control(out, SYN_REPLY, *fin, &[&stream.to_be_bytes(), &block]);
            }
            Frame::Headers { stream, fin, headers } => {
                let block = self.0.block(headers);
                control(out, HEADERS, *fin, &[&stream.to_be_bytes(), &block]);
            }
            Frame::RstStream { stream, why } => {
                control(out, RST_STREAM, false, &[&stream.to_be_bytes(), &why.code().to_be_bytes()]);
            }
            Frame::Settings(values) => {
                let count = u32::try_from(values.len()).unwrap_or(u32::MAX).to_be_bytes();
                let words = values.iter().flat_map(|(name, value)| [*name, *value]);
                let entries: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
                control(out, SETTINGS, false, &[&count, &entries]);
            }
            Frame::Ping(id) => control(out, PING, false, &[&id.to_be_bytes()]),
            Frame::GoAway { last } => control(out, GOAWAY, false, &[&last.to_be_bytes(), &[0; 4]]),
            Frame::WindowUpdate { stream, bytes } => {
                control(out, WINDOW_UPDATE, false, &[&stream.to_be_bytes(), &bytes.to_be_bytes()]);
            }
            Frame::Data { stream, fin, data } => head(out, *stream, *fin, data.len(), &[data]),
        }
    }
}

fn control(out: &mut Vec<u8>, kind: u16, fin: bool, parts: &[&[u8]]) {
    let first = CONTROL | u32::from(VERSION) << 16 | u32::from(kind);
    head(out, first, fin, parts.iter().map(|part| part.len()).sum(), parts);
}

fn head(out: &mut Vec<u8>, first: u32, fin: bool, length: usize, parts: &[&[u8]]) {
    debug_assert!(length <= LONGEST, "callers send less at a time");
    let flags = if fin { u32::from(FIN) << 24 } else { 0 };
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&(flags | length).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new().write(frame, &mut out);
        out
    }

    fn read(bytes: &[u8]) -> Result<Option<Frame>, ProtocolError> {
        Decoder::new().next(&mut BytesMut::from(bytes))
    }

    #[test]
    fn on_the_wire() {
        let data = |fin| Frame::Data { stream: 1, fin, data: Bytes::from_static(b"hi") };
        let table: [(Frame, &[u8]); 8] = [
            (data(false), b"\x00\x00\x00\x01\x00\x00\x00\x02hi"),
            (data(true), b"\x00\x00\x00\x01\x01\x00\x00\x02hi"),
            (Frame::Ping(1), b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"),
            (Frame::GoAway { last: 7 }, b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x07\x00\x00\x00\x00"),
            (
                Frame::RstStream { stream: 5, why: Reset::Cancel },
                b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x05",
            ),
            (
                Frame::WindowUpdate { stream: 3, bytes: 65536 },
                b"\x80\x03\x00\x09\x00\x00\x00\x08\x00\x00\x00\x03\x00\x01\x00\x00",
            ),
            (
                Frame::Settings(vec![(4, 100)]),
                b"\x80\x03\x00\x04\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x64",
            ),
            (Frame::Settings(vec![]), b"\x80\x03\x00\x04\x00\x00\x00\x04\x00\x00\x00\x00"),
        ];
        for (frame, bytes) in table {
            assert_eq!(bytes_of(&frame), bytes, "{frame:?}");
            assert_eq!(read(bytes), Ok(Some(frame)));
        }
    }

    #[test]
    fn a_stream_of_kubectl() {
        let bytes = "800300010000003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606\
            1c0c0c0c0590489c64c50f2663400000000ffff";
        let bytes: String = bytes.split_whitespace().collect();
        let bytes: Vec<u8> = (0..bytes.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap())
            .collect();
        let Ok(Some(Frame::SynStream { stream: 1, fin: false, headers })) = read(&bytes) else { panic!() };
        assert_eq!(headers.get("streamType"), Some("error"));
    }

    #[test]
    fn what_is_not_spdy_is_refused() {
        let table: [(&[u8], ProtocolError); 6] = [
            (b"GET / HT", ProtocolError::TooLong(0x20_4854)),
            (b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01", ProtocolError::Version(2)),
            (b"\x80\x03\x00\x06\x00\x00\x00\x02\x00\x00", ProtocolError::Torn("PING")),
            (b"\x80\x03\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01", ProtocolError::Torn("SYN_STREAM")),
            (b"\x80\x03\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff", ProtocolError::Torn("SETTINGS")),
            (b"\x80\x03\x00\x02\x00\x00\x00\x08\x00\x00\x00\x01abcd", ProtocolError::Compression),
        ];
        for (bytes, error) in table {
            assert_eq!(read(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn unknown_frames_are_left_out_and_half_ones_waited_for() {
        let mut decoder = Decoder::new();
        let mut buffer =
            BytesMut::from(&b"\x80\x03\x00\x63\x00\x00\x00\x01x\x80\x03\x00\x06\x00\x00\x00\x04\x00"[..]);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"\x00\x00\x02");
        assert_eq!(decoder.next(&mut buffer), Ok(Some(Frame::Ping(2))));
        assert!(buffer.is_empty());
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let headers = || {
            prop::collection::vec(("[a-z]{1,9}", "[ -~]{0,40}"), 0..4).prop_map(|pairs| {
                pairs.iter().fold(Headers::default(), |headers, (name, value)| headers.with(name, value))
            })
        };
        let stream = || 0..=i32::MAX.cast_unsigned();
        prop_oneof![
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
                stream,
                fin,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream(), 0_u32..12)
                .prop_map(|(stream, code)| Frame::RstStream { stream, why: Reset::of(code) }),
            prop::collection::vec((0_u32..1 << 24, any::<u32>()), 0..4).prop_map(Frame::Settings),
            any::<u32>().prop_map(Frame::Ping),
            stream().prop_map(|last| Frame::GoAway { last }),
            (stream(), stream()).prop_map(|(stream, bytes)| Frame::WindowUpdate { stream, bytes }),
            (stream(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..3000))
                .prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data: data.into() }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However the bytes are cut on their way, the same frames come out.
        #[test]
        fn written_is_read(sent in prop::collection::vec(frames(), 0..12), cut in 1_usize..500) {
            let mut encoder = Encoder::new();
            let mut bytes = Vec::new();
            sent.iter().for_each(|frame| encoder.write(frame, &mut bytes));
            let (mut decoder, mut buffer, mut came) = (Decoder::new(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                    came.push(frame);
                }
            }
            prop_assert_eq!(came, sent);
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::new();
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }
    }
}
