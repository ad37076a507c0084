//! A static site: serves the files of the volume that is mounted at SITE_DIR.

use catamaran_sdk::{Request, Response, env, files};

catamaran_sdk::http!(handle);

fn handle(request: Request) -> Response {
    let root = env("SITE_DIR").unwrap_or_else(|| "/site".into());
    files::serve(root, &request).header("cache-control", "max-age=60")
}
