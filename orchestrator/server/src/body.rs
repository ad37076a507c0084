//! Bodies in and out: one boxed type, reading with a limit, compression of long answers.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures::Stream;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

use catamaran_api::status::Status;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every request and response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Longest request body, as in Kubernetes.
pub const REQUEST_LIMIT: usize = 3 * 1024 * 1024;
/// Answers from this length on are compressed for those who ask.
const GZIP_FROM: usize = 128 * 1024;

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that comes in pieces.
pub fn stream(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    use futures::TryStreamExt;
    BodyExt::boxed_unsync(StreamBody::new(pieces.map_ok(Frame::data)))
}

/// Any body as ours.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// The whole request body.
///
/// # Errors
/// 413 when it is too long, 400 when the connection breaks.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    read_up_to(body, REQUEST_LIMIT).await
}

/// The whole body, of at most `limit` bytes.
///
/// # Errors
/// 413 when it is too long, 400 when the connection breaks.
pub async fn read_up_to(body: Body, limit: usize) -> Result<Bytes, Status> {
    let mut body = body;
    let mut pieces = BytesMut::new();
    let mut only = None;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Status::bad_request(format!("could not read the request body: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        if pieces.len() + piece.len() + only.as_ref().map_or(0, Bytes::len) > limit {
            return Err(Status::request_entity_too_large(&format!("limit is {limit}")));
        }
        // Most bodies come in one piece, which is taken as it is.
        match only.take() {
            None if pieces.is_empty() => only = Some(piece),
            first => {
                pieces.extend_from_slice(&first.unwrap_or_default());
                pieces.extend_from_slice(&piece);
            }
        }
    }
    Ok(only.unwrap_or_else(|| pieces.freeze()))
}

/// A response with JSON text.
pub fn json(code: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    typed(code, "application/json", bytes)
}

/// A response with a content type.
pub fn typed(code: u16, content_type: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// Whether the caller takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim() == "gzip" && !matches!(weight.trim(), "q=0" | "q=0.0")
        })
}

/// Whether the caller has the content with this tag already (`If-None-Match`, RFC 9110, 13.1.2).
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).map(str::trim).any(|known| {
        // A comparison that lets weak tags be equal.
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

/// Compresses `bytes` when they are long and the caller takes it; says so in `response`.
pub fn compress(response: &mut Response<Body>, bytes: Bytes, gzip: bool) {
    if !gzip || bytes.len() < GZIP_FROM {
        *response.body_mut() = full(bytes);
        return;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(1));
    let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    match packed {
        Ok(packed) => {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            *response.body_mut() = full(packed);
        }
        Err(_) => *response.body_mut() = full(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_bodies_are_refused() {
        assert_eq!(read(full(vec![b' '; REQUEST_LIMIT])).await.unwrap().len(), REQUEST_LIMIT);
        assert_eq!(read(full(vec![b' '; REQUEST_LIMIT + 1])).await.unwrap_err().code, 413);
    }

    #[test]
    fn gzip_is_asked_for() {
        for (value, expected) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value.parse().unwrap())]);
            assert_eq!(takes_gzip(&headers), expected, "{value}");
        }
    }

    #[test]
    fn tags_are_compared() {
        for (value, expected) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, value.parse().unwrap())]);
            assert_eq!(is_known(&headers, "\"a\""), expected, "{value}");
        }
    }

    #[test]
    fn only_long_answers_are_compressed() {
        for (length, expected) in [(10, false), (GZIP_FROM, true)] {
            let mut response = Response::new(empty());
            compress(&mut response, vec![b'a'; length].into(), true);
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), expected);
        }
    }
}
