//! Requests that come in, and the way of their answers.

use std::future::Future;

use wasip2::http::types::{self, IncomingRequest, OutgoingResponse, ResponseOutparam};

use super::{fields, streams};
use crate::body::Content;
use crate::response::Answer;
use crate::{Body, Headers, Method, Request, Response};

/// A request that the host holds.
pub(crate) struct Head(IncomingRequest);

impl Head {
    pub(crate) fn method(&self) -> Method {
        match self.0.method() {
            types::Method::Get => Method::Get,
            types::Method::Head => Method::Head,
            types::Method::Post => Method::Post,
            types::Method::Put => Method::Put,
            types::Method::Delete => Method::Delete,
            types::Method::Connect => Method::Connect,
            types::Method::Options => Method::Options,
            types::Method::Trace => Method::Trace,
            types::Method::Patch => Method::Patch,
            types::Method::Other(name) => Method::Other(name),
        }
    }

    pub(crate) fn target(&self) -> String {
        self.0.path_with_query().unwrap_or_else(|| "/".to_owned())
    }

    pub(crate) fn headers(&self) -> Headers {
        self.0.headers().entries().into()
    }

    pub(crate) fn body(&self) -> Body {
        let incoming = self.0.consume().ok().and_then(streams::Incoming::new);
        incoming.map_or_else(Body::default, |incoming| Body(Content::Incoming(incoming)))
    }
}

/// Answers one request by a function.
pub fn serve<A: Answer>(request: IncomingRequest, out: ResponseOutparam, handler: impl FnOnce(Request) -> A) {
    send(handler(Request::of_host(Head(request))).into_response(), out);
}

/// Answers one request by an asynchronous function.
pub fn serve_async<A, F>(request: IncomingRequest, out: ResponseOutparam, handler: impl FnOnce(Request) -> F)
where
    A: Answer,
    F: Future<Output = A>,
{
    let answer = crate::task::block_on(handler(Request::of_host(Head(request))));
    send(answer.into_response(), out);
}

fn send(response: Response, out: ResponseOutparam) {
    let (status, headers, body) = response.into_parts();
    let head = fields(&headers, body.length()).and_then(|fields| {
        let response = OutgoingResponse::new(fields);
        response.set_status_code(status).map(|()| response).map_err(|()| format!("the status {status}"))
    });
    let (head, body) = match head {
        Ok(head) => (head, body),
        Err(what) => (refused(&what), Body::default()),
    };
    let stream = head.body();
    ResponseOutparam::set(out, Ok(head));
    let sent = stream.map_or(Ok(()), |stream| streams::send(body, stream));
    if let Err(error) = sent {
        eprintln!("error: the response was not sent whole: {error}");
    }
}

/// A mistake of the handler, told in the log as its other errors are.
fn refused(what: &str) -> OutgoingResponse {
    eprintln!("error: {what} cannot be sent");
    let response = OutgoingResponse::new(types::Fields::new());
    let _ = response.set_status_code(500);
    response
}
