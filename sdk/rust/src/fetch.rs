//! Requests to other Services and hosts. Inside a cluster a Service answers as `http://NAME` or `http://NAME.NAMESPACE`.

use std::fmt;
use std::time::Duration;

use crate::url::{Url, UrlError};
use crate::{Body, Headers, Method, Response};

/// A request to be sent.
#[derive(Debug)]
pub struct Request {
    method: Method,
    url: String,
    headers: Headers,
    body: Body,
    timeout: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The URL cannot be used.
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A header field or the method cannot be sent.
    Head(String),
    /// The body could not be sent whole.
    Body(String),
    /// The other side did not answer, or the pod may not call it; the host's words.
    Failed {
        /// Who was called.
        url: String,
        /// What the host says.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url { url, reason } => write!(f, "{url:?} cannot be called: {reason}"),
            Error::Head(what) => write!(f, "{what} cannot be sent"),
            Error::Body(reason) => write!(f, "the body was not sent whole: {reason}"),
            Error::Failed { url, reason } => write!(f, "no answer from {url}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// Sends a GET and waits for the head of the answer; its body comes in while it is read.
///
/// # Errors
/// When there is no answer. A status such as 500 is an answer.
pub fn get(url: impl Into<String>) -> Result<Response, Error> {
    Request::get(url).send()
}

/// Sends all requests at the same time; gives the answers in the order of the requests.
pub fn all(requests: impl IntoIterator<Item = Request>) -> Vec<Result<Response, Error>> {
    crate::task::block_on(crate::task::join(requests.into_iter().map(Request::send_async)))
}

impl Request {
    /// A request with any method.
    #[must_use]
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Request { method, url: url.into(), headers: Headers::default(), body: Body::default(), timeout: None }
    }

    /// A GET.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Request::new(Method::Get, url)
    }

    /// A POST.
    #[must_use]
    pub fn post(url: impl Into<String>, body: impl Into<Body>) -> Self {
        Request::new(Method::Post, url).body(body)
    }

    /// Its method and its URL, for logs.
    #[must_use]
    pub fn target(&self) -> (&Method, &str) {
        (&self.method, &self.url)
    }

    /// With a header field; one of that name is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// With a body; that of a request that came in is passed on as it comes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// With a limit for connecting, for the first byte of the answer, and between bytes, each.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sends it and waits for the head of the answer.
    ///
    /// # Errors
    /// When there is no answer. A status such as 500 is an answer.
    pub fn send(self) -> Result<Response, Error> {
        crate::task::block_on(self.send_async())
    }

    /// The same; other tasks go on while it waits. A body that is not bytes is sent first.
    ///
    /// # Errors
    /// As [`Request::send`].
    pub async fn send_async(self) -> Result<Response, Error> {
        let url = Url::parse(&self.url).map_err(|error| self.bad_url(&error))?;
        #[cfg(target_family = "wasm")]
        return crate::wasi::outgoing::send(url, self).await;
        #[cfg(not(target_family = "wasm"))]
        Err(Error::Failed {
            reason: format!("{url:?} is not called outside of a WebAssembly host"),
            url: self.url,
        })
    }

    fn bad_url(&self, error: &UrlError) -> Error {
        let reason = match error {
            UrlError::Scheme => "it must begin with http:// or https://".to_owned(),
            UrlError::Host => "it must name a host, without a user".to_owned(),
            UrlError::Character(c) => format!("{c:?} must be percent-encoded"),
        };
        Error::Url { url: self.url.clone(), reason }
    }

    #[cfg(target_family = "wasm")]
    pub(crate) fn into_parts(self) -> (Method, String, Headers, Body, Option<Duration>) {
        (self.method, self.url, self.headers, self.body, self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_called_is_named() {
        let error = get("shop/cart").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"shop/cart\" cannot be called: it must begin with http:// or https://"
        );
        let several = all([Request::get("http://"), Request::post("http://a b", "x")]);
        assert!(several.iter().all(|answer| matches!(answer, Err(Error::Url { .. }))), "{several:?}");
    }

    #[test]
    fn tests_do_not_call_out() {
        let request = Request::post("http://shop", "x").header("a", "b").timeout(Duration::from_secs(1));
        assert_eq!(request.target(), (&Method::Post, "http://shop"));
        assert!(matches!(request.send(), Err(Error::Failed { .. })));
    }
}
