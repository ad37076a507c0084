//! The objects that every cluster has from the start. They are made through the same path as all others;
//! what is there already stays, but for the address of the API.

use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use catamaran_api::kind;
use catamaran_api::local_path;
use catamaran_api::meta;
use catamaran_api::status::{Reason, Status};

use crate::Server;
use crate::authenticate::UserInfo;
use crate::context::{Asked, Context};
use crate::core::{Core, ServerConfig, ServerError, ServiceRange};
use crate::identity;
use crate::options::WriteOptions;
use crate::query::Query;
use crate::rbac;
use crate::registry::{self, Missing};
use crate::route::{ResourceRequest, Verb};
use crate::strategy::Part;

/// Makes what is missing.
pub(crate) async fn run(server: &Server) -> Result<(), ServerError> {
    let mut objects = objects(&server.core().config);
    objects.push(authentication(&server.ca_pem()));
    for object in objects {
        let name = format!("{} {}", object["kind"].as_str().unwrap_or_default(), meta::name(&object));
        ensure(server, object).await.map_err(|source| failed(&name, source))?;
    }
    let ready = service_range_is_ready(server).await;
    ready.map_err(|source| failed("ServiceCIDR kubernetes", source))?;
    identity::renew(server.core()).await.map_err(|source| failed("Lease of the server", source))?;
    rbac::bootstrap(server.core()).await
}

fn failed(object: &str, source: Status) -> ServerError {
    ServerError::Bootstrap { object: object.to_owned(), source: Box::new(source) }
}

async fn ensure(server: &Server, object: Value) -> Result<(), Status> {
    let context = context(server.core(), &object)?;
    let options = WriteOptions::parse(&Query::default(), "CreateOptions")?;
    // Looked for first: a quota that is used up says nothing about what is there.
    if registry::load(&context).await?.is_some() {
        return follow(&context, object, &options).await;
    }
    match registry::create(&context, object.clone(), &options).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == Some(Reason::AlreadyExists) => {
            follow(&context, object, &options).await
        }
        Err(status) => Err(status),
    }
}

/// The endpoint of the API follows the configuration.
async fn follow(context: &Context, object: Value, options: &WriteOptions) -> Result<(), Status> {
    let fields: &[&str] = match context.resource.plural {
        "endpoints" => &["subsets"],
        "endpointslices" => &["endpoints", "ports"],
        "configmaps" => &["data"],
        _ => return Ok(()),
    };
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        for field in fields {
            new[*field] = object[*field].clone();
        }
        Ok(new)
    };
    registry::update(context, (Part::Main, Missing::Refuse), options, change).await.map(drop)
}

/// The server itself writing an object: what the path would be follows from the object.
pub(crate) fn context(core: &Arc<Core>, object: &Value) -> Result<Context, Status> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = kind::split_api_version(api_version).unwrap_or_default();
    let resource = kind::find_kind(group, version, object["kind"].as_str().unwrap_or_default())
        .ok_or_else(Status::no_such_resource)?;
    let namespace = Some(meta::namespace(object)).filter(|namespace| !namespace.is_empty());
    let request = ResourceRequest {
        verb: Verb::Create,
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.map(str::to_owned),
        resource: resource.plural.to_owned(),
        name: Some(meta::name(object).to_owned()),
        subresource: None,
        rest: String::new(),
    };
    let asked = Asked {
        query: Query::default(),
        headers: http::HeaderMap::new(),
        user: UserInfo::server(),
        now: Timestamp::now(),
    };
    Ok(Context::new(core.clone(), request, resource, asked))
}

fn objects(config: &ServerConfig) -> Vec<Value> {
    let mut objects: Vec<Value> =
        ["default", "kube-system", "kube-public", "kube-node-lease"].map(namespace).to_vec();
    objects.extend(["wasm", "wasm-isolated", "oci"].map(runtime_class));
    objects.push(priority_class("system-cluster-critical", 2_000_000_000, "be rescheduled if it has to go"));
    objects.push(priority_class("system-node-critical", 2_000_001_000, "not be moved from its node"));
    objects.push(local_path_class());
    objects.extend(api_service(config));
    objects.push(dns_service(config.dns));
    objects.push(service_range(config.services));
    objects
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn runtime_class(name: &str) -> Value {
    json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name})
}

fn priority_class(name: &str, value: i64, must: &str) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        "description": format!("Used for system critical pods that must {must}."),
        "preemptionPolicy": "PreemptLowerPriority",
    })
}

/// Volumes that are directories of the node of their first consumer.
fn local_path_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": local_path::CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": local_path::PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// The Service `kubernetes` with its endpoints.
fn api_service(config: &ServerConfig) -> [Value; 3] {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let (address, port) = config.advertise;
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "clusterIP": config.services.first().to_string(),
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{
                "addresses": [{"ip": address.to_string()}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
    ]
}

/// The range that addresses of Services come from.
fn service_range(range: ServiceRange) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [format!("{}/{}", range.base, range.prefix)]},
    })
}

/// Says of the range that it is in use, once.
async fn service_range_is_ready(server: &Server) -> Result<(), Status> {
    let range = service_range(server.core().config.services);
    let context = context(server.core(), &range)?;
    let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    let now = catamaran_api::time::format(Timestamp::now());
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        let known = new["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty());
        if !known {
            new["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "lastTransitionTime": now, "reason": "",
                "message": "Kubernetes Service CIDR is ready",
            }]);
        }
        Ok(new)
    };
    registry::update(&context, (Part::Status, Missing::Refuse), &options, change).await.map(drop)
}

/// What servers behind this one need to know to trust the callers that it passes on.
fn authentication(ca_pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca_pem},
    })
}

/// Cluster DNS; its endpoints are the nodes' business, so it has no selector.
fn dns_service(address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
