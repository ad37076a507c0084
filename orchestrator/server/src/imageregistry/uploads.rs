//! Uploads: in one request, in chunks, by mounting; each piece is hashed as it comes.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;

use super::blobs::CONTENT_DIGEST;
use super::disk::{Disk, Upload};
use super::error::RegistryError;
use super::name::{Digest, Name};
use super::path::Verb;
use crate::body::{self, Body};
use crate::query::Query;

/// `POST …/blobs/uploads/`: begins an upload; `mount` and `digest` may finish it at once.
pub(super) async fn start(
    disk: &Disk,
    name: &Name,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, RegistryError> {
    if let (Some(mount), Some(from)) = (query.get("mount"), query.get("from"))
        && let (Ok(digest), Ok(from)) = (mount.parse::<Digest>(), from.parse::<Name>())
        && disk.blob(&from, &digest).await?.is_some()
        && disk.link_blob(name, &digest).await?
    {
        return Ok(created(name, &digest));
    }
    let (id, upload) = disk.start_upload();
    let Some(wanted) = query.get("digest") else { return Ok(accepted(202, name, &id, 0)) };
    let mut upload = upload.lock().await;
    receive(&mut upload, request.into_body()).await?;
    finish(disk, (name, &id), wanted, &mut upload).await
}

/// Everything below `…/blobs/uploads/ID`.
pub(super) async fn answer(
    disk: &Disk,
    verb: Verb,
    (name, id): (&Name, &str),
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, RegistryError> {
    let upload = disk.upload(id).await?.ok_or_else(|| RegistryError::upload_unknown(id))?;
    match verb {
        Verb::Get => Ok(accepted(204, name, id, upload.lock().await.size)),
        Verb::Patch => {
            let mut upload = upload.lock().await;
            check_place(request.headers(), upload.size)?;
            receive(&mut upload, request.into_body()).await?;
            Ok(accepted(202, name, id, upload.size))
        }
        Verb::Put => {
            let wanted = query
                .get("digest")
                .ok_or_else(|| RegistryError::digest_invalid("the parameter digest is missing"))?;
            let mut upload = upload.lock().await;
            check_place(request.headers(), upload.size)?;
            receive(&mut upload, request.into_body()).await?;
            finish(disk, (name, id), wanted, &mut upload).await
        }
        Verb::Delete => {
            disk.drop_upload(id).await?;
            Ok(body::json(204, ""))
        }
        Verb::Head => Err(RegistryError::unsupported()),
    }
}

async fn receive(upload: &mut Upload, mut content: Body) -> Result<(), RegistryError> {
    let mut file = upload.file().await?;
    while let Some(frame) = content.frame().await {
        let frame = frame.map_err(|error| {
            RegistryError::upload_invalid(format!("the connection broke during the upload: {error}"))
        })?;
        if let Ok(piece) = frame.into_data() {
            upload.append(&mut file, &piece).await?;
        }
    }
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    Ok(())
}

async fn finish(
    disk: &Disk,
    (name, id): (&Name, &str),
    wanted: &str,
    upload: &mut Upload,
) -> Result<Response<Body>, RegistryError> {
    let digest: Digest = wanted
        .parse()
        .map_err(|_| RegistryError::digest_invalid(format!("{wanted:?} is no sha256 digest")))?;
    let found = upload.digest();
    if found != digest {
        return Err(RegistryError::digest_invalid(format!(
            "the content has digest {found}, not {digest}; upload it again"
        )));
    }
    disk.finish_upload(name, id, upload).await?;
    Ok(created(name, &digest))
}

/// A chunk that says where it begins must begin where the upload stands.
fn check_place(headers: &HeaderMap, size: u64) -> Result<(), RegistryError> {
    let Some(text) = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(());
    };
    let first =
        text.trim_start_matches("bytes ").split_once('-').and_then(|(first, _)| first.parse::<u64>().ok());
    if first != Some(size) {
        return Err(RegistryError::range(format!(
            "the upload stands at byte {size}, the chunk is for {text}"
        )));
    }
    Ok(())
}

fn created(name: &Name, digest: &Digest) -> Response<Body> {
    let mut response = body::json(201, "");
    set(&mut response, header::LOCATION, &format!("/v2/{}/blobs/{digest}", name.as_str()));
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}

fn accepted(code: u16, name: &Name, id: &str, size: u64) -> Response<Body> {
    let mut response = body::json(code, "");
    set(&mut response, header::LOCATION, &format!("/v2/{}/blobs/uploads/{id}", name.as_str()));
    set(&mut response, header::RANGE, &format!("0-{}", size.saturating_sub(1)));
    set(&mut response, HeaderName::from_static("docker-upload-uuid"), id);
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
