//! The program as a WebAssembly component that exports `wasi:http/incoming-handler@0.2`.
//! The host brings the HTTP server; each request runs in an instance of its own.
#![cfg(target_family = "wasm")]

mod answer;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_else(|| "/".into());
        let answer = answer::answer(&path, &pod_name());
        let headers = Fields::new();
        let length = answer.body.len().to_string().into_bytes();
        let _ = headers.append("content-length", &length);
        let _ = headers.append("content-type", b"text/plain; charset=utf-8");
        let response = OutgoingResponse::new(headers);
        let _ = response.set_status_code(answer.status);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(outparam, Ok(response));
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(answer.body.as_bytes());
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

/// The pod's name, which the manifest puts into the environment.
fn pod_name() -> String {
    let environment = wasip2::cli::environment::get_environment();
    environment.into_iter().find(|(name, _)| name == "POD_NAME").map_or_else(|| "unknown".into(), |(_, value)| value)
}
