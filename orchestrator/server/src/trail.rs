//! What a request leaves behind on its way, whatever becomes of it: the id in the answer, by which rules of
//! priority and fairness it was judged, and what the audit log notes.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use jiff::Timestamp;

use catamaran_api::status::Status;

use crate::audit::{Ended, Record};
use crate::authenticate::UserInfo;
use crate::authorize::{self, Action, Decision};
use crate::body::{self, Body};
use crate::core::Core;
use crate::flow::Classified;

/// The longest id that a client may bring along.
const ID_LENGTH: usize = 64;

/// The trail of one request.
pub(crate) struct Trail {
    id: String,
    pub(crate) classified: Option<Classified>,
    record: Option<Record>,
    ended: Ended,
}

impl Trail {
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        let brought = headers.get("audit-id").and_then(|id| id.to_str().ok());
        let id = brought
            .filter(|id| !id.is_empty() && id.len() <= ID_LENGTH)
            .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        Trail { id, classified: None, record: None, ended: Ended::Whole }
    }

    /// Somebody is known who asks for something: the audit log begins.
    pub(crate) async fn begin(
        &mut self,
        core: &Core,
        parts: &Parts,
        who: (&UserInfo, Option<&UserInfo>),
        (action, now): (&Action<'_>, Timestamp),
    ) {
        let Some(audit) = &core.audit else { return };
        self.record = audit.begin(parts, who, action, (&self.id, now));
        if let Some(record) = &self.record {
            record.received().await;
        }
    }

    /// Reads the body when the log is to have it. Not before the request has a seat: bodies take room.
    ///
    /// # Errors
    /// When the body has to be read and cannot.
    pub(crate) async fn see(&mut self, headers: &HeaderMap, content: Body) -> Result<Body, Status> {
        let Some(record) = self.record.as_mut().filter(|record| record.wants_body()) else {
            return Ok(content);
        };
        let content = body::read(content).await?;
        record.sent(headers, &content);
        Ok(body::full(content))
    }

    /// It is not known who asks: that is all there is to note.
    pub(crate) fn unknown(&mut self, core: &Core, parts: &Parts, (action, now): (&Action<'_>, Timestamp)) {
        let Some(audit) = &core.audit else { return };
        self.ended = Ended::Unauthenticated;
        self.record = audit.begin(parts, (&UserInfo::default(), None), action, (&self.id, now));
    }

    /// Asks the authorizers and notes what they say.
    ///
    /// # Errors
    /// 403, or when roles and bindings cannot be read.
    pub(crate) async fn authorize(
        &mut self,
        core: &Core,
        user: &UserInfo,
        action: &Action<'_>,
    ) -> Result<(), Status> {
        let decision = authorize::decide(core, user, action).await?;
        if let Some(record) = &mut self.record {
            let (Decision::Allow(reason) | Decision::NoOpinion(reason)) = &decision;
            record.decided(decision.allowed(), reason);
        }
        match decision {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(faults) => Err(authorize::refuse(user, action, &faults)),
        }
    }

    /// A fault of ours ended it.
    pub(crate) fn panicked(&mut self) {
        self.ended = Ended::Panic;
    }

    /// Completes the answer and the log; `streams` says whether the answer goes on.
    pub(crate) async fn finish(self, mut response: Response<Body>, streams: bool) -> Response<Body> {
        if let Some(classified) = &self.classified {
            classified.tell(&mut response);
        }
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            response.headers_mut().insert("audit-id", id);
        }
        match self.record {
            Some(record) => record.ended(response, if streams { Ended::Stream } else { self.ended }).await,
            None => response,
        }
    }
}
