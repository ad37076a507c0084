//! A pod's priority, from its class or from the class that is the default.

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::Status;
use catamaran_store::Range;

use super::look_up;
use crate::context::Context;
use crate::{encode, error};

const CLASSES: (&str, &str, &str) = ("scheduling.k8s.io", "v1", "priorityclasses");
const PREFIX: &str = "/registry/scheduling.k8s.io/priorityclasses/";

/// Sets priority and preemption policy.
pub(super) async fn admit(context: &Context, pod: &mut Value) -> Result<(), Status> {
    let wanted = pod["spec"]["priorityClassName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let class = match &wanted {
        Some(name) => {
            let found = look_up(context, CLASSES, None, name).await?;
            Some(found.ok_or_else(|| {
                refuse(context, pod, &format!("no PriorityClass with name {name} was found"))
            })?)
        }
        None => default_class(context).await?,
    };
    let (value, policy) = match &class {
        Some(class) => (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str()),
        None => (0, None),
    };
    if let Some(said) = pod["spec"]["priority"].as_i64().filter(|said| *said != value) {
        let why = format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(refuse(context, pod, &why));
    }
    if let (None, Some(class)) = (wanted, &class) {
        pod["spec"]["priorityClassName"] = meta::name(class).into();
    }
    pod["spec"]["priority"] = value.into();
    if pod["spec"]["preemptionPolicy"].is_null() {
        pod["spec"]["preemptionPolicy"] = policy.unwrap_or("PreemptLowerPriority").into();
    }
    Ok(())
}

/// An update that leaves them out keeps them.
pub(super) fn keep(new: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if new["spec"][field].is_null() && !old["spec"][field].is_null() {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
}

fn refuse(context: &Context, pod: &Value, why: &str) -> Status {
    Status::forbidden(context.group_resource(), meta::name(pod), why)
}

async fn default_class(context: &Context) -> Result<Option<Value>, Status> {
    let range = Range { prefix: PREFIX.to_owned(), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), ""))?;
    let classes =
        page.entries.iter().filter_map(|entry| encode::decode(&entry.value, entry.mod_revision).ok());
    Ok(classes.filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64()))
}
