//! An HTTP component (wasi:http 0.2) that calls others and misbehaves on request:
//! `/fetch?url=`, `/echo`, `/env`, `/sleep?ms=`, `/spin`, `/trap`, `/alloc?mib=`, `/count`, `/log?text=`, `/read?path=`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wstd::http::{Body, Client, Error, Request, Response, StatusCode};
use wstd::time::Duration;

/// Requests this instance has served.
static COUNT: AtomicU32 = AtomicU32::new(0);

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let count = COUNT.fetch_add(1, Relaxed) + 1;
    let uri = request.uri().clone();
    let query = uri.query().unwrap_or("");
    let value = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    Ok(match uri.path() {
        "/" => text(StatusCode::OK, "fetch\n"),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/count" => text(StatusCode::OK, &format!("{count}\n")),
        "/env" => {
            let lines: String = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
            text(StatusCode::OK, &lines)
        }
        "/echo" => Response::new(request.into_body()),
        "/log" => {
            println!("{}", value("text"));
            text(StatusCode::OK, "logged\n")
        }
        "/sleep" => {
            wstd::task::sleep(Duration::from_millis(value("ms").parse().unwrap_or(0))).await;
            text(StatusCode::OK, "slept\n")
        }
        "/alloc" => {
            let blocks: Vec<Vec<u8>> = (0..value("mib").parse().unwrap_or(0)).map(|_| vec![1; 1 << 20]).collect();
            text(StatusCode::OK, &format!("{}\n", blocks.len()))
        }
        "/read" => match std::fs::read_to_string(value("path")) {
            Ok(content) => text(StatusCode::OK, &content),
            Err(e) => text(StatusCode::NOT_FOUND, &format!("{e}\n")),
        },
        "/fetch" => fetch(value("url")).await?,
        "/spin" => loop {
            std::hint::spin_loop()
        },
        "/trap" => deliberate_trap(),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    })
}

async fn fetch(url: &str) -> Result<Response<Body>, Error> {
    let request = Request::get(url).body(Body::empty())?;
    Ok(match Client::new().send(request).await {
        Ok(response) => response,
        Err(e) => text(StatusCode::BAD_GATEWAY, &format!("{e:?}\n")),
    })
}

#[inline(never)]
fn deliberate_trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status;
    response
}
