//! `spec.nodeSelector` and the required part of node affinity.

use super::{Demand, Reason, View};
use crate::snapshot::Detail;
use crate::wire::{Operator, Requirement, Term};

pub(super) fn filter(demand: &Demand<'_>, node: &View<'_>) -> Option<Reason> {
    let labels = &node.detail.labels;
    let selected = demand.shape.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = demand.shape.affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let wanted = required
        .is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node.detail)));
    (!(selected && wanted)).then_some(Reason::Selector)
}

/// Does the node match the term? One without requirements matches nothing.
pub(crate) fn matches(term: &Term, node: &Detail) -> bool {
    let labels = |wanted: &Requirement| holds(wanted, node.labels.get(&wanted.key).map(String::as_str));
    let fields = |wanted: &Requirement| holds(wanted, (wanted.key == "metadata.name").then_some(&*node.name));
    !(term.match_expressions.is_empty() && term.match_fields.is_empty())
        && term.match_expressions.iter().all(labels)
        && term.match_fields.iter().all(fields)
}

fn holds(wanted: &Requirement, value: Option<&str>) -> bool {
    let among = |value: &str| wanted.values.iter().any(|wanted| wanted == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = wanted.values.first().and_then(|bound| number(bound));
    match wanted.operator {
        Operator::In => value.is_some_and(among),
        Operator::NotIn => !value.is_some_and(among),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        Operator::Lt => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
    }
}
