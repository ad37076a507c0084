//! The distribution API through the handler.

use http::{Method, header};
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};

use super::name::Digest;
use super::*;

struct Reply {
    code: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

struct Client {
    registry: ImageRegistry,
    folder: tempfile::TempDir,
}

impl Client {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = ImageRegistry(Arc::new(Disk::open(folder.path()).await.unwrap()));
        Client { registry, folder }
    }

    async fn send(&self, method: Method, uri: &str, headers: &[(&str, &str)], content: &[u8]) -> Reply {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.registry.handle(request.body(body::full(content.to_vec())).unwrap()).await;
        let (parts, content) = response.into_parts();
        let body = content.collect().await.unwrap().to_bytes().to_vec();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn push_blob(&self, name: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let reply = self
            .send(Method::POST, &format!("/v2/{name}/blobs/uploads/?digest={digest}"), &[], content)
            .await;
        assert_eq!(reply.code, 201);
        digest
    }
}

fn digest(content: &[u8]) -> String {
    Digest::of(&Sha256::digest(content)).to_string()
}

#[tokio::test]
async fn chunks_are_put_together_and_verified() {
    let client = Client::new().await;
    let begun = client.send(Method::POST, "/v2/a/b/blobs/uploads/", &[], b"").await;
    assert_eq!(begun.code, 202);
    let place = begun.headers[header::LOCATION].to_str().unwrap().to_owned();
    let first = client.send(Method::PATCH, &place, &[("content-range", "0-4")], b"hello").await;
    assert_eq!((first.code, first.headers[header::RANGE].to_str().unwrap()), (202, "0-4"));
    let misplaced = client.send(Method::PATCH, &place, &[("content-range", "9-10")], b"x").await;
    assert_eq!(misplaced.code, 416);
    let wrong =
        client.send(Method::PUT, &format!("{place}?digest={}", digest(b"other")), &[], b" world").await;
    assert_eq!(wrong.code, 400);
    assert!(String::from_utf8(wrong.body).unwrap().contains("DIGEST_INVALID"));
    let right = digest(b"hello world");
    let done = client.send(Method::PUT, &format!("{place}?digest={right}"), &[], b"").await;
    assert_eq!(done.code, 201);
    let got = client.send(Method::GET, &format!("/v2/a/b/blobs/{right}"), &[], b"").await;
    assert_eq!(got.body, b"hello world");
    let part =
        client.send(Method::GET, &format!("/v2/a/b/blobs/{right}"), &[("range", "bytes=6-")], b"").await;
    assert_eq!((part.code, part.body.as_slice()), (206, b"world".as_slice()));
    let elsewhere = client.send(Method::HEAD, &format!("/v2/other/blobs/{right}"), &[], b"").await;
    assert_eq!(elsewhere.code, 404, "a blob belongs to the repositories it was pushed to");
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let client = Client::new().await;
    let begun = client.send(Method::POST, "/v2/a/blobs/uploads/", &[], b"").await;
    let place = begun.headers[header::LOCATION].to_str().unwrap().to_owned();
    client.send(Method::PATCH, &place, &[], b"first,").await;
    let disk = Disk::open(client.folder.path()).await.unwrap();
    let restarted = Client { registry: ImageRegistry(Arc::new(disk)), folder: tempfile::tempdir().unwrap() };
    let uri = format!("{place}?digest={}", digest(b"first,second"));
    assert_eq!(restarted.send(Method::PUT, &uri, &[], b"second").await.code, 201);
}

#[tokio::test]
async fn manifests_tags_and_deletion() {
    let client = Client::new().await;
    let config = client.push_blob("demo", b"{}").await;
    let layer = client.push_blob("demo", b"layer").await;
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "x", "digest": layer, "size": 5}],
    })
    .to_string();
    let by = |reference: &str| format!("/v2/demo/manifests/{reference}");
    let typed = [("content-type", media)];
    for tag in ["1.0", "latest"] {
        assert_eq!(client.send(Method::PUT, &by(tag), &typed, manifest.as_bytes()).await.code, 201);
    }
    let got = client.send(Method::GET, &by("latest"), &[], b"").await;
    assert_eq!((got.code, got.body.as_slice()), (200, manifest.as_bytes()));
    assert_eq!(got.headers[header::CONTENT_TYPE], media);
    let head = client.send(Method::HEAD, &by(&digest(manifest.as_bytes())), &[], b"").await;
    assert_eq!(head.headers[header::CONTENT_LENGTH], manifest.len().to_string());
    assert!(head.body.is_empty());

    let tags = client.send(Method::GET, "/v2/demo/tags/list?n=1", &[], b"").await;
    assert_eq!(tags.body, br#"{"name":"demo","tags":["1.0"]}"#);
    assert!(tags.headers.contains_key(header::LINK));

    let missing = manifest.replace(&layer, &digest(b"never pushed"));
    assert_eq!(client.send(Method::PUT, &by("x"), &typed, missing.as_bytes()).await.code, 404);
    assert_eq!(client.send(Method::PUT, &by("x"), &typed, b"nonsense").await.code, 400);
    let other = digest(b"other");
    assert_eq!(client.send(Method::PUT, &by(&other), &typed, manifest.as_bytes()).await.code, 400);

    let mounted = client
        .send(Method::POST, &format!("/v2/copy/blobs/uploads/?mount={layer}&from=demo"), &[], b"")
        .await;
    assert_eq!(mounted.code, 201);
    assert_eq!(client.send(Method::DELETE, &by(&digest(manifest.as_bytes())), &[], b"").await.code, 202);
    assert_eq!(client.send(Method::GET, &by("latest"), &[], b"").await.code, 404);
    assert_eq!(client.send(Method::DELETE, &format!("/v2/demo/blobs/{layer}"), &[], b"").await.code, 202);
    assert_eq!(client.send(Method::GET, &format!("/v2/copy/blobs/{layer}"), &[], b"").await.body, b"layer");
}

#[tokio::test]
async fn nothing_else_is_served() {
    let client = Client::new().await;
    for uri in ["/", "/v2/_catalog", "/v2/../etc/passwd", "/v2/a/blobs/sha256:zz", "/metrics"] {
        let reply = client.send(Method::GET, uri, &[], b"").await;
        assert!(matches!(reply.code, 400 | 404), "{uri} {}", reply.code);
        assert!(reply.headers.contains_key("docker-distribution-api-version"));
    }
    assert_eq!(client.send(Method::GET, "/v2/", &[], b"").await.code, 200);
}
