//! OpenAPI: the index with hashes, a document per group version that is immutable under its hash, a small v2
//! document for old clients. Documents are made at first use.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};

use catamaran_api::status::Status;
use catamaran_api::{kind, openapi};

use crate::body::{self, Body};
use crate::custom::Catalog;
use crate::negotiate;
use crate::query::Query;
use crate::{discovery, error};

const YEAR: &str = "public, immutable, max-age=31536000";

/// The documents so far.
pub(crate) struct OpenApi {
    documents: Mutex<HashMap<(String, String), (Bytes, String)>>,
}

impl OpenApi {
    pub(crate) fn new() -> Self {
        OpenApi { documents: Mutex::new(HashMap::new()) }
    }

    /// Bytes and hash of a group version's document.
    fn document(&self, group: &str, version: &str) -> Option<(Bytes, String)> {
        let key = (group.to_owned(), version.to_owned());
        if let Some(found) = self.documents.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Some(found.clone());
        }
        discovery::resources(group, version).next()?;
        let bytes = openapi::document(group, version)?;
        let hash = openapi::hash(&bytes);
        let made = (bytes, hash);
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
        Some(made)
    }

    /// `/openapi/v3`.
    pub(crate) fn index(&self, catalog: &Catalog, headers: &HeaderMap) -> Response<Body> {
        let bytes = catalog.openapi_index.get_or_init(|| {
            let versions = kind::groups()
                .iter()
                .chain(&catalog.groups)
                .flat_map(|group| group.versions.iter().map(|version| (group.name, *version)));
            let document =
                |group, version| self.document(group, version).or_else(|| catalog.document(group, version));
            let hashes: Vec<(&str, &str, String)> = versions
                .filter_map(|(group, version)| Some((group, version, document(group, version)?.1)))
                .collect();
            let borrowed = hashes.iter().map(|(group, version, hash)| (*group, *version, hash.as_str()));
            openapi::index(borrowed).to_string().into()
        });
        tagged(headers, "application/json", (bytes.clone(), &openapi::hash(bytes)))
    }

    /// `/openapi/v3/…` of a group version; another hash is sent to the right one.
    pub(crate) fn serve(
        &self,
        (catalog, group, version): (&Catalog, &str, &str),
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Status> {
        let found = self.document(group, version).or_else(|| catalog.document(group, version));
        let Some((bytes, hash)) = found else { return Ok(error::page_not_found()) };
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
        let mut response = tagged(headers, "application/json", (bytes, &hash));
        let out = response.headers_mut();
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
        let first = entries
            .iter()
            .map(|entry| entry.name)
            .find(|name| matches!(*name, PROTOBUF | "application/json" | "application/*" | "*/*"));
        if first == Some(PROTOBUF) {
            let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            let bytes = openapi::v2_protobuf();
            let hash = openapi::hash(&bytes);
            return tagged(headers, media, (bytes, &hash));
        }
        let bytes = openapi::v2();
        let hash = openapi::hash(&bytes);
        tagged(headers, "application/json", (bytes, &hash))
    }
}

/// A document with its tag; who has it already is told so.
fn tagged(headers: &HeaderMap, media: &str, (bytes, hash): (Bytes, &str)) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let mut response = body::typed(200, media, "");
    if body::is_known(headers, &etag) {
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
    } else {
        body::compress(&mut response, bytes, body::takes_gzip(headers));
    }
    let out = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        out.insert(header::ETAG, etag);
    }
    out.append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_by_their_hash() {
        let openapi = OpenApi::new();
        let (_, hash) = openapi.document("apps", "v1").unwrap();
        let ask = |query: &str, headers: &HeaderMap| {
            openapi.serve((&Catalog::default(), "apps", "v1"), &Query::parse(Some(query)), headers).unwrap()
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
