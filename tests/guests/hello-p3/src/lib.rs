//! An HTTP component of WASI 0.3 (world wasi:http/service): `/`, `/env`, `/count`, `/trap`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::http_compat::{IncomingRequestBody, http_from_wasi_request, http_into_wasi_response};

wasip3::http::service::export!(App);

/// Requests this instance has served.
static COUNT: AtomicU32 = AtomicU32::new(0);

struct App;

impl wasip3::exports::http::handler::Guest for App {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        http_into_wasi_response(http::Response::new(body(&request)))
    }
}

fn body(request: &http::Request<IncomingRequestBody>) -> String {
    let count = COUNT.fetch_add(1, Relaxed) + 1;
    match request.uri().path() {
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/count" => format!("{count}\n"),
        "/trap" => core::arch::wasm32::unreachable(),
        _ => "hello from wasi 0.3\n".to_string(),
    }
}
