//! `proxy` of pods, Services and nodes: requests are passed on with their path, query, headers, body and upgrades, to
//! the pod's address, to a pod behind the Service, or to the node's agent.
//!
//! Names are `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` with `http` or `https`. Only addresses of pods and nodes are
//! spoken to, so that nobody reaches through the server what is only the server's to reach.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use catamaran_api::kind;
use catamaran_api::status::Status;

use super::streams;
use crate::agent::AgentAddress;
use crate::body::{self, Body};
use crate::context::Context;
use crate::error::chain;
use crate::registry;
use crate::upstream::{self, Scheme};

mod location;
mod target;

use target::Name;

/// Segments of a path up to `proxy`: `api/v1/nodes/NAME/proxy`, `api/v1/namespaces/NS/pods/NAME/proxy`.
const CLUSTER_SEGMENTS: usize = 5;
const NAMESPACED_SEGMENTS: usize = 7;

/// Whom a request is passed on to.
enum Target {
    Agent(AgentAddress),
    Address(Scheme, SocketAddr),
}

/// Passes a request on and its answer back. `upgrade` is the caller's connection, if it wants to switch protocols.
pub(crate) async fn connect(
    context: &Context,
    (method, uri): (&Method, &Uri),
    content: Body,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let segments = if context.resource.namespaced() { NAMESPACED_SEGMENTS } else { CLUSTER_SEGMENTS };
    let (prefix, rest) = split(uri.path(), segments);
    if rest.is_empty() && upgrade.is_none() && matches!(*method, Method::GET | Method::HEAD) {
        return Ok(to_root(prefix, uri.query()));
    }
    let target = target(context).await?;
    let rest = if rest.is_empty() { "/" } else { rest };
    let passed = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
    let request = Request::builder().method(method).uri(passed).body(content);
    let mut request = request.map_err(|error| Status::bad_request(error.to_string()))?;
    *request.headers_mut() = upstream::pass_on(&context.headers, upgrade.is_some());
    let host = uri.authority().map(|authority| authority.to_string());
    let host = host.and_then(|host| HeaderValue::from_str(&host).ok());
    if let Some(host) = host.or_else(|| context.headers.get(header::HOST).cloned()) {
        request.headers_mut().insert(header::HOST, host);
    }
    match target {
        Target::Agent(agent) => context.core.agents.forward(&agent, request, upgrade).await,
        Target::Address(scheme, address) => pass(scheme, address, prefix, request, upgrade).await,
    }
}

/// A path up to `proxy`, and the rest with its slash. Empty segments count for nothing up to there.
fn split(path: &str, segments: usize) -> (&str, &str) {
    let mut at = 0;
    for _ in 0..segments {
        at += path[at..].bytes().take_while(|byte| *byte == b'/').count();
        at += path[at..].bytes().take_while(|byte| *byte != b'/').count();
    }
    path.split_at(at)
}

/// A page's own links are right only when its path ends with a slash.
fn to_root(prefix: &str, query: Option<&str>) -> Response<Body> {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{prefix}/{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Speaks to a pod.
async fn pass(
    scheme: Scheme,
    address: SocketAddr,
    prefix: &str,
    mut request: Request<Body>,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let unreachable =
        |why: String| Status::service_unavailable(format!("error trying to reach service: {why}"));
    if let Ok(uri) = HeaderValue::from_str(&format!("{prefix}{}", request.uri().path())) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let mut sender = upstream::connect(scheme, address).await.map_err(unreachable)?;
    let response = upstream::exchange(&mut sender, request, upgrade).await;
    let (parts, content) = response.map_err(|error| unreachable(chain(&error)))?.into_parts();
    let mut answer = Response::new(body::boxed(content));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() =
        upstream::pass_on(&parts.headers, parts.status == StatusCode::SWITCHING_PROTOCOLS);
    if let Some(location) = parts.headers.get(header::LOCATION) {
        let hosts = [address.to_string(), host];
        let rewritten = location.to_str().ok().map(|text| location::rewrite(text, &hosts, prefix));
        if let Some(Ok(rewritten)) = rewritten.map(|text| HeaderValue::from_str(&text)) {
            answer.headers_mut().insert(header::LOCATION, rewritten);
        }
    }
    Ok(answer)
}

/// Whom the name in the path means.
async fn target(context: &Context) -> Result<Target, Status> {
    let kind = context.resource.singular;
    let name = Name::parse(context.name())
        .ok_or_else(|| Status::bad_request(format!("invalid {kind} request {:?}", context.name())))?;
    match context.resource.plural {
        "pods" => {
            let (_, pod) =
                registry::load_object(&context.about(context.resource, context.namespace(), Some(name.name)))
                    .await?;
            let address = target::pod(&name, &pod)?;
            Ok(Target::Address(name.scheme, address))
        }
        "services" => Ok(Target::Address(name.scheme, behind(context, &name).await?)),
        _ => {
            let agent = streams::agent(context, name.name).await?;
            match name.port()? {
                Some(port) if port != agent.address.port() => {
                    let address = SocketAddr::new(target::allowed(agent.address.ip())?, port);
                    Ok(Target::Address(name.scheme, address))
                }
                _ => Ok(Target::Agent(agent)),
            }
        }
    }
}

/// A pod behind a Service.
async fn behind(context: &Context, name: &Name<'_>) -> Result<SocketAddr, Status> {
    let namespace = context.namespace();
    let (_, service) =
        registry::load_object(&context.about(context.resource, namespace, Some(name.name))).await?;
    let port = target::port_name(name, &service)?;
    let none =
        || Status::service_unavailable(format!("no endpoints available for service {:?}", context.name()));
    let known = |plural| kind::find("", "v1", plural).ok_or_else(Status::no_such_resource);
    let endpoints = context.about(known("endpoints")?, namespace, Some(name.name));
    let (_, endpoints) = registry::load_object(&endpoints).await.map_err(|_| none())?;
    let pods = known("pods")?;
    for candidate in target::candidates(&endpoints, port, rand::random()) {
        // Endpoints are written by many; what is behind them has to be a pod of that address.
        let Some(pod) = candidate.pod else { continue };
        let found = registry::load_object(&context.about(pods, namespace, Some(pod))).await;
        if let Ok((_, pod)) = found
            && has_address(&pod, candidate.address.ip())
        {
            return Ok(SocketAddr::new(target::allowed(candidate.address.ip())?, candidate.address.port()));
        }
    }
    Err(none())
}

fn has_address(pod: &Value, ip: IpAddr) -> bool {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|entry| &entry["ip"]);
    all.chain([&pod["status"]["podIP"]])
        .filter_map(Value::as_str)
        .any(|text| text.parse::<IpAddr>() == Ok(ip))
}

#[cfg(test)]
mod tests;
