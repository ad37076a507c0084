//! Request paths of the distribution API to endpoints. Repository names contain slashes, so paths are read
//! from their end.

use http::Method;

use super::error::RegistryError;
use super::name::{Digest, Name, Reference};

/// What is done to a blob, manifest or upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Head,
    Get,
    Patch,
    Put,
    Delete,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Base,
    Blob(Verb, Name, Digest),
    StartUpload(Name),
    Upload(Verb, Name, String),
    Manifest(Verb, Name, Reference),
    Tags(Name),
    Referrers(Name, Digest),
}

/// Reads method and path.
pub(super) fn endpoint(method: &Method, path: &str) -> Result<Endpoint, RegistryError> {
    let unknown = || RegistryError::new(404, "NAME_UNKNOWN", "there is nothing at this path");
    let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
    if rest.is_empty() || rest == "/" {
        return Ok(Endpoint::Base);
    }
    let segments: Vec<&str> = rest.trim_start_matches('/').split('/').collect();
    let name = |parts: &[&str]| {
        let text = parts.join("/");
        text.parse::<Name>().map_err(|_| RegistryError::name_invalid(&text))
    };
    match segments.as_slice() {
        [repository @ .., "tags", "list"] => Ok(Endpoint::Tags(name(repository)?)),
        [repository @ .., "blobs", "uploads"] | [repository @ .., "blobs", "uploads", ""]
            if method == Method::POST =>
        {
            Ok(Endpoint::StartUpload(name(repository)?))
        }
        [repository @ .., "blobs", "uploads", id] if !id.is_empty() => {
            Ok(Endpoint::Upload(verb(method)?, name(repository)?, (*id).to_owned()))
        }
        [repository @ .., "blobs", text] => {
            Ok(Endpoint::Blob(verb(method)?, name(repository)?, digest(text)?))
        }
        [repository @ .., "referrers", text] => Ok(Endpoint::Referrers(name(repository)?, digest(text)?)),
        [repository @ .., "manifests", text] => {
            let reference = text.parse().map_err(|_| {
                RegistryError::manifest_invalid(format!("{text:?} is neither a tag nor a sha256 digest"))
            })?;
            Ok(Endpoint::Manifest(verb(method)?, name(repository)?, reference))
        }
        _ => Err(unknown()),
    }
}

fn digest(text: &str) -> Result<Digest, RegistryError> {
    text.parse().map_err(|_| RegistryError::digest_invalid(format!("{text:?} is no sha256 digest")))
}

fn verb(method: &Method) -> Result<Verb, RegistryError> {
    match *method {
        Method::HEAD => Ok(Verb::Head),
        Method::GET => Ok(Verb::Get),
        Method::PATCH => Ok(Verb::Patch),
        Method::PUT => Ok(Verb::Put),
        Method::DELETE => Ok(Verb::Delete),
        _ => Err(RegistryError::unsupported()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let name: Name = "a/b".parse().unwrap();
        let hex = format!("sha256:{}", "0".repeat(64));
        let digest: Digest = hex.parse().unwrap();
        let table = [
            (Method::GET, "/v2/".to_owned(), Endpoint::Base),
            (Method::GET, "/v2".to_owned(), Endpoint::Base),
            (Method::POST, "/v2/a/b/blobs/uploads/".to_owned(), Endpoint::StartUpload(name.clone())),
            (
                Method::PATCH,
                "/v2/a/b/blobs/uploads/x".to_owned(),
                Endpoint::Upload(Verb::Patch, name.clone(), "x".into()),
            ),
            (
                Method::HEAD,
                format!("/v2/a/b/blobs/{hex}"),
                Endpoint::Blob(Verb::Head, name.clone(), digest.clone()),
            ),
            (
                Method::PUT,
                "/v2/a/b/manifests/latest".to_owned(),
                Endpoint::Manifest(Verb::Put, name.clone(), "latest".parse().unwrap()),
            ),
            (Method::GET, "/v2/a/b/tags/list".to_owned(), Endpoint::Tags(name.clone())),
            (Method::GET, format!("/v2/a/b/referrers/{hex}"), Endpoint::Referrers(name.clone(), digest)),
        ];
        for (method, path, expected) in table {
            assert_eq!(endpoint(&method, &path).unwrap(), expected, "{path}");
        }
        for path in ["/", "/v1/", "/v2/a", "/v2/a/../b/tags/list", "/v2/_catalog", "/v2/a/blobs/sha256:x"] {
            assert!(endpoint(&Method::GET, path).is_err(), "{path}");
        }
    }
}
