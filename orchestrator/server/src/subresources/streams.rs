//! `log`, `exec`, `attach` and `portforward` of pods: passed on to the agent of the pod's node.

use std::net::{IpAddr, SocketAddr};

use http::{Method, Request, Response, header};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

use catamaran_api::kind::{self, GroupVersionKind};
use catamaran_api::meta;
use catamaran_api::status::Status;

use crate::admit;
use crate::agent::AgentAddress;
use crate::body::{self, Body};
use crate::context::Context;
use crate::options::DryRun;
use crate::query::{Query, encode};
use crate::{registry, upstream};

/// Port of agents that do not say another one.
const AGENT_PORT: u16 = 10250;

/// Passes a stream request on. `upgrade` is the caller's connection, if it wants to switch protocols.
pub(crate) async fn connect(
    context: &Context,
    method: Method,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let (_, pod) = registry::load_object(context).await?;
    let subresource = context.request.subresource.as_deref().unwrap_or_default();
    if let Some((kind, mut options)) = options(subresource, &context.query) {
        admit::act(context, (admit::Operation::Connect, subresource), (kind, &mut options), DryRun::No)
            .await?;
    }
    let path = path(subresource, &pod, &context.query)?;
    if subresource != "log" && upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", context.name())));
    }
    let agent = agent(context, node).await?;
    let request = Request::builder().method(method).uri(path).body(body::empty());
    let mut request = request.map_err(Status::internal_error)?;
    *request.headers_mut() = upstream::pass_on(&context.headers, upgrade.is_some());
    request.headers_mut().remove(header::CONTENT_LENGTH);
    context.core.agents.forward(&agent, request, upgrade).await
}

/// The query of a stream as the object that webhooks see; none for reads.
fn options(subresource: &str, query: &Query) -> Option<(GroupVersionKind, Value)> {
    let kind = match subresource {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        "portforward" => "PodPortForwardOptions",
        _ => return None,
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if kind == "PodPortForwardOptions" {
        options["ports"] = query.all("ports").filter_map(|port| port.parse::<i64>().ok()).collect();
        return Some((GroupVersionKind { group: "", version: "v1", kind }, options));
    }
    for stream in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(stream) {
            options[stream] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    if kind == "PodExecOptions" {
        options["command"] = query.all("command").collect();
    }
    Some((GroupVersionKind { group: "", version: "v1", kind }, options))
}

/// Where the agent of a node listens: its InternalIP and the port in its status.
pub(crate) async fn agent(context: &Context, node: &str) -> Result<AgentAddress, Status> {
    let Some(nodes) = kind::find("", "v1", "nodes") else { return Err(Status::no_such_resource()) };
    let (_, found) = registry::load_object(&context.about(nodes, None, Some(node))).await?;
    let address = address_of(&found).ok_or_else(|| {
        Status::internal_error(format!("node {node} has no usable InternalIP in its status"))
    })?;
    Ok(AgentAddress { node: node.to_owned(), address })
}

/// The address in a node's status.
pub(crate) fn address_of(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let ip: IpAddr = internal["address"].as_str()?.parse().ok()?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port > 0);
    Some(SocketAddr::new(ip, port.and_then(|port| u16::try_from(port).ok()).unwrap_or(AGENT_PORT)))
}

/// The agent's path for a stream of a pod, in the kubelet's form.
fn path(subresource: &str, pod: &Value, query: &Query) -> Result<String, Status> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    let pass = |names: &[&str]| -> String {
        let pairs = names.iter().flat_map(|name| query.all(name).map(move |value| (*name, value)));
        let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    };
    match subresource {
        "log" => {
            let container = container(pod, query)?;
            let options = pass(&[
                "follow",
                "previous",
                "sinceSeconds",
                "sinceTime",
                "tailLines",
                "limitBytes",
                "timestamps",
                "stream",
            ]);
            Ok(format!("/containerLogs/{namespace}/{name}/{container}{options}"))
        }
        "portforward" => Ok(format!("/portForward/{namespace}/{name}{}", pass(&["ports"]))),
        "exec" | "attach" => {
            let container = container(pod, query)?;
            let options = agent_options(query, &pass(&["command"]));
            Ok(format!("/{subresource}/{namespace}/{name}/{container}{options}"))
        }
        _ => Err(Status::no_such_resource()),
    }
}

/// The kubelet calls the streams `input`, `output`, `error` and says true as 1.
fn agent_options(query: &Query, commands: &str) -> String {
    let names = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut options: Vec<String> =
        names.iter().filter(|(asked, _)| query.flag(asked)).map(|(_, sent)| format!("{sent}=1")).collect();
    options.extend(commands.strip_prefix('?').map(str::to_owned));
    if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) }
}

/// The container that is meant: the one that is named, else the only one.
fn container(pod: &Value, query: &Query) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let extra = names("ephemeralContainers");
    let pod_name = meta::name(pod);
    match query.get("container") {
        Some(wanted) if main.iter().chain(&init).chain(&extra).any(|name| name == wanted) => {
            Ok(wanted.to_owned())
        }
        Some(wanted) => {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        }
        None if main.len() == 1 => Ok(main[0].clone()),
        None => {
            let mut choice = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                choice.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(choice))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"containers": containers}})
    }

    #[test]
    fn paths_of_the_agent() {
        let one = pod(json!([{"name": "c"}]));
        let table = [
            ("log", "follow=true&tailLines=5&x=y", "/containerLogs/n/p/c?follow=true&tailLines=5"),
            ("log", "", "/containerLogs/n/p/c"),
            (
                "exec",
                "command=sh&command=-c&command=a%20b&stdin=true&stdout=1&tty=false",
                "/exec/n/p/c?input=1&output=1&command=sh&command=-c&command=a%20b",
            ),
            ("attach", "container=c&stdout=true&stderr=true", "/attach/n/p/c?output=1&error=1"),
            ("portforward", "ports=80&ports=81", "/portForward/n/p?ports=80&ports=81"),
        ];
        for (subresource, query, expected) in table {
            assert_eq!(path(subresource, &one, &Query::parse(Some(query))).unwrap(), expected);
        }
    }

    #[test]
    fn a_container_must_be_clear() {
        let two = pod(json!([{"name": "a"}, {"name": "b"}]));
        assert!(path("log", &two, &Query::default()).unwrap_err().message.contains("choose one of: [a b]"));
        assert!(
            path("log", &two, &Query::parse(Some("container=x"))).unwrap_err().message.contains("not valid")
        );
        assert_eq!(path("log", &two, &Query::parse(Some("container=b"))).unwrap(), "/containerLogs/n/p/b");
    }

    #[test]
    fn addresses() {
        let node = json!({"status": {"addresses": [
            {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.128.0.1"},
        ]}});
        assert_eq!(address_of(&node), Some("10.128.0.1:10250".parse().unwrap()));
        assert_eq!(address_of(&json!({})), None);
    }
}
