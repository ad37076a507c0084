//! GET and LIST of what nodes and pods use.

use http::Response;
use serde_json::{Value, json};

use catamaran_api::kind::{self, Resource};
use catamaran_api::status::{GroupResource, Status};
use catamaran_api::{meta, time};
use catamaran_store::Range;

use super::refresh;
use super::sample::{Part, Used};
use crate::body::Body;
use crate::context::Context;
use crate::options::ListOptions;
use crate::route::Verb;
use crate::verbs::list;
use crate::{encode, error, keys};

/// Answers a request for the group.
pub(crate) async fn serve(context: &Context) -> Result<Response<Body>, Status> {
    let accepted = context.accepted()?;
    match context.request.verb {
        Verb::Get => {
            let found = measured(context, Some(context.name())).await?;
            let missing = || Status::not_found(context.group_resource(), context.name());
            context.value(200, &found.into_iter().next().ok_or_else(missing)?)
        }
        Verb::List => {
            let selection = ListOptions::parse(&context.query, context.resource, false)?.selection;
            let found = measured(context, None).await?;
            let selected = found.into_iter().filter(|object| list::selects(&selection, object));
            list::of_values(context, accepted, json!({}), selected.map(Ok))
        }
        verb => Err(Status::method_not_supported(context.group_resource(), verb.as_str())),
    }
}

/// The figures of all nodes or pods that there are some of, by name.
async fn measured(context: &Context, name: Option<&str>) -> Result<Vec<Value>, Status> {
    let Some(of) = kind::find("", "v1", context.resource.plural) else { return Ok(Vec::new()) };
    let objects = objects(context, of, name).await?;
    if !objects.is_empty() {
        refresh(&context.core).await?;
    }
    let nodes = context.core.usage.nodes();
    let measure = |object: &Value| {
        if of.namespaced() {
            let history = nodes.get(object["spec"]["nodeName"].as_str()?)?;
            let used = history.pod(meta::namespace(object), meta::name(object), meta::uid(object))?;
            return Some(of_pod(context, object, &used));
        }
        Some(of_node(context, object, &nodes.get(meta::name(object))?.node()?))
    };
    Ok(objects.iter().filter_map(measure).collect())
}

/// The nodes or pods that figures are wanted of.
async fn objects(context: &Context, of: &Resource, name: Option<&str>) -> Result<Vec<Value>, Status> {
    let namespace = context.request.namespace.as_deref();
    let refused = |error| error::from_store(error, GroupResource::new(of.group, of.plural), "");
    let store = &context.core.store;
    let entries = match name {
        Some(name) => {
            store.get(&keys::one(of, namespace, name)).await.map_err(refused)?.into_iter().collect()
        }
        None => {
            let range = Range { prefix: keys::within(of, namespace), ..Range::default() };
            store.range(range).await.map_err(refused)?.entries
        }
    };
    let decode = |entry: &catamaran_store::Entry| encode::decode(&entry.value, entry.mod_revision);
    entries.iter().map(|entry| decode(entry).map_err(Status::internal_error)).collect()
}

fn of_node(context: &Context, node: &Value, used: &Used) -> Value {
    let mut made = head(context, node, used);
    made["usage"] = used.parts.first().map(usage).unwrap_or_default();
    made
}

fn of_pod(context: &Context, pod: &Value, used: &Used) -> Value {
    let mut made = head(context, pod, used);
    meta::set(&mut made, "namespace", meta::namespace(pod));
    let container = |part: &Part| json!({"name": part.name, "usage": usage(part)});
    made["containers"] = used.parts.iter().map(container).collect();
    made
}

fn head(context: &Context, object: &Value, used: &Used) -> Value {
    let mut made = json!({
        "kind": context.resource.kind,
        "apiVersion": context.resource.api_version(),
        "metadata": {
            "name": meta::name(object),
            "creationTimestamp": time::format(context.now),
        },
        "timestamp": time::format(used.at),
        "window": time::format_duration(used.window_ns / 1_000_000 * 1_000_000),
    });
    if let Some(labels) = meta::labels(object) {
        meta::set(&mut made, "labels", labels.clone());
    }
    made
}

fn usage(part: &Part) -> Value {
    json!({"cpu": format!("{}n", part.nanocores), "memory": format!("{}Ki", part.memory / 1024)})
}
