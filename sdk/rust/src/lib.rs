//! HTTP functions as WebAssembly components (`wasi:http/proxy` 0.2), and as plain functions in `cargo test`.
//! A thin layer over the crate `wasip2`: what a program does not use is not in its component.
//!
//! ```
//! use catamaran_sdk::{Method, Request, Response};
//!
//! catamaran_sdk::http!(handle);
//!
//! fn handle(request: Request) -> Response {
//!     match (request.method(), request.path()) {
//!         (Method::Get, "/") => {
//!             let name = request.query("name").unwrap_or_else(|| "world".into());
//!             Response::text(format!("hello, {name}\n"))
//!         }
//!         _ => Response::not_found(),
//!     }
//! }
//! # assert_eq!(handle(Request::new(Method::Get, "/?name=you")).read_text().unwrap(), "hello, you\n");
//! ```

mod body;
pub mod fetch;
pub mod files;
mod headers;
mod method;
mod percent;
mod request;
mod response;
pub mod task;
mod url;
#[cfg(target_family = "wasm")]
mod wasi;

pub use body::Body;
pub use headers::Headers;
pub use method::Method;
pub use request::Request;
pub use response::{Answer, Response};

/// What [`http!`] needs of this crate; not for use by hand.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod export {
    pub use crate::wasi::incoming::{serve, serve_async};
    pub use wasip2;
}

/// Any error, for handlers that use `?`: it is logged, and the client gets a 500.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A variable of the container's environment: what the manifest's `env` and `envFrom` say (plain values, ConfigMaps,
/// Secrets, fields of the pod).
#[must_use]
pub fn env(name: &str) -> Option<String> {
    #[cfg(target_family = "wasm")]
    return wasi::environment(name);
    #[cfg(not(target_family = "wasm"))]
    std::env::var(name).ok()
}

/// Makes a function the handler of all requests: `http!(handle)` for a `fn`, `http!(async handle)` for an `async fn`.
/// It takes a [`Request`] and returns a [`Response`], text, or a `Result` of these. Where the target is not wasm this is
/// nothing, so that the function can be tested with `cargo test`.
#[macro_export]
macro_rules! http {
    (async $handler:path) => {
        $crate::http!(@export serve_async, $handler);
    };
    ($handler:path) => {
        $crate::http!(@export serve, $handler);
    };
    (@export $serve:ident, $handler:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Function;
            impl $crate::export::wasip2::exports::http::incoming_handler::Guest for Function {
                fn handle(
                    request: $crate::export::wasip2::http::types::IncomingRequest,
                    response: $crate::export::wasip2::http::types::ResponseOutparam,
                ) {
                    $crate::export::$serve(request, response, $handler);
                }
            }
            $crate::export::wasip2::http::proxy::export!(Function with_types_in $crate::export::wasip2);
        };
        // A handler is used by the component only.
        #[cfg(not(target_family = "wasm"))]
        const _: () = {
            let _ = $handler;
        };
    };
}
