//! A request as a handler sees it. What the host has is fetched when it is asked for, once.

use std::cell::OnceCell;
use std::io;

use crate::percent::{self, Plus};
use crate::{Body, Headers, Method};

/// A request to answer. It reads as its body does.
pub struct Request {
    method: OnceCell<Method>,
    /// Path and query.
    target: OnceCell<String>,
    headers: OnceCell<Headers>,
    body: Option<Body>,
    #[cfg(target_family = "wasm")]
    host: Option<crate::wasi::incoming::Head>,
}

impl Request {
    /// A request made by hand, for tests of a handler. `target` is the path with its query.
    #[must_use]
    pub fn new(method: Method, target: &str) -> Self {
        Request {
            method: OnceCell::from(method),
            target: OnceCell::from(target.to_owned()),
            headers: OnceCell::from(Headers::default()),
            body: Some(Body::default()),
            #[cfg(target_family = "wasm")]
            host: None,
        }
    }

    /// With one more header field.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.take().unwrap_or_default();
        headers.append(name, value);
        self.headers = OnceCell::from(headers);
        self
    }

    /// With a body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }

    #[cfg(target_family = "wasm")]
    pub(crate) fn of_host(host: crate::wasi::incoming::Head) -> Self {
        let (method, target, headers) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Request { method, target, headers, body: None, host: Some(host) }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        #[cfg(target_family = "wasm")]
        if let Some(host) = &self.host {
            return self.method.get_or_init(|| host.method());
        }
        self.method.get().expect("a request made by hand has a method")
    }

    /// The path without its query, as it was sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("/")
    }

    /// The parts of the path between its slashes, decoded: `/users/j%C3%B6rg` is `["users", "jörg"]`.
    #[must_use]
    pub fn segments(&self) -> Vec<String> {
        let parts = self.path().split('/').filter(|part| !part.is_empty());
        parts.map(|part| percent::decode(part, Plus::Itself)).collect()
    }

    /// The first value of that name in the query, decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        self.queries().find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All names and values of the query, decoded.
    pub fn queries(&self) -> impl Iterator<Item = (String, String)> {
        percent::pairs(self.target().split_once('?').map_or("", |(_, query)| query))
    }

    /// The first value of a header field, when it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)
    }

    /// All header fields.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        #[cfg(target_family = "wasm")]
        if let Some(host) = &self.host {
            return self.headers.get_or_init(|| host.headers());
        }
        self.headers.get().expect("a request made by hand has headers")
    }

    /// The body, to be read while it comes in ([`io::Read`]) or passed on.
    pub fn body(&mut self) -> &mut Body {
        #[cfg(target_family = "wasm")]
        if let Some(host) = &self.host {
            return self.body.get_or_insert_with(|| host.body());
        }
        self.body.get_or_insert_default()
    }

    /// The body alone: to pass it on as that of a response or of another request.
    #[must_use]
    pub fn into_body(mut self) -> Body {
        std::mem::take(self.body())
    }

    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks before its end.
    pub fn read_bytes(&mut self) -> io::Result<Vec<u8>> {
        self.body().read_bytes()
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// When the connection breaks before its end, or it is not UTF-8.
    pub fn read_text(&mut self) -> io::Result<String> {
        self.body().read_text()
    }

    fn target(&self) -> &str {
        #[cfg(target_family = "wasm")]
        if let Some(host) = &self.host {
            return self.target.get_or_init(|| host.target());
        }
        self.target.get().map_or("/", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_its_parts() {
        let mut request = Request::new(Method::Put, "/users/j%C3%B6rg/?full=yes&name=a+b&name=c")
            .with_header("Accept", "text/plain")
            .with_body("text");
        assert_eq!(request.method(), &Method::Put);
        assert_eq!(request.path(), "/users/j%C3%B6rg/");
        assert_eq!(request.segments(), ["users", "jörg"]);
        assert_eq!(request.query("name").as_deref(), Some("a b"));
        assert_eq!((request.query("none"), request.queries().count()), (None, 3));
        assert_eq!(request.header("accept"), Some("text/plain"));
        assert_eq!(request.read_text().unwrap(), "text");
        assert_eq!(request.read_text().unwrap(), "", "it is read once");
    }

    #[test]
    fn a_path_is_there_without_a_query() {
        let request = Request::new(Method::Get, "/");
        assert_eq!((request.path(), request.queries().count()), ("/", 0));
        assert!(request.segments().is_empty());
    }
}
