//! OpenAPI: the index with hashes, a document per group version that is immutable under its hash, a small v2
//! document for old clients. Documents are made at first use.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use catamaran_api::kind;
use catamaran_api::status::Status;

use crate::body::{self, Body};
use crate::negotiate;
use crate::query::Query;
use crate::{discovery, error};

const YEAR: &str = "public, immutable, max-age=31536000";

/// The documents so far.
pub(crate) struct OpenApi {
    index: OnceLock<Bytes>,
    documents: Mutex<HashMap<(String, String), (Bytes, String)>>,
}

impl OpenApi {
    pub(crate) fn new() -> Self {
        OpenApi { index: OnceLock::new(), documents: Mutex::new(HashMap::new()) }
    }

    /// Bytes and hash of a group version's document.
    fn document(&self, group: &str, version: &str) -> Option<(Bytes, String)> {
        let key = (group.to_owned(), version.to_owned());
        if let Some(found) = self.documents.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Some(found.clone());
        }
        discovery::resources(group, version).next()?;
        let bytes = catamaran_api::openapi::document(group, version)?;
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        let made = (bytes, hash);
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
        Some(made)
    }

    /// `/openapi/v3`.
    pub(crate) fn index(&self, headers: &HeaderMap) -> Response<Body> {
        let bytes = self.index.get_or_init(|| {
            let mut paths = Map::new();
            for group in kind::groups() {
                for version in &group.versions {
                    let Some((_, hash)) = self.document(group.name, version) else { continue };
                    let path = kind::root_path(group.name, version);
                    let entry = json!({"serverRelativeURL": format!("/openapi/v3{path}?hash={hash}")});
                    paths.insert(path.trim_start_matches('/').to_owned(), entry);
                }
            }
            Value::Object(Map::from_iter([("paths".to_owned(), Value::Object(paths))])).to_string().into()
        });
        let mut response = body::typed(200, "application/json", "");
        body::compress(&mut response, bytes.clone(), body::takes_gzip(headers));
        response
    }

    /// `/openapi/v3/…` of a group version; another hash is sent to the right one.
    pub(crate) fn serve(
        &self,
        (group, version): (&str, &str),
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Status> {
        let Some((bytes, hash)) = self.document(group, version) else { return Ok(error::page_not_found()) };
        let entries = negotiate::accept_entries(headers);
        let json = |name: &str| matches!(name, "application/json" | "application/*" | "*/*");
        if !entries.is_empty() && !entries.iter().any(|entry| json(entry.name)) {
            return Err(Status::not_acceptable(&["application/json"]));
        }
        if query.get("hash").is_some_and(|asked| asked != hash) {
            let place = format!("/openapi/v3{}?hash={hash}", kind::root_path(group, version));
            let mut response = body::typed(301, "text/plain", "");
            if let Ok(place) = HeaderValue::from_str(&place) {
                response.headers_mut().insert(header::LOCATION, place);
            }
            return Ok(response);
        }
        let etag = format!("\"{hash}\"");
        let mut response = body::typed(200, "application/json", "");
        if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes()) {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        } else {
            body::compress(&mut response, bytes, body::takes_gzip(headers));
        }
        let out = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            out.insert(header::ETAG, etag);
        }
        out.insert(header::VARY, HeaderValue::from_static("Accept"));
        if query.get("hash").is_some() {
            out.insert(header::CACHE_CONTROL, HeaderValue::from_static(YEAR));
            let expires = jiff::Timestamp::now() + jiff::Span::new().hours(24 * 365);
            let expires = expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            if let Ok(expires) = HeaderValue::from_str(&expires) {
                out.insert(header::EXPIRES, expires);
            }
        } else {
            out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        Ok(response)
    }

    /// `/openapi/v2`: JSON, or protobuf for those who take nothing else.
    pub(crate) fn v2(&self, headers: &HeaderMap) -> Response<Body> {
        const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let entries = negotiate::accept_entries(headers);
        let first = entries.iter().map(|entry| entry.name).find(|name| {
            matches!(*name, PROTOBUF | "application/json" | "application/*" | "*/*")
        });
        if first == Some(PROTOBUF) {
            let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            return body::typed(200, media, stub_protobuf());
        }
        let stub = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {}});
        body::json(200, stub.to_string())
    }
}

/// gnostic's `openapi.v2.Document` with nothing but its required head: swagger (1), info (2: title 1, version 2),
/// paths (8). Clients that get it turn to v3.
fn stub_protobuf() -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        // Every part is shorter than 128 bytes, so its length is one byte.
        let length = u8::try_from(content.len()).expect("a constant of a few bytes");
        [&[number << 3 | 2, length], content].concat()
    }
    let info = [field(1, b"Kubernetes"), field(2, b"v1.33.0")].concat();
    [field(1, b"2.0"), field(2, &info), field(8, b"")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_is_the_two_fields_that_clients_ask_for() {
        assert_eq!(stub_protobuf(), b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.33.0\x42\x00");
    }

    #[test]
    fn documents_are_found_by_their_hash() {
        let openapi = OpenApi::new();
        let (_, hash) = openapi.document("apps", "v1").unwrap();
        let ask = |query: &str, headers: &HeaderMap| {
            openapi.serve(("apps", "v1"), &Query::parse(Some(query)), headers).unwrap()
        };
        let none = HeaderMap::new();
        let right = ask(&format!("hash={hash}"), &none);
        assert_eq!(right.status(), 200);
        assert!(right.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let wrong = ask("hash=0", &none);
        assert_eq!(wrong.status(), 301);
        assert!(wrong.headers()[header::LOCATION].to_str().unwrap().ends_with(&hash));
        let known = HeaderMap::from_iter([(header::IF_NONE_MATCH, format!("\"{hash}\"").parse().unwrap())]);
        assert_eq!(ask("", &known).status(), 304);
    }
}
