//! PodSecurity (KEP-2579): what the labels of a namespace demand of its pods. `enforce` refuses pods, `warn` warns
//! the caller of pods and of templates, `audit` tells the server's log. Labels that make no sense are refused, and a
//! namespace that becomes stricter is told which of its pods would not be let in any more.

mod baseline;
mod check;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use catamaran_api::status::{Status, quoted};
use catamaran_api::{kind, meta};
use catamaran_store::Range;

use self::policy::{Level, Policy, Rules};
use super::look_up;
use crate::context::Context;
use crate::strategy::Part;
use crate::{encode, error, keys};

/// Pods that are looked at when the labels of a namespace change.
const MOST_PODS: usize = 3000;

/// Judges pods, templates of pods, and namespaces.
pub(super) async fn check(
    context: &Context,
    part: Part,
    (new, old): (&Value, Option<&Value>),
) -> Result<(), Status> {
    match (context.stored.group, context.stored.plural, part) {
        ("", "namespaces", Part::Main) => namespace(context, new, old).await,
        ("", "pods", Part::Main | Part::EphemeralContainers | Part::Resize) => {
            if old.is_none_or(|old| is_significant(new, old)) {
                pod(context, new).await?;
            }
            Ok(())
        }
        (_, _, Part::Main) => match template(context, new) {
            Some(template) => workload(context, template).await,
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// What a workload makes its pods from.
fn template<'a>(context: &Context, object: &'a Value) -> Option<&'a Value> {
    let path = match (context.stored.group, context.stored.plural) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(path).filter(|template| template.is_object())
}

async fn policy_of(context: &Context) -> Result<Option<Policy>, Status> {
    let Some(name) = context.namespace() else { return Ok(None) };
    let namespace = look_up(context, ("", "v1", "namespaces"), None, name).await?;
    Ok(namespace.map(|namespace| Policy::of(&namespace).0).filter(|policy| !policy.allows_everything()))
}

async fn pod(context: &Context, pod: &Value) -> Result<(), Status> {
    let Some(policy) = policy_of(context).await? else { return Ok(()) };
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let found = check::violations(policy.enforce, metadata, spec);
    if !found.is_empty() {
        let why = format!(
            "violates PodSecurity {}: {}",
            quoted(&policy.enforce.to_string()),
            check::in_detail(&found)
        );
        return Err(Status::forbidden(context.group_resource(), meta::name(pod), &why));
    }
    tell(context, &policy, metadata, spec);
    Ok(())
}

/// A template is never refused: its pods will be.
async fn workload(context: &Context, template: &Value) -> Result<(), Status> {
    if let Some(policy) = policy_of(context).await? {
        tell(context, &policy, &template["metadata"], &template["spec"]);
    }
    Ok(())
}

fn tell(context: &Context, policy: &Policy, metadata: &Value, spec: &Value) {
    let would = |rules: Rules| {
        let found = check::violations(rules, metadata, spec);
        let text = || {
            format!("would violate PodSecurity {}: {}", quoted(&rules.to_string()), check::in_detail(&found))
        };
        (!found.is_empty()).then(text)
    };
    if let Some(text) = would(policy.audit) {
        let (namespace, user) = (context.namespace().unwrap_or_default(), &context.user.name);
        tracing::info!(namespace, user, resource = context.stored.plural, "{text}");
    }
    if let Some(text) = would(policy.warn) {
        context.warn(text);
    }
}

/// Whether a change of a pod brings in something that was not judged: an image or a container.
fn is_significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, field: &str| -> Vec<(Value, Value)> {
        let containers = pod["spec"][field].as_array().into_iter().flatten();
        containers.map(|container| (container["name"].clone(), container["image"].clone())).collect()
    };
    let fixed = ["containers", "initContainers"].iter().any(|field| images(new, field) != images(old, field));
    let before = images(old, "ephemeralContainers");
    fixed || images(new, "ephemeralContainers").iter().any(|one| !before.contains(one))
}

async fn namespace(context: &Context, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    let (policy, errors) = Policy::of(new);
    let Some(old) = old else {
        return if errors.is_empty() { Ok(()) } else { Err(invalid(new, &errors)) };
    };
    let (before, old_errors) = Policy::of(old);
    if !errors.is_empty() && errors != old_errors {
        return Err(invalid(new, &errors));
    }
    let (now, then) = (policy.enforce, before.enforce);
    let relaxed = now.version == then.version && now.level <= then.level;
    if now == then || now.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let name = meta::name(new);
    let (pods, all) = pods(context, name).await?;
    warnings(name, now, &pods, all).into_iter().for_each(|warning| context.warn(warning));
    Ok(())
}

fn invalid(namespace: &Value, errors: &[catamaran_api::field_error::FieldError]) -> Status {
    Status::invalid("", "Namespace", meta::name(namespace), errors)
}

/// The pods of a namespace, at most so many, and how many there are.
async fn pods(context: &Context, namespace: &str) -> Result<(Vec<Value>, usize), Status> {
    let Some(resource) = kind::find("", "v1", "pods") else { return Ok((Vec::new(), 0)) };
    let prefix = keys::within(resource, Some(namespace));
    let range = Range { prefix, limit: Some(MOST_PODS), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), namespace))?;
    let all = page.entries.len() + usize::try_from(page.remaining).unwrap_or(usize::MAX);
    let decoded = page.entries.iter().filter_map(|e| encode::decode(&e.value, e.mod_revision).ok());
    Ok((decoded.collect(), all))
}

/// What the pods of a namespace have that new rules do not allow; pods of one controller count once where they are
/// alike.
fn warnings(namespace: &str, rules: Rules, pods: &[Value], all: usize) -> Vec<String> {
    let mut controllers = HashSet::new();
    let (first, rest): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| {
        meta::controller_of(pod).is_none_or(|owner| controllers.insert(owner.uid.to_owned()))
    });
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in first.into_iter().chain(rest) {
        let violations = check::violations(rules, &pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            found.entry(check::in_short(&violations)).or_default().push(meta::name(pod));
        }
    }
    let mut warnings = Vec::new();
    if pods.len() < all {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {} of {all} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        let (namespace, rules) = (quoted(namespace), quoted(&rules.to_string()));
        warnings.push(format!(
            "existing pods in namespace {namespace} violate the new PodSecurity enforce level {rules}"
        ));
    }
    let mut each: Vec<String> = found
        .into_iter()
        .map(|(warning, pods)| {
            let name = pods.iter().min().copied().unwrap_or_default();
            match pods.len() {
                1 => format!("{name}: {warning}"),
                2 => format!("{name} (and 1 other pod): {warning}"),
                count => format!("{name} (and {} other pods): {warning}", count - 1),
            }
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

#[cfg(test)]
mod tests;
