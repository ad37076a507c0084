//! What a node may read, beyond what everybody of its kind may: the Secrets, ConfigMaps, claims, volumes and accounts
//! of the pods that are bound to it, these pods, and nobody else's (Kubernetes' node authorizer).

mod graph;
mod live;
pub(crate) mod references;

use catamaran_api::field_selector::FieldSelector;
use catamaran_api::kind;
use catamaran_api::status::{GroupResource, Status};
use catamaran_store::Entry;

use crate::authenticate::UserInfo;
use crate::authorize::{self, Attributes};
use crate::core::Core;
use crate::query::Query;
use crate::route::{ResourceRequest, Verb};
use crate::{encode, error, keys};

pub(crate) use live::Nodes;

/// The name of the node that a user is; none for everybody else.
pub(crate) fn name_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:").filter(|name| !name.is_empty())?;
    (user.member_of("system:nodes") && !authorize::all_powerful(user)).then_some(name)
}

/// Why a node may not do what the rules for all nodes allow; none when it may.
///
/// # Errors
/// When pods cannot be read.
pub(crate) async fn objection(
    core: &Core,
    user: &UserInfo,
    wanted: &Attributes<'_>,
) -> Result<Option<String>, Status> {
    let reads = matches!(wanted.verb, "get" | "list" | "watch");
    if (wanted.group, wanted.resource, wanted.verb) == ("", "pods", "get") {
        let bound = is_bound(core, user, (wanted.namespace, wanted.name)).await?;
        return Ok((!bound).then(|| unrelated(name_of(user).unwrap_or_default())));
    }
    let Some(kind) = kind_of(wanted).filter(|_| reads) else { return Ok(None) };
    // One that is of no node in particular has no pods.
    let Some(node) = name_of(user) else { return Ok(Some("unknown node".to_owned())) };
    if wanted.namespace.is_empty() {
        return Ok(Some("can only read namespaced object of this type".to_owned()));
    }
    if wanted.name.is_empty() {
        return Ok(Some("No Object name found".to_owned()));
    }
    if !wanted.subresource.is_empty() && kind != references::Kind::Claim {
        return Ok(Some("cannot read subresource".to_owned()));
    }
    let (namespace, name) = (wanted.namespace, wanted.name);
    if core.nodes.is_related(node, kind, namespace, name).await? {
        return Ok(None);
    }
    Ok(Some(unrelated(node)))
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

async fn is_bound(core: &Core, user: &UserInfo, (namespace, name): (&str, &str)) -> Result<bool, Status> {
    let Some(pods) = kind::find("", "v1", "pods") else { return Ok(false) };
    let found = core.store.get(&keys::one(pods, Some(namespace), name)).await;
    let found = found.map_err(|error| error::from_store(error, GroupResource::new("", "pods"), name))?;
    let bound_to = |entry: Entry| {
        let pod = encode::only(&entry.value, &[vec!["spec", "nodeName"]]).ok()?;
        pod["spec"]["nodeName"].as_str().map(str::to_owned)
    };
    Ok(found.and_then(bound_to).is_some_and(|node| Some(node.as_str()) == name_of(user)))
}

/// What is missing when a node lists or watches pods of others as well; none for everybody else.
pub(crate) fn unselected(user: &UserInfo, request: &ResourceRequest, query: &Query) -> Option<&'static str> {
    let many = matches!(request.verb, Verb::List | Verb::Watch);
    let pods = (request.group.as_str(), request.resource.as_str()) == ("", "pods");
    let node = name_of(user).filter(|_| many && pods)?;
    let selector = query.get("fieldSelector").and_then(|text| FieldSelector::parse_any(text).ok());
    let own = selector.is_some_and(|selector| selector.exact("spec.nodeName") == Some(node));
    (!own).then_some("can only list/watch pods with spec.nodeName field selector")
}

fn kind_of(wanted: &Attributes<'_>) -> Option<references::Kind> {
    match (wanted.group, wanted.resource) {
        ("", "secrets") => Some(references::Kind::Secret),
        ("", "configmaps") => Some(references::Kind::ConfigMap),
        ("", "persistentvolumeclaims") => Some(references::Kind::Claim),
        ("", "serviceaccounts") => Some(references::Kind::Account),
        _ => None,
    }
}
