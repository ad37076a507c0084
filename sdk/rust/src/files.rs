//! Files of a mounted volume as responses. Reading and writing files otherwise is `std::fs`: a program sees its volume
//! mounts, and nothing else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::percent::{Plus, decode};
use crate::{Method, Request, Response};

/// The file below `root` that the request's path names; `index.html` for a directory. 404 where there is none, 405 for
/// methods other than GET and HEAD. Files are sent piece by piece.
#[must_use]
pub fn serve(root: impl AsRef<Path>, request: &Request) -> Response {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return Response::text("method not allowed\n").status(405).header("allow", "GET, HEAD");
    }
    let Some(path) = below(root.as_ref(), request.path()) else { return Response::not_found() };
    let path = if path.is_dir() {
        // Links on the page would otherwise be taken from the directory above.
        if !request.path().ends_with('/') {
            let name = request.path().rsplit('/').next().unwrap_or_default();
            return Response::see_other(&format!("./{name}/")).status(301);
        }
        path.join("index.html")
    } else {
        path
    };
    match open(&path) {
        Ok((file, length)) => Response::new(200)
            .header("content-type", content_type(&path))
            .header("content-length", length.to_string())
            .body(file),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Response::text("forbidden\n").status(403)
        }
        Err(_) => Response::not_found(),
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The path below the root; nothing when a part of it would lead out, or is hidden (`.git`, and the `..data` of mounted
/// ConfigMaps).
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let mut whole = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let part = decode(part, Plus::Itself);
        if part.starts_with('.') || part.contains(['/', '\\', '\0']) {
            return None;
        }
        whole.push(part);
    }
    Some(whole)
}

/// The media type that a file name's end stands for.
#[must_use]
pub fn content_type(path: &Path) -> &'static str {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    match end.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_lead_out() {
        let path = |text: &str| below(Path::new("/site"), text).map(|p| p.display().to_string());
        assert_eq!(path("/a//b/./c.txt").as_deref(), Some("/site/a/b/c.txt"));
        assert_eq!(path("/").as_deref(), Some("/site"));
        assert_eq!(path("/a%20b").as_deref(), Some("/site/a b"));
        for bad in
            ["/../x", "/a/../../x", "/%2e%2e/x", "/a%2fb", "/..%2fx", "/.git/config", "/x%00", "/a%5cb"]
        {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_folder_is_served() {
        let root = std::env::temp_dir().join(format!("catamaran-sdk-{}", std::process::id()));
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("index.html"), "<p>top").unwrap();
        std::fs::write(root.join("sub/a.css"), "p{}").unwrap();
        let get = |path: &str| serve(&root, &Request::new(Method::Get, path));
        let mut page = get("/");
        assert_eq!((page.status_code(), page.read_text().unwrap().as_str()), (200, "<p>top"));
        assert_eq!(page.headers().get("content-length"), Some("6"));
        assert_eq!(get("/sub/a.css?v=1").headers().get("content-type"), Some("text/css; charset=utf-8"));
        assert_eq!(get("//sub").headers().get("location"), Some("./sub/"));
        assert_eq!((get("/sub/").status_code(), get("/none").status_code()), (404, 404));
        assert_eq!(serve(&root, &Request::new(Method::Post, "/")).status_code(), 405);
        std::fs::remove_dir_all(root).unwrap();
    }
}
