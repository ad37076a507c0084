//! Responses, and what else a handler may return.

use std::fmt::Display;
use std::io;

use crate::{Body, Headers};

/// What is answered to a request, and what an outgoing request is answered with.
#[derive(Debug, Default)]
pub struct Response {
    status: u16,
    headers: Headers,
    body: Body,
}

impl Response {
    /// An empty response.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Response { status, ..Response::default() }
    }

    /// 200 with a text.
    #[must_use]
    pub fn text(text: impl Into<Body>) -> Self {
        Response::new(200).header("content-type", "text/plain; charset=utf-8").body(text)
    }

    /// 200 with a page.
    #[must_use]
    pub fn html(page: impl Into<Body>) -> Self {
        Response::new(200).header("content-type", "text/html; charset=utf-8").body(page)
    }

    /// 200 with a text that is JSON already, such as `serde_json::to_string` makes.
    #[must_use]
    pub fn json(text: impl Into<Body>) -> Self {
        Response::new(200).header("content-type", "application/json").body(text)
    }

    /// 200 with what a function writes while it is sent; see [`Body::writer`].
    #[must_use]
    pub fn stream(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + 'static) -> Self {
        Response::new(200).body(Body::writer(write))
    }

    /// 404 with a text that says so.
    #[must_use]
    pub fn not_found() -> Self {
        Response::text("not found\n").status(404)
    }

    /// 303: to be seen elsewhere.
    #[must_use]
    pub fn see_other(location: &str) -> Self {
        Response::new(303).header("location", location)
    }

    /// With another status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With a header field; one of that name is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The status code.
    #[must_use]
    pub fn status_code(&self) -> u16 {
        self.status
    }

    /// The header fields.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The header fields, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The body, to be read while it comes in.
    pub fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks before its end.
    pub fn read_bytes(&mut self) -> io::Result<Vec<u8>> {
        self.body.read_bytes()
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// When the connection breaks before its end, or it is not UTF-8.
    pub fn read_text(&mut self) -> io::Result<String> {
        self.body.read_text()
    }

    #[cfg(target_family = "wasm")]
    pub(crate) fn of_host(status: u16, headers: Headers, body: Body) -> Self {
        Response { status, headers, body }
    }

    #[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "of use where there is a host"))]
    pub(crate) fn into_parts(self) -> (u16, Headers, Body) {
        (self.status, self.headers, self.body)
    }
}

/// What a handler may return.
pub trait Answer {
    /// The response that it means.
    fn into_response(self) -> Response;
}

impl Answer for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl Answer for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl Answer for &str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

/// An error is written to the container's log; the client only learns that there was one.
impl<A: Answer, E: Display> Answer for Result<A, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(error) => {
                eprintln!("error: {error}");
                Response::text("internal error\n").status(500)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_responses() {
        let mut text = "hi".into_response();
        assert_eq!((text.status_code(), text.read_text().unwrap().as_str()), (200, "hi"));
        assert_eq!(text.headers().get("content-type"), Some("text/plain; charset=utf-8"));
        let mut failed = Err::<Response, _>("the secret is 7").into_response();
        assert_eq!((failed.status_code(), failed.read_text().unwrap().as_str()), (500, "internal error\n"));
        assert_eq!(Ok::<_, &str>(Response::not_found()).into_response().status_code(), 404);
    }

    #[test]
    fn fields_are_set_once() {
        let response = Response::text("{}").header("Content-Type", "application/json");
        assert_eq!(response.headers().iter().count(), 1);
        assert_eq!(Response::see_other("/x").headers().get("location"), Some("/x"));
    }
}
