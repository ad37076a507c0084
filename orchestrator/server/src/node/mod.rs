//! What a node may read, beyond what everybody of its kind may: the Secrets, ConfigMaps, claims, volumes and accounts
//! of the pods that are bound to it, and nobody else's (Kubernetes' node authorizer).

mod graph;
mod live;
pub(crate) mod references;

use catamaran_api::status::Status;

use crate::authenticate::UserInfo;
use crate::authorize::{self, Attributes};
use crate::core::Core;

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
    Ok(Some(format!("no relationship found between node '{node}' and this object")))
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
