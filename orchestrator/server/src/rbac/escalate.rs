//! Nobody grants what they do not hold: checks on writes of roles (verb `escalate`) and bindings (verb `bind`).

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::{GroupResource, Status, quoted};

use super::GROUP;
use super::covers::{self, quoted_list};
use super::index::{Index, RoleKind, RoleRef};
use super::rule::Rule;
use crate::authenticate::UserInfo;
use crate::authorize::{self, Action, Attributes};
use crate::context::Context;

/// Refuses a role or binding that grants more than its writer holds. `old` is none for a new object.
///
/// # Errors
/// 403 with what is missing; 404 when a binding names no role that exists.
pub(crate) async fn check(context: &Context, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if authorize::all_powerful(&context.user) || old.is_some_and(|old| only_collected(new, old)) {
        return Ok(());
    }
    match context.stored.plural {
        "roles" | "clusterroles" => check_role(context, new, old).await,
        "rolebindings" | "clusterrolebindings" => check_binding(context, new).await,
        _ => Ok(()),
    }
}

/// Whether a change concerns nothing but what the garbage collector has to be able to change.
fn only_collected(new: &Value, old: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "generation", "resourceVersion"] {
            meta::metadata_mut(&mut object).remove(field);
        }
        object
    };
    without(new) == without(old)
}

async fn may(context: &Context, verb: &str, resource: &str, name: &str) -> Result<bool, Status> {
    let action = Action::Resource(Attributes {
        verb,
        group: GROUP,
        resource,
        subresource: "",
        namespace: context.namespace().unwrap_or_default(),
        name,
    });
    Ok(authorize::decide(&context.core, &context.user, &action).await?.allowed())
}

async fn check_role(context: &Context, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    if may(context, "escalate", context.stored.plural, context.name()).await? {
        return Ok(());
    }
    let aggregates = |role: &Value| role["aggregationRule"].is_object();
    // Its rules will be whatever others give it.
    if (aggregates(new) || old.is_some_and(aggregates))
        && confirm(context, &Rule::full_authority()).await?.is_err()
    {
        let why = "must have cluster-admin privileges to use an aggregationRule";
        return Err(Status::forbidden(context.group_resource(), meta::name(new), why));
    }
    let confirmed = confirm(context, &Rule::list(new)).await?;
    confirmed.map_err(|why| Status::forbidden(context.group_resource(), meta::name(new), &why))
}

async fn check_binding(context: &Context, new: &Value) -> Result<(), Status> {
    // Validation says later what is wrong with it.
    let Some(role) = RoleRef::from_value(&new["roleRef"]) else { return Ok(()) };
    let plural = match role.kind {
        RoleKind::Role => "roles",
        RoleKind::ClusterRole => "clusterroles",
    };
    if may(context, "bind", plural, &role.name).await? {
        return Ok(());
    }
    let find = |index: &Index| index.role(&role, context.namespace()).map(|role| role.rules.clone());
    let Some(rules) = context.core.rbac.ask(find).await? else {
        return Err(Status::not_found(GroupResource::new(GROUP, plural), &role.name));
    };
    let confirmed = confirm(context, &rules).await?;
    confirmed.map_err(|why| Status::forbidden(context.group_resource(), meta::name(new), &why))
}

/// Whether the caller holds all of `wanted` in the namespace of the request; if not, what to say.
async fn confirm(context: &Context, wanted: &[Rule]) -> Result<Result<(), String>, Status> {
    let user = &context.user;
    let namespace = context.namespace().unwrap_or_default();
    let (mut held, faults) = context.core.rbac.ask(|index| index.rules_of(user, namespace)).await?;
    held.extend(authorize::built_in_rules(user));
    let missing = match covers::missing(&held, wanted) {
        Ok(missing) => missing,
        Err(too_large) => return Ok(Err(too_large.to_string())),
    };
    Ok(if missing.is_empty() { Ok(()) } else { Err(refusal(user, &missing.describe(), &faults)) })
}

fn refusal(user: &UserInfo, missing: &str, faults: &[String]) -> String {
    let mut text = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{missing}",
        quoted(&user.name),
        quoted_list(&user.groups),
    );
    if !faults.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", faults.join(" ")));
    }
    text
}
