//! Blobs: HEAD, GET with ranges, DELETE.

use std::io::SeekFrom;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use futures::TryStreamExt;

use super::disk::Disk;
use super::error::RegistryError;
use super::name::{Digest, Name};
use super::path::Verb;
use crate::body::{self, Body};

/// The header with the digest of what is served.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const PIECE: usize = 64 * 1024;

pub(super) async fn answer(
    disk: &Disk,
    verb: Verb,
    (name, digest): (&Name, &Digest),
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let unknown = || RegistryError::blob_unknown(&digest.to_string());
    match verb {
        Verb::Head => {
            let length = disk.blob(name, digest).await?.ok_or_else(unknown)?;
            Ok(response(200, digest, length, body::empty()))
        }
        Verb::Get => {
            let length = disk.blob(name, digest).await?.ok_or_else(unknown)?;
            content(disk, digest, length, headers).await
        }
        Verb::Delete => {
            if !disk.delete_blob(name, digest).await? {
                return Err(unknown());
            }
            Ok(body::json(202, ""))
        }
        Verb::Patch | Verb::Put => Err(RegistryError::unsupported()),
    }
}

async fn content(
    disk: &Disk,
    digest: &Digest,
    length: u64,
    headers: &HeaderMap,
) -> Result<Response<Body>, RegistryError> {
    let range = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(text) => parse_range(text, length)?,
        None => None,
    };
    let mut file = tokio::fs::File::open(disk.blob_path(digest)).await?;
    let (first, count) = range.map_or((0, length), |(first, last)| (first, last - first + 1));
    file.seek(SeekFrom::Start(first)).await?;
    let pieces = ReaderStream::with_capacity(file.take(count), PIECE).map_err(Into::into);
    let code = if range.is_some() { 206 } else { 200 };
    let mut response = response(code, digest, count, body::stream(pieces));
    if let Some((first, last)) = range
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{length}"))
    {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

fn response(code: u16, digest: &Digest, length: u64, content: Body) -> Response<Body> {
    let mut response = body::typed(code, "application/octet-stream", "");
    *response.body_mut() = content;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(value) = HeaderValue::from_str(&digest.to_string()) {
        headers.insert(header::ETAG, value.clone());
        headers.insert(CONTENT_DIGEST, value);
    }
    response
}

/// First and last byte of a single range; `None` when the header is to be ignored (several ranges, other units).
fn parse_range(text: &str, length: u64) -> Result<Option<(u64, u64)>, RegistryError> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let end = length.saturating_sub(1);
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(end)),
        (Ok(first), Err(_)) if last.is_empty() => (first, end),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => (length.saturating_sub(count), end),
        _ => return Ok(None),
    };
    if range.0 >= length {
        return Err(RegistryError::new(416, "BLOB_UNKNOWN", format!("the blob has only {length} bytes")));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let table = [
            ("bytes=0-4", Some((0, 4))),
            ("bytes=5-", Some((5, 9))),
            ("bytes=-3", Some((7, 9))),
            ("bytes=2-99", Some((2, 9))),
            ("bytes=4-2", None),
            ("items=0-1", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_range(text, 10).unwrap(), expected, "{text}");
        }
        assert!(parse_range("bytes=10-", 10).is_err());
    }
}
