//! Priority and fairness (KEP-1040): a FlowSchema says which priority level a request has, a level has seats and
//! queues, and who finds neither gets 429. `schema` classifies, `level` seats and queues, `share` divides the seats.

mod classify;
mod defaults;
mod held;
mod level;
mod line;
mod live;
mod metrics;
mod schema;
mod settle;
mod share;
#[cfg(test)]
mod tests;
mod work;

use std::time::Duration;

use http::{HeaderName, HeaderValue, Response};
use serde_json::Value;
use tokio::time::timeout;

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::meta;
use catamaran_api::status::Status;

use crate::authenticate::UserInfo;
use crate::authorize;
use crate::body::Body;
use crate::context::Context;
use crate::core::Core;
use crate::query::Query;
use crate::route::{Route, Verb};

pub(crate) use classify::Asked;
pub(crate) use held::hold;
pub(crate) use level::Seat;
pub(crate) use live::Flow;
pub(crate) use settle::{bootstrap, settle};

/// API group of the objects.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Where the objects are in the store.
const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";
/// How long a request may wait for a seat: a quarter of the time that it has.
const WAIT_PART: u32 = 4;
/// When a refused client may come again, in seconds.
const RETRY_AFTER: u32 = 1;
/// The time between two looks at which level needs more seats than it has.
const ADJUST: Duration = Duration::from_secs(1);

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Uids of the objects by which a request was judged.
#[derive(Debug, Clone)]
pub(crate) struct Classified {
    schema: HeaderValue,
    level: HeaderValue,
}

impl Classified {
    /// Tells the client. Uids, not names: how the administrator calls things is nobody's business.
    pub(crate) fn tell(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.insert(SCHEMA_HEADER, self.schema.clone());
        headers.insert(LEVEL_HEADER, self.level.clone());
    }
}

/// Takes a seat for a request, waiting for one at most a quarter of `limit`. Streams that last get none: they
/// would hold it for as long. `classified` is set also when the request is refused.
///
/// # Errors
/// 429 when the level and its queues are full.
pub(crate) async fn enter(
    core: &Core,
    (user, route, asked): (&UserInfo, &Route, &Asked<'_>),
    (query, limit): (&Query, Duration),
    classified: &mut Option<Classified>,
) -> Result<Option<Seat>, Status> {
    if lasts(route) {
        return Ok(None);
    }
    let table = match core.flow.table().await {
        Ok(table) => table,
        // Whoever watches over the server gets an answer also when its store has none.
        Err(_) if authorize::is_open(route) => return Ok(None),
        Err(status) => return Err(status),
    };
    let schema = table.classify(user, asked);
    *classified = Some(schema.told());
    if schema.level.is_exempt() {
        return Ok(Some(schema.level.enter_exempt()));
    }
    let seats = work::seats(core, route, query).await;
    if let Some(seat) = schema.level.try_enter(seats) {
        return Ok(Some(seat));
    }
    let flow = core.flow.hash(&schema.name, schema.distinguish(user, asked));
    let refused = || Status::too_many_requests("Too many requests, please try again later.", RETRY_AFTER);
    core.flow.press();
    let Some(waiting) = schema.level.queue(flow, seats) else { return Err(refused()) };
    match timeout(limit / WAIT_PART, waiting).await {
        Ok(Some(seat)) => Ok(Some(seat)),
        Ok(None) | Err(_) => {
            schema.level.note_timeout();
            Err(refused())
        }
    }
}

/// Whether a request is a stream that may last for ever. A watch is not meant: its seat is given back when its
/// answer begins.
pub(crate) fn lasts(route: &Route) -> bool {
    let Route::Resource(request) = route else { return false };
    let streams = ["attach", "exec", "log", "portforward", "proxy"];
    request.verb != Verb::Watch && request.subresource.as_deref().is_some_and(|name| streams.contains(&name))
}

/// Lends idle seats to levels that need more, for ever. While nobody waits it does nothing.
pub(crate) async fn lend(flow: &Flow) {
    loop {
        flow.pressed().await;
        while !flow.adjust() {
            tokio::time::sleep(ADJUST).await;
        }
    }
}

/// Refuses a change of what has to stay as it is, and says in a FlowSchema whether its level exists.
///
/// # Errors
/// 422 for the objects without which no request could be judged.
pub(crate) async fn admit(context: &Context, object: &mut Value) -> Result<(), Status> {
    check(context, object)?;
    if context.resource.plural != "flowschemas" {
        return Ok(());
    }
    let level = level_of(object).to_owned();
    let dangling = !context.core.flow.table().await?.has_level(&level);
    if settle::said(object) != Some(dangling) {
        settle::set(object, (&level, dangling), context.now);
    }
    Ok(())
}

/// The level that a FlowSchema refers to.
fn level_of(schema: &Value) -> &str {
    schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default()
}

fn check(context: &Context, new: &Value) -> Result<(), Status> {
    let fixed = defaults::mandatory()
        .into_iter()
        .find(|object| object["kind"] == context.resource.kind && meta::name(object) == meta::name(new));
    let Some(fixed) = fixed else { return Ok(()) };
    let plain = |object: &Value| {
        let mut spec = object["spec"].clone();
        // The shares of the exempt level may be chosen.
        spec.as_object_mut().and_then(|spec| spec.remove("exempt"));
        spec
    };
    if plain(new) == plain(&fixed) {
        return Ok(());
    }
    let message = format!("spec of '{}' must equal the fixed value", meta::name(new));
    let error = FieldError::invalid(&Path::root("spec"), new["spec"].clone(), message);
    Err(Status::invalid(context.resource.group, context.resource.kind, meta::name(new), &[error]))
}
