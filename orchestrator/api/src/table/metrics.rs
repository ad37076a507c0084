//! What nodes and pods use, under the columns of Kubernetes' metrics server.

use serde_json::Value;

use super::Printer;
use super::cell::{list, name, text};
use super::column::{Column, NAME, text as column};
use crate::quantity::Quantity;

const COLUMNS: &[Column] = &[
    NAME,
    column("cpu", "Cores that were used on average."),
    column("memory", "Memory in use at the end of the window."),
    column("Window", "The time over which the average was taken."),
];

static NODES: Printer = Printer {
    columns: COLUMNS,
    cells: |node, _| {
        let usage = |resource: &str| text(node, &format!("usage.{resource}")).into();
        vec![name(node), usage("cpu"), usage("memory"), text(node, "window").into()]
    },
};

static PODS: Printer = Printer {
    columns: COLUMNS,
    cells: |pod, _| vec![name(pod), sum(pod, "cpu"), sum(pod, "memory"), text(pod, "window").into()],
};

/// What all containers used together.
fn sum(pod: &Value, resource: &str) -> Value {
    let parts = list(pod, "containers").iter();
    let parts = parts.filter_map(|one| Quantity::parse(text(one, &format!("usage.{resource}"))).ok());
    parts.reduce(|sum, part| sum + part).map_or_else(|| "0".into(), |sum| sum.to_string().into())
}

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    match plural {
        "nodes" => Some(&NODES),
        "pods" => Some(&PODS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_added_up() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = json!({
            "metadata": {"name": "p"}, "window": "15s",
            "containers": [
                {"usage": {"cpu": "1500n", "memory": "1024Ki"}}, {"usage": {"cpu": "500n", "memory": "1024Ki"}},
            ],
        });
        assert_eq!((PODS.cells)(&pod, now), ["p", "2u", "2Mi", "15s"]);
        let node =
            json!({"metadata": {"name": "n"}, "window": "1s", "usage": {"cpu": "7n", "memory": "4Ki"}});
        assert_eq!((NODES.cells)(&node, now), ["n", "7n", "4Ki", "1s"]);
    }
}
