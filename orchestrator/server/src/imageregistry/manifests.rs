//! Manifests, tags and referrers.

use http::{HeaderName, HeaderValue, Request, Response, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::blobs::CONTENT_DIGEST;
use super::disk::Disk;
use super::error::RegistryError;
use super::name::{Digest, Name, Reference};
use super::path::Verb;
use crate::body::{self, Body};
use crate::query::Query;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) async fn answer(
    disk: &Disk,
    verb: Verb,
    (name, reference): (&Name, &Reference),
    request: Request<Body>,
) -> Result<Response<Body>, RegistryError> {
    let unknown = || RegistryError::manifest_unknown(&reference.to_string());
    match verb {
        Verb::Get | Verb::Head => {
            let digest = resolve(disk, name, reference).await?.ok_or_else(unknown)?;
            let (media_type, content) = disk.manifest(name, &digest).await?.ok_or_else(unknown)?;
            let length = content.len();
            let shown = if verb == Verb::Get { content } else { Vec::new() };
            let mut response = body::typed(200, &media_type, shown);
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            set_digest(&mut response, &digest);
            Ok(response)
        }
        Verb::Put => put(disk, name, reference, request).await,
        Verb::Delete => {
            let there = match reference {
                Reference::Tag(tag) => disk.delete_tag(name, tag).await?,
                Reference::Digest(digest) => disk.delete_manifest(name, digest).await?,
            };
            if there { Ok(body::json(202, "")) } else { Err(unknown()) }
        }
        Verb::Patch => Err(RegistryError::unsupported()),
    }
}

async fn resolve(disk: &Disk, name: &Name, reference: &Reference) -> Result<Option<Digest>, RegistryError> {
    Ok(match reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(tag) => disk.tag(name, tag).await?,
    })
}

async fn put(
    disk: &Disk,
    name: &Name,
    reference: &Reference,
    request: Request<Body>,
) -> Result<Response<Body>, RegistryError> {
    let said =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let content = body::read(request.into_body())
        .await
        .map_err(|status| RegistryError::new(413, "SIZE_INVALID", status.message))?;
    let digest = Digest::of(&Sha256::digest(&content));
    if let Reference::Digest(wanted) = reference
        && *wanted != digest
    {
        return Err(RegistryError::digest_invalid(format!("the manifest has digest {digest}, not {wanted}")));
    }
    let manifest: Value = serde_json::from_slice(&content)
        .map_err(|error| RegistryError::manifest_invalid(format!("the manifest is no JSON: {error}")))?;
    let media_type = media_type(&manifest, said.as_deref())?;
    check_parts(disk, name, &manifest).await?;
    let tag = match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    };
    disk.put_manifest(name, (&digest, tag), (&media_type, &content)).await?;
    let mut response = body::json(201, "");
    if let Ok(location) = HeaderValue::from_str(&format!("/v2/{}/manifests/{digest}", name.as_str())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(subject) = manifest["subject"]["digest"].as_str()
        && let Ok(value) = HeaderValue::from_str(subject)
    {
        response.headers_mut().insert(HeaderName::from_static("oci-subject"), value);
    }
    set_digest(&mut response, &digest);
    Ok(response)
}

/// The media type that manifest and header agree on.
fn media_type(manifest: &Value, said: Option<&str>) -> Result<String, RegistryError> {
    let inside = manifest["mediaType"].as_str();
    match (inside, said.filter(|said| *said != "application/json" && *said != "application/octet-stream")) {
        (Some(inside), Some(said)) if inside != said => Err(RegistryError::manifest_invalid(format!(
            "the manifest says mediaType {inside}, the request {said}"
        ))),
        (Some(one), _) | (None, Some(one)) => Ok(one.to_owned()),
        (None, None) if manifest["manifests"].is_array() => Ok(INDEX.to_owned()),
        (None, None) => Ok(MANIFEST.to_owned()),
    }
}

/// Everything that the manifest names must be in the repository.
async fn check_parts(disk: &Disk, name: &Name, manifest: &Value) -> Result<(), RegistryError> {
    let missing = |text: &str| {
        RegistryError::new(
            404,
            "MANIFEST_BLOB_UNKNOWN",
            format!("{text} is not in this repository; push it first"),
        )
    };
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for part in layers.chain(manifest.get("config")) {
        let text = part["digest"].as_str().unwrap_or_default();
        let digest: Digest = text
            .parse()
            .map_err(|_| RegistryError::manifest_invalid(format!("{text:?} is no sha256 digest")))?;
        // Layers that may not be redistributed carry addresses and are not here.
        if part["urls"].is_array() {
            continue;
        }
        if disk.blob(name, &digest).await?.is_none() {
            return Err(missing(text));
        }
    }
    for part in manifest["manifests"].as_array().into_iter().flatten() {
        let text = part["digest"].as_str().unwrap_or_default();
        let digest: Digest = text
            .parse()
            .map_err(|_| RegistryError::manifest_invalid(format!("{text:?} is no sha256 digest")))?;
        if disk.manifest(name, &digest).await?.is_none() {
            return Err(missing(text));
        }
    }
    Ok(())
}

/// `GET …/tags/list`, with `n` and `last`.
pub(super) async fn tags(disk: &Disk, name: &Name, query: &Query) -> Result<Response<Body>, RegistryError> {
    let tags = disk.tags(name).await?.ok_or_else(|| {
        RegistryError::new(404, "NAME_UNKNOWN", format!("there is no repository {}", name.as_str()))
    })?;
    let last = query.get("last").unwrap_or_default();
    let wanted = query.get("n").and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
    let rest: Vec<&String> = tags.iter().filter(|tag| tag.as_str() > last).collect();
    let page = &rest[..wanted.min(rest.len())];
    let mut response = body::json(200, json!({"name": name.as_str(), "tags": page}).to_string());
    if let Some(end) = page.last()
        && page.len() < rest.len()
    {
        let next = format!("</v2/{}/tags/list?n={wanted}&last={end}>; rel=\"next\"", name.as_str());
        if let Ok(value) = HeaderValue::from_str(&next) {
            response.headers_mut().insert(header::LINK, value);
        }
    }
    Ok(response)
}

/// `GET …/referrers/DIGEST`: the manifests whose subject it is.
pub(super) async fn referrers(
    disk: &Disk,
    name: &Name,
    subject: &Digest,
    query: &Query,
) -> Result<Response<Body>, RegistryError> {
    let wanted = query.get("artifactType");
    let subject = subject.to_string();
    let mut found = Vec::new();
    for digest in disk.manifests(name).await? {
        let Some((media_type, content)) = disk.manifest(name, &digest).await? else { continue };
        let Ok(manifest) = serde_json::from_slice::<Value>(&content) else { continue };
        if manifest["subject"]["digest"] != subject.as_str() {
            continue;
        }
        let kind = manifest["artifactType"].as_str().or_else(|| manifest["config"]["mediaType"].as_str());
        if wanted.is_some() && wanted != kind {
            continue;
        }
        let mut entry = json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()});
        if let Some(kind) = kind {
            entry["artifactType"] = kind.into();
        }
        if manifest["annotations"].is_object() {
            entry["annotations"] = manifest["annotations"].clone();
        }
        found.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": found});
    let mut response = body::typed(200, INDEX, index.to_string());
    if wanted.is_some() {
        let applied = HeaderValue::from_static("artifactType");
        response.headers_mut().insert(HeaderName::from_static("oci-filters-applied"), applied);
    }
    Ok(response)
}

fn set_digest(response: &mut Response<Body>, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(&digest.to_string()) {
        response.headers_mut().insert(CONTENT_DIGEST, value);
    }
}
