//! The way of a request: route, authenticate, authorize, and on to a verb or a subresource.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use catamaran_api::field_selector::FieldSelector;
use catamaran_api::kind::{self, Resource, Storage};
use catamaran_api::status::{GroupResource, Status};
use catamaran_api::warn;

use crate::authenticate;
use crate::authorize::{self, Action, Attributes};
use crate::body::{self, Body};
use crate::context::{Asked, Context};
use crate::core::Core;
use crate::query::Query;
use crate::route::{self, ResourceRequest, Route, Verb};
use crate::strategy::Part;
use crate::subresources::{binding, eviction, proxy, reviews, scale, streams, token};
use crate::verbs::{create, delete, deletecollection, get, list, patch, update, watch};
use crate::{discovery, error, health, impersonate, negotiate, node, rbac, usage};

/// How long an answer may take to begin, at most and by default.
const DEADLINE: Duration = Duration::from_secs(60);

/// Answers a request; failures become Status responses.
pub(crate) async fn answer(core: &Arc<Core>, mut request: Request<Body>) -> Response<Body> {
    let _gauge = core.metrics.request();
    let began = Instant::now();
    let query = Query::parse(request.uri().query());
    let route = route::route(request.method(), request.uri().path(), &query);
    let verb = match &route {
        Route::Resource(resource) => Some(resource.verb),
        _ => None,
    };
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path());
    let limit = deadline(&query, &route);
    let head_only = request.method() == Method::HEAD;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let media = negotiate::of_failure(request.headers());
    // A mistake of ours costs one request: not the connection, and nobody else's.
    let handled = AssertUnwindSafe(handle(core, route, query, (request, upgrade))).catch_unwind();
    let answered = async {
        match limit {
            Some(limit) => timeout(limit, handled).await,
            None => Ok(handled.await),
        }
    };
    let answer = match answered.instrument(span).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(status))) => Err(status),
        Ok(Err(_)) => Err(Status::internal_error("the server met a fault of its own; see its log")),
        Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 1)),
    };
    let mut response = answer.unwrap_or_else(|status| error::negotiated(&status, media));
    if head_only {
        *response.body_mut() = body::empty();
    }
    core.metrics.answered(verb, response.status().as_u16(), began.elapsed());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert("audit-id", id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

/// `timeout=32s` bounds every request but watches; what is passed on to a pod or its agent takes what they take.
fn deadline(query: &Query, route: &Route) -> Option<Duration> {
    let request = match route {
        Route::Resource(request) => Some(request),
        _ => None,
    };
    let below = request.and_then(|request| request.subresource.as_deref());
    if matches!(below, Some("log" | "exec" | "attach" | "portforward" | "proxy")) {
        return None;
    }
    let asked =
        query.get("timeout").and_then(|text| text.strip_suffix('s')).and_then(|text| text.parse().ok());
    Some(match (request.map(|request| request.verb), asked) {
        (Some(Verb::Watch), _) | (_, None) => DEADLINE,
        (_, Some(seconds)) => Duration::from_secs(seconds).clamp(Duration::from_secs(1), DEADLINE),
    })
}

async fn handle(
    core: &Arc<Core>,
    route: Route,
    query: Query,
    (request, upgrade): (Request<Body>, Option<OnUpgrade>),
) -> Result<Response<Body>, Status> {
    let (parts, content) = request.into_parts();
    let now = Timestamp::now();
    let keys = (&core.statics, &core.tokens);
    let user =
        authenticate::authenticate(&parts.extensions, &parts.headers, keys, &*core.store, now.as_second())
            .await?;
    let user = impersonate::assume(core, user, &parts.headers).await?;
    let request = match route {
        Route::Resource(request) => request,
        other => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let action = Action::Path { verb: &verb, path: parts.uri.path() };
            if !authorize::is_open(&other) {
                authorize::require(core, &user, &action).await?;
            }
            return path(core, &other, &query, (&parts.headers, now));
        }
    };
    let selected = selected_name(&query);
    let action = Action::Resource(Attributes::of(&request, selected.as_deref()));
    authorize::require(core, &user, &action).await?;
    if let Some(objection) = node::unselected(&user, &request, &query) {
        authorize::require_role(core, &user, &action, objection).await?;
    }
    let Some(resource) = find(&request) else { return Ok(unknown_resource(&request)) };
    let asked = Asked { query, headers: parts.headers, user, now };
    let media = negotiate::of_failure(&asked.headers);
    let context = Context::new(core.clone(), request, resource, asked);
    let warnings = context.warnings.clone();
    if let Some(text) = warn::deprecated(resource) {
        context.warn(text);
    }
    let changes_rights = (context.stored.group == rbac::GROUP && !context.request.verb.reads())
        .then_some(context.stored.plural);
    let answered = if context.request.subresource.is_some() {
        subresource(&context, (&parts.method, &parts.uri), content, upgrade).await
    } else {
        main(context, content).await
    };
    if let Some(plural) = changes_rights {
        put_in_force(core, plural).await?;
    }
    let mut response = answered.unwrap_or_else(|status| error::negotiated(&status, media));
    warnings.tell(&mut response);
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// A change of rights that is answered is in force.
async fn put_in_force(core: &Arc<Core>, plural: &str) -> Result<(), Status> {
    if plural != "clusterroles" {
        core.rbac.in_force().await;
        return Ok(());
    }
    // On its own, so that it also ends when the client does not wait for it.
    let core = core.clone();
    let settled = tokio::spawn(async move { rbac::settle(&core).await }).await;
    settled.map_err(|_| Status::internal_error("gathering the rules of aggregated roles failed"))?
}

/// The name of the one object that a field selector leaves.
fn selected_name(query: &Query) -> Option<String> {
    let selector = FieldSelector::parse_any(query.get("fieldSelector")?).ok()?;
    selector.exact("metadata.name").map(str::to_owned)
}

/// The resource that a request is about; none when the path does not fit its scope.
fn find(request: &ResourceRequest) -> Option<&'static Resource> {
    let resource = kind::find(&request.group, &request.version, &request.resource)?;
    let placed = request.namespace.is_some();
    let fits = match (resource.namespaced(), placed) {
        (true, true) => true,
        // All namespaces: only lists and watches.
        (true, false) => request.name.is_none(),
        (false, false) => true,
        // `/namespaces/NAME` is about the object and in the namespace of that name; below it there are no others.
        (false, true) => {
            resource.plural == "namespaces"
                && resource.group.is_empty()
                && request.name.is_some()
                && request.name == request.namespace
        }
    };
    fits.then_some(resource)
}

fn unknown_resource(request: &ResourceRequest) -> Response<Body> {
    if discovery::resources(&request.group, &request.version).next().is_none() {
        return error::page_not_found();
    }
    error::response(&Status::no_such_resource())
}

fn path(
    core: &Arc<Core>,
    route: &Route,
    query: &Query,
    (headers, now): (&HeaderMap, Timestamp),
) -> Result<Response<Body>, Status> {
    match route {
        Route::Version => Ok(health::version()),
        Route::Health(probe, check) => Ok(health::health(core, *probe, check.as_deref(), query)),
        Route::Metrics => {
            let uptime = Duration::try_from(now.duration_since(core.started)).unwrap_or_default();
            let text = core.metrics.text(core.store.revision(), uptime);
            Ok(body::typed(200, "text/plain; version=0.0.4", text))
        }
        Route::Root => Ok(health::root()),
        Route::CoreVersions => core.discovery.everything(true, headers),
        Route::Groups => core.discovery.everything(false, headers),
        Route::Group(name) => Ok(core.discovery.group(name)),
        Route::GroupVersion(group, version) => Ok(core.discovery.group_version(group, version)),
        Route::OpenApiIndex => Ok(core.openapi.index(headers)),
        Route::OpenApi(group, version) => core.openapi.serve((group, version), query, headers),
        Route::OpenApiV2 => Ok(core.openapi.v2(headers)),
        Route::OpenIdConfiguration => Ok(health::openid_configuration()),
        Route::JsonWebKeys => Ok(body::json(200, core.tokens.key_set().to_string())),
        Route::Resource(_) | Route::Unknown => Ok(error::page_not_found()),
    }
}

/// Verbs on objects and collections.
async fn main(context: Context, content: Body) -> Result<Response<Body>, Status> {
    if matches!(context.resource.storage, Storage::Transient) {
        return transient(&context, content).await;
    }
    if context.request.namespace.is_none() && context.resource.namespaced() && !context.request.verb.reads() {
        return Err(Status::method_not_allowed());
    }
    match context.request.verb {
        Verb::Get => get::get(&context).await,
        Verb::List => list::list(&context).await,
        Verb::Watch => watch::watch(context).await,
        Verb::Create if context.request.name.is_some() => Err(Status::method_not_allowed()),
        Verb::Create => create::create(&context, &body::read(content).await?).await,
        Verb::Update | Verb::Patch if context.request.name.is_none() => Err(Status::method_not_allowed()),
        Verb::Update => update::update(&context, Part::Main, &body::read(content).await?).await,
        Verb::Patch => patch::patch(&context, Part::Main, &body::read(content).await?).await,
        Verb::Delete => delete::delete(&context, &body::read(content).await?).await,
        Verb::DeleteCollection => {
            deletecollection::delete_collection(&context, &body::read(content).await?).await
        }
    }
}

/// Kinds that are answered and not kept.
async fn transient(context: &Context, content: Body) -> Result<Response<Body>, Status> {
    match (context.resource.plural, context.request.verb) {
        ("bindings", Verb::Create) => binding::create(context, &body::read(content).await?).await,
        ("componentstatuses", Verb::List) => list::empty(context),
        ("componentstatuses", Verb::Get) => get::missing(context),
        _ if context.resource.group == usage::GROUP => usage::serve(context).await,
        (_, Verb::Create) if context.resource.allows(kind::Verb::Create) => {
            reviews::create(context, &body::read(content).await?).await
        }
        (_, verb) => Err(Status::method_not_supported(context.group_resource(), verb.as_str())),
    }
}

async fn subresource(
    context: &Context,
    (method, uri): (&Method, &Uri),
    content: Body,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let name = context.request.subresource.as_deref().unwrap_or_default();
    if context.resource.subresource(name).is_none() || context.request.name.is_none() {
        return Err(Status::no_such_resource());
    }
    let part = match name {
        "status" => Some(Part::Status),
        "finalize" => Some(Part::Finalize),
        "approval" => Some(Part::Approval),
        "ephemeralcontainers" => Some(Part::EphemeralContainers),
        "resize" => Some(Part::Resize),
        _ => None,
    };
    match (name, part, context.request.verb) {
        (_, Some(_), Verb::Get) => get::get(context).await,
        (_, Some(part), Verb::Update) => {
            let content = body::read(content).await?;
            update::update(context, part, &content).instrument(span_of(part)).await
        }
        (_, Some(part), Verb::Patch) => {
            let content = body::read(content).await?;
            patch::patch(context, part, &content).instrument(span_of(part)).await
        }
        ("scale", _, Verb::Get) => scale::get(context).await,
        ("scale", _, Verb::Update) => scale::update(context, &body::read(content).await?).await,
        ("scale", _, Verb::Patch) => scale::patch(context, &body::read(content).await?).await,
        ("binding", _, Verb::Create) => binding::create(context, &body::read(content).await?).await,
        ("eviction", _, Verb::Create) => eviction::create(context, &body::read(content).await?).await,
        ("token", _, Verb::Create) => token::create(context, &body::read(content).await?).await,
        ("log" | "exec" | "attach" | "portforward", _, Verb::Get | Verb::Create) => {
            streams::connect(context, method.clone(), upgrade).await
        }
        ("proxy", ..) => proxy::connect(context, (method, uri), content, upgrade).await,
        (_, _, verb) => Err(Status::method_not_supported(
            GroupResource::new(context.resource.group, context.resource.plural),
            verb.as_str(),
        )),
    }
}

fn span_of(part: Part) -> tracing::Span {
    if part == Part::Status { tracing::info_span!("status") } else { tracing::Span::none() }
}
