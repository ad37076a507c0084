//! `meta.k8s.io/v1 Table`: the columns of each kind and the cells of one object, as `kubectl get` shows them.
//! Pure functions of the object and the present; wide columns have priority 1 and are always filled.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::Resource;

mod cell;
mod cluster;
mod column;
mod config;
mod metrics;
mod network;
mod pod;
mod policy;
mod storage;
mod workload;

pub use column::{Column, ColumnType};

/// The columns of a kind and how to fill them.
pub(crate) struct Printer {
    pub(crate) columns: &'static [Column],
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// The columns of a resource; `Name` and `Created At` for kinds without columns of their own.
pub fn columns(resource: &Resource) -> &'static [Column] {
    printer(resource.group, resource.plural).columns
}

/// The cells of one object, in the order of [`columns`].
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    (printer(resource.group, resource.plural).cells)(object, now)
}

/// The `columnDefinitions` of a Table.
pub fn column_definitions(resource: &Resource) -> Value {
    columns(resource).iter().map(Column::to_value).collect()
}

/// The `conditions` of a row: a pod that has ended says so, and kubectl may dim or hide it.
pub fn row_conditions(resource: &Resource, object: &Value) -> Option<Value> {
    if (resource.group, resource.plural) != ("", "pods") {
        return None;
    }
    let (reason, message) = match cell::text(object, "status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

/// The columns of the `Scale` subresource.
pub fn scale_columns() -> &'static [Column] {
    workload::SCALE.columns
}

/// The cells of a Scale.
pub fn scale_row(scale: &Value, now: Timestamp) -> Vec<Value> {
    (workload::SCALE.cells)(scale, now)
}

fn printer(group: &str, plural: &str) -> &'static Printer {
    match group {
        "" => core(plural),
        "apps" | "batch" | "autoscaling" => workload::printer(plural),
        "discovery.k8s.io" | "networking.k8s.io" => network::printer(plural),
        "events.k8s.io" => Some(&cluster::EVENTS),
        "storage.k8s.io" => storage::printer(plural),
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io" => {
            config::extension_printer(plural)
        }
        "coordination.k8s.io" | "node.k8s.io" | "scheduling.k8s.io" => cluster::class_printer(plural),
        "metrics.k8s.io" => metrics::printer(plural),
        _ => policy::printer(plural),
    }
    .unwrap_or(&DEFAULT)
}

fn core(plural: &str) -> Option<&'static Printer> {
    match plural {
        "pods" => Some(&pod::PODS),
        "podtemplates" | "replicationcontrollers" => workload::printer(plural),
        "services" | "endpoints" => network::printer(plural),
        "persistentvolumes" | "persistentvolumeclaims" => storage::printer(plural),
        "configmaps" | "secrets" | "serviceaccounts" => config::printer(plural),
        "resourcequotas" | "limitranges" => policy::printer(plural),
        _ => cluster::printer(plural),
    }
}

static DEFAULT: Printer = Printer {
    columns: &[column::NAME, column::CREATED_AT],
    cells: |object, _| vec![cell::name(object), cell::created_at(object)],
};

#[cfg(test)]
mod tests;
