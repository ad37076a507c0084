//! Requests that go out.

use std::time::Duration;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{self, FutureIncomingResponse, IncomingResponse, OutgoingRequest, RequestOptions};

use super::poll::Ready;
use super::{fields, streams};
use crate::body::Content;
use crate::fetch::{self, Error};
use crate::url::{Scheme, Url};
use crate::{Body, Method, Response};

pub(crate) async fn send(url: Url, request: fetch::Request) -> Result<Response, Error> {
    let (method, text, headers, body, timeout) = request.into_parts();
    let outgoing =
        OutgoingRequest::new(fields(&headers, length_to_tell(&method, &body)).map_err(Error::Head)?);
    let unusable = |()| Error::Url { url: text.clone(), reason: "the host does not take it".to_owned() };
    outgoing.set_method(&method_of(&method)).map_err(|()| Error::Head(format!("the method {method}")))?;
    let scheme = match url.scheme {
        Scheme::Http => types::Scheme::Http,
        Scheme::Https => types::Scheme::Https,
    };
    outgoing.set_scheme(Some(&scheme)).map_err(unusable)?;
    outgoing.set_authority(Some(&url.authority)).map_err(unusable)?;
    outgoing.set_path_with_query(Some(&url.path_with_query)).map_err(unusable)?;
    let stream = outgoing.body().map_err(unusable)?;
    let failed = |reason: String| Error::Failed { url: text.clone(), reason };
    let answer = handle(outgoing, timeout.map(options)).map_err(|code| failed(format!("{code:?}")))?;
    streams::send(body, stream).map_err(|error| Error::Body(error.to_string()))?;
    response(answer).await.map_err(failed)
}

/// A GET without a body says nothing of its length.
fn length_to_tell(method: &Method, body: &Body) -> Option<usize> {
    let bare =
        matches!(method, Method::Get | Method::Head | Method::Delete | Method::Options | Method::Trace);
    body.length().filter(|length| *length > 0 || !bare)
}

fn method_of(method: &Method) -> types::Method {
    match method {
        Method::Get => types::Method::Get,
        Method::Head => types::Method::Head,
        Method::Post => types::Method::Post,
        Method::Put => types::Method::Put,
        Method::Delete => types::Method::Delete,
        Method::Connect => types::Method::Connect,
        Method::Options => types::Method::Options,
        Method::Trace => types::Method::Trace,
        Method::Patch => types::Method::Patch,
        Method::Other(name) => types::Method::Other(name.clone()),
    }
}

fn options(limit: Duration) -> RequestOptions {
    let limit = Some(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let options = RequestOptions::new();
    // A host may know fewer of these limits; the others hold.
    let _ = options.set_connect_timeout(limit);
    let _ = options.set_first_byte_timeout(limit);
    let _ = options.set_between_bytes_timeout(limit);
    options
}

async fn response(answer: FutureIncomingResponse) -> Result<Response, String> {
    let incoming = loop {
        match answer.get() {
            Some(Ok(answered)) => break answered.map_err(|code| format!("{code:?}"))?,
            Some(Err(())) => return Err("the answer was taken already".to_owned()),
            None => Ready::new(answer.subscribe()).await,
        }
    };
    Ok(Response::of_host(incoming.status(), incoming.headers().entries().into(), body(&incoming)))
}

fn body(incoming: &IncomingResponse) -> Body {
    let incoming = incoming.consume().ok().and_then(streams::Incoming::new);
    incoming.map_or_else(Body::default, |incoming| Body(Content::Incoming(incoming)))
}
