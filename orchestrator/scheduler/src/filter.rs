//! May a pod run on a node? Small checks, cheap ones first; each says why it refuses.

mod affinity;
mod taints;

use std::fmt;

pub(crate) use affinity::term_matches;

use crate::node::NodeRow;
use crate::pod::{Port, Request, Runtime};

/// Why a node was refused, in kube-scheduler's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The node is cordoned.
    Unschedulable,
    /// A taint that the pod does not bear.
    Taint {
        /// The taint's key.
        key: String,
        /// The taint's value.
        value: String,
    },
    /// Labels do not match `nodeSelector` or the required node affinity.
    Selector,
    /// A wanted port of the node is held by another pod.
    Ports,
    /// The node's runtimes do not include the wanted handler.
    Handler {
        /// What is wanted.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// The RuntimeClass does not exist.
    RuntimeClass {
        /// What is wanted.
        wanted: String,
        /// Handlers that the node has.
        there: String,
    },
    /// Too many pods.
    Pods,
    /// Too little of a resource.
    Insufficient(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unschedulable => f.write_str("node(s) were unschedulable"),
            Refusal::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Refusal::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Refusal::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Refusal::Handler { wanted, there } => {
                write!(f, "node(s) have no runtime handler {wanted:?} (they have: {there})")
            }
            Refusal::RuntimeClass { wanted, there } => {
                write!(
                    f,
                    "node(s) cannot tell the handler: RuntimeClass {wanted:?} does not exist (handlers there: {there})"
                )
            }
            Refusal::Pods => f.write_str("Too many pods"),
            Refusal::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// One check.
type Filter = fn(&Request, &NodeRow) -> Result<(), Refusal>;

/// All checks in the order in which they are made.
const FILTERS: &[Filter] = &[cordon, runtime, taints::check, affinity::check, ports];

/// Whether `request` may run on `node`: nothing, or every reason of the first check that refuses.
///
/// # Errors
/// The reasons.
pub fn feasible(request: &Request, node: &NodeRow) -> Result<(), Vec<Refusal>> {
    for filter in FILTERS {
        filter(request, node).map_err(|refusal| vec![refusal])?;
    }
    fits(request, node)
}

fn cordon(request: &Request, node: &NodeRow) -> Result<(), Refusal> {
    let borne = || taints::bears(request, "node.kubernetes.io/unschedulable", "", "NoSchedule");
    if node.cordoned && !borne() { Err(Refusal::Unschedulable) } else { Ok(()) }
}

fn runtime(request: &Request, node: &NodeRow) -> Result<(), Refusal> {
    let there = || node.handlers.iter().filter(|h| !h.is_empty()).cloned().collect::<Vec<_>>().join(", ");
    match &request.runtime {
        Runtime::Any => Ok(()),
        // A node that publishes no handlers is asked to try.
        Runtime::Handler(handler) if node.handlers.is_empty() || node.handlers.contains(handler) => Ok(()),
        Runtime::Handler(wanted) => Err(Refusal::Handler { wanted: wanted.clone(), there: there() }),
        Runtime::UnknownClass(wanted) => {
            Err(Refusal::RuntimeClass { wanted: wanted.clone(), there: there() })
        }
    }
}

fn ports(request: &Request, node: &NodeRow) -> Result<(), Refusal> {
    let clashes = |wanted: &Port| node.host_ports.keys().any(|held| clash(wanted, held));
    if request.host_ports.iter().any(clashes) { Err(Refusal::Ports) } else { Ok(()) }
}

/// Two pods want the same port of a node: same protocol and number, and addresses that overlap.
fn clash(a: &Port, b: &Port) -> bool {
    let any = |port: &Port| matches!(port.host_ip.as_str(), "" | "0.0.0.0" | "::");
    let protocol =
        |port: &Port| if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.clone() };
    a.host_port == b.host_port && protocol(a) == protocol(b) && (any(a) || any(b) || a.host_ip == b.host_ip)
}

fn fits(request: &Request, node: &NodeRow) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if node.used.pods + request.resources.pods > node.allocatable.pods {
        refusals.push(Refusal::Pods);
    }
    let lacking = node.allocatable.lacking(&node.used, &request.resources);
    refusals.extend(lacking.into_iter().map(Refusal::Insufficient));
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

#[cfg(test)]
mod tests;
