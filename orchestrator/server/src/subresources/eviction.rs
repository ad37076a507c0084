//! `pods/NAME/eviction`: deletes a pod unless a disruption budget stands against it.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use catamaran_api::kind::GroupVersionKind;
use catamaran_api::meta;
use catamaran_api::selector::LabelSelector;
use catamaran_api::status::Status;
use catamaran_store::{Expect, Range, StoreError};

use crate::admit;
use crate::body::Body;
use crate::context::Context;
use crate::options::{DeleteOptions, WriteOptions};
use crate::verbs::delete;
use crate::{encode, error, registry};

const KIND: GroupVersionKind = GroupVersionKind { group: "policy", version: "v1", kind: "Eviction" };
const ATTEMPTS: usize = 16;
/// Seconds after which an evicting client tries again.
const RETRY: u32 = 10;

pub(crate) async fn create(context: &Context, body: &Bytes) -> Result<Response<Body>, Status> {
    let write = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut eviction = registry::decode_body(context, body, KIND, &write)?;
    let asked = (admit::Operation::Create, "eviction");
    admit::act(context, asked, (KIND, &mut eviction), write.dry_run).await?;
    let mut wanted = eviction["deleteOptions"].clone();
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    let options = DeleteOptions::parse(wanted, &context.query)?;
    let (_, pod) = registry::load_object(context).await?;
    admit::eviction(context, &pod)?;
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
    if !ended && !meta::is_being_deleted(&pod) && options.dry_run == crate::options::DryRun::No {
        take_from_budget(context, &pod).await?;
    }
    delete::delete_object(context, &options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(context.plain(201, &done))
}

/// Counts the disruption against the budget that covers the pod, if there is one.
async fn take_from_budget(context: &Context, pod: &Value) -> Result<(), Status> {
    let store = &context.core.store;
    let refused = |error| error::from_store(error, context.group_resource(), context.name());
    let namespace = context.namespace().unwrap_or_default();
    for _ in 0..ATTEMPTS {
        let prefix = format!("/registry/policy/poddisruptionbudgets/{namespace}/");
        let page = store.range(Range { prefix, ..Range::default() }).await.map_err(refused)?;
        let budgets = page.entries.into_iter().filter_map(|entry| {
            let budget = encode::decode(&entry.value, entry.mod_revision).ok()?;
            covers(&budget, pod).then_some((entry, budget))
        });
        let mut budgets: Vec<_> = budgets.collect();
        if budgets.len() > 1 {
            return Err(Status::internal_error(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let Some((entry, mut budget)) = budgets.pop() else { return Ok(()) };
        take(&mut budget, context.name(), &catamaran_api::time::format(context.now))?;
        match store.put(&entry.key, encode::encode(&budget), Expect::Revision(entry.mod_revision)).await {
            Err(StoreError::Conflict { .. }) => {}
            done => return done.map(drop).map_err(refused),
        }
    }
    Err(Status::too_many_requests("the disruption budget changes too often; try again", RETRY))
}

fn covers(budget: &Value, pod: &Value) -> bool {
    LabelSelector::from_value(&budget["spec"]["selector"])
        .is_ok_and(|selector| selector.matches(&meta::labels(pod)))
}

/// Takes one disruption from a budget.
fn take(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
    let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0) >= meta::generation(budget);
    if allowed <= 0 || !observed {
        let name = meta::name(budget).to_owned();
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let healthy = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
        let desired = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
        let cause =
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        return Err(Status::too_many_requests(message, RETRY).with_cause("DisruptionBudget", cause, ""));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod] = now.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up() {
        let mut budget = json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"disruptionsAllowed": 1, "observedGeneration": 1},
        });
        take(&mut budget, "p", "t").unwrap();
        assert_eq!(budget["status"]["disruptedPods"]["p"], "t");
        let refused = take(&mut budget, "q", "t").unwrap_err();
        assert_eq!((refused.code, refused.retry_after()), (429, Some(RETRY)));
    }

    #[test]
    fn a_budget_covers_by_labels() {
        let pod = json!({"metadata": {"labels": {"a": "b"}}});
        assert!(covers(&json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), &pod));
        assert!(!covers(&json!({"spec": {"selector": {"matchLabels": {"a": "c"}}}}), &pod));
        assert!(!covers(&json!({"spec": {}}), &pod));
    }
}
