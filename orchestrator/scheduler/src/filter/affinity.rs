//! `nodeSelector` and the required node affinity against the node's labels.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::Refusal;
use crate::node::NodeRow;
use crate::pod::Request;

pub(super) fn check(request: &Request, node: &NodeRow) -> Result<(), Refusal> {
    let labels = request.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = request.required.as_ref();
    let affinity = required
        .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)));
    if labels && affinity { Ok(()) } else { Err(Refusal::Selector) }
}

/// A term matches when all its requirements do; an empty one matches nothing.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &NodeRow) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |r: &NodeSelectorRequirement| (r.key == "metadata.name").then_some(node.name.as_str());
    expressions.iter().all(|r| holds(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, field(r)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(there, bound)| there > bound),
        "Lt" => numbers().is_some_and(|(there, bound)| there < bound),
        _ => false,
    }
}
