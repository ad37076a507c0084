//! The way of a request: route, authenticate, authorize, and on to a verb or a subresource.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use catamaran_api::field_selector::FieldSelector;
use catamaran_api::kind::{self, Resource, Storage};
use catamaran_api::status::{GroupResource, Status};
use catamaran_api::warn;

use crate::audit::Audit;
use crate::authenticate::{self, UserInfo};
use crate::authorize::{self, Action, Attributes};
use crate::body::{self, Body};
use crate::context::{Asked, Context};
use crate::core::Core;
use crate::custom::{self, Catalog};
use crate::discovery::Discovery;
use crate::query::Query;
use crate::route::{self, ResourceRequest, Route, Verb};
use crate::strategy::Part;
use crate::subresources::{binding, eviction, proxy, reviews, scale, streams, token};
use crate::trail::Trail;
use crate::verbs::{create, delete, deletecollection, get, list, patch, update, watch};
use crate::{discovery, error, flow, health, impersonate, negotiate, node, rbac, usage};

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
    let mut trail = Trail::new(request.headers());
    let lasts = verb == Some(Verb::Watch) || flow::lasts(&route);
    let asked = (route, query, limit.unwrap_or(DEADLINE));
    let handled = AssertUnwindSafe(handle(core, asked, (request, upgrade), &mut trail)).catch_unwind();
    let answered = async {
        match limit {
            Some(limit) => timeout(limit, handled).await,
            None => Ok(handled.await),
        }
    };
    let answer = match answered.instrument(span).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(status))) => Err(status),
        Ok(Err(_)) => {
            trail.panicked();
            Err(Status::internal_error("the server met a fault of its own; see its log"))
        }
        Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 1)),
    };
    let mut response = answer.unwrap_or_else(|status| error::negotiated(&status, media));
    if head_only {
        *response.body_mut() = body::empty();
    }
    core.metrics.answered(verb, response.status().as_u16(), began.elapsed());
    let streams = lasts && response.status().as_u16() < 300;
    let mut response = trail.finish(response, streams).await;
    let headers = response.headers_mut();
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
    (route, query, limit): (Route, Query, Duration),
    (request, upgrade): (Request<Body>, Option<OnUpgrade>),
    trail: &mut Trail,
) -> Result<Response<Body>, Status> {
    let (parts, content) = request.into_parts();
    let now = Timestamp::now();
    let (selected, verb) = (selected_name(&query), parts.method.as_str().to_ascii_lowercase());
    let action = match &route {
        Route::Resource(request) => Action::Resource(Attributes::of(request, selected.as_deref())),
        _ => Action::Path { verb: &verb, path: parts.uri.path() },
    };
    let user = identify(core, &parts, (&action, now), trail).await?;
    let seat = flow::enter(core, (&user, &route, &action), (&query, limit), &mut trail.classified).await?;
    if !authorize::is_open(&route) {
        trail.authorize(core, &user, &action).await?;
    }
    let request = match route {
        Route::Resource(request) => request,
        other => return path(core, &other, &query, (&parts.headers, now)).await,
    };
    if let Some(objection) = node::unselected(&user, &request, &query) {
        let action = Action::Resource(Attributes::of(&request, selected.as_deref()));
        authorize::require_role(core, &user, &action, objection).await?;
    }
    let content = trail.see(&parts.headers, content).await?;
    let (resource, custom) = match find(&request) {
        Some(built_in) => (built_in, None),
        None => {
            let catalog = core.customs.catalog().await?;
            let found = catalog.find(&request.group, &request.version, &request.resource);
            match found.filter(|custom| fits(&request, custom.resource)) {
                Some(custom) => (custom.resource, Some(custom.clone())),
                None => return Ok(unknown_resource(&request, &catalog)),
            }
        }
    };
    let asked = Asked { query, headers: parts.headers, user, now };
    let media = negotiate::of_failure(&asked.headers);
    let context = Context::new(core.clone(), request, resource, asked).with_custom(custom);
    let warnings = context.warnings.clone();
    let deprecated = context.custom.as_ref().and_then(|custom| custom.version().deprecation.clone());
    if let Some(text) = deprecated.or_else(|| warn::deprecated(resource).map(Into::into)) {
        context.warn(text);
    }
    let changed = (!context.request.verb.reads()).then_some((context.stored.group, context.stored.plural));
    let watches = context.request.verb == Verb::Watch;
    let answered = if context.request.subresource.is_some() {
        subresource(&context, (&parts.method, &parts.uri), content, upgrade).await
    } else {
        main(context, content).await
    };
    if let Some(changed) = changed {
        put_in_force(core, changed).await?;
    }
    let mut response = answered.unwrap_or_else(|status| error::negotiated(&status, media));
    warnings.tell(&mut response);
    if !watches {
        response = flow::hold(response, seat);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// Who asks, in the end.
async fn identify(
    core: &Arc<Core>,
    parts: &Parts,
    (action, now): (&Action<'_>, Timestamp),
    trail: &mut Trail,
) -> Result<UserInfo, Status> {
    let caller = match authenticate::authenticate(core, &parts.extensions, &parts.headers, now).await {
        Ok(caller) => caller,
        Err(status) => {
            trail.unknown(core, parts, (action, now));
            return Err(status);
        }
    };
    if !impersonate::asked(&parts.headers) {
        trail.begin(core, parts, (&caller, None), (action, now)).await;
        return Ok(caller);
    }
    let assumed = impersonate::assume(core, caller.clone(), &parts.headers).await;
    trail.begin(core, parts, (&caller, assumed.as_ref().ok()), (action, now)).await;
    assumed
}

/// A change of what the server itself goes by is in force when it is answered.
async fn put_in_force(core: &Arc<Core>, (group, plural): (&str, &str)) -> Result<(), Status> {
    match group {
        rbac::GROUP => put_rights_in_force(core, plural).await,
        flow::GROUP => flow::settle(core).await,
        custom::GROUP => {
            core.customs.in_force().await;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn put_rights_in_force(core: &Arc<Core>, plural: &str) -> Result<(), Status> {
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

/// The built-in resource that a request is about; none when the path does not fit its scope.
fn find(request: &ResourceRequest) -> Option<&'static Resource> {
    let resource = kind::find(&request.group, &request.version, &request.resource)?;
    fits(request, resource).then_some(resource)
}

/// Whether the path fits the scope of a resource.
fn fits(request: &ResourceRequest, resource: &Resource) -> bool {
    let placed = request.namespace.is_some();
    match (resource.namespaced(), placed) {
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
    }
}

fn unknown_resource(request: &ResourceRequest, catalog: &Catalog) -> Response<Body> {
    let (group, version) = (&request.group, &request.version);
    if discovery::resources(group, version).chain(catalog.of(group, version)).next().is_none() {
        return error::page_not_found();
    }
    error::response(&Status::no_such_resource())
}

async fn path(
    core: &Arc<Core>,
    route: &Route,
    query: &Query,
    (headers, now): (&HeaderMap, Timestamp),
) -> Result<Response<Body>, Status> {
    let catalog = match route {
        Route::CoreVersions | Route::Groups | Route::Group(_) | Route::GroupVersion(..) => {
            core.customs.catalog().await?
        }
        Route::Root | Route::OpenApiIndex | Route::OpenApi(..) => core.customs.catalog().await?,
        _ => Arc::default(),
    };
    match route {
        Route::Version => Ok(health::version()),
        Route::Health(probe, check) => Ok(health::health(core, *probe, check.as_deref(), query)),
        Route::Metrics => {
            let uptime = Duration::try_from(now.duration_since(core.started)).unwrap_or_default();
            let mut text = core.metrics.text(core.store.revision(), uptime);
            text.push_str(&core.flow.metrics());
            text.push_str(&core.audit.as_ref().map_or_else(String::new, Audit::metrics));
            Ok(body::typed(200, "text/plain; version=0.0.4", text))
        }
        Route::Root => Ok(health::root(&catalog.groups)),
        Route::CoreVersions => catalog.discovery().everything(true, headers),
        Route::Groups => catalog.discovery().everything(false, headers),
        Route::Group(name) => Ok(Discovery::group(&catalog, name)),
        Route::GroupVersion(group, version) => Ok(Discovery::group_version(&catalog, group, version)),
        Route::OpenApiIndex => Ok(core.openapi.index(&catalog, headers)),
        Route::OpenApi(group, version) => core.openapi.serve((&catalog, group, version), query, headers),
        Route::OpenApiV2 => Ok(core.openapi.v2(headers)),
        Route::OpenIdConfiguration => Ok(health::openid_configuration()),
        Route::JsonWebKeys => Ok(health::key_set(core)),
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
