//! Role-based access control: pure evaluation of rules over an index of roles and bindings (`index`), kept
//! up to date from the watch cache (`live`), with the roles that every cluster has (`policy`, `bootstrap`),
//! aggregated roles (`aggregate`) and the check that nobody grants what they do not hold (`escalate`).

mod aggregate;
mod bootstrap;
mod covers;
pub(crate) mod escalate;
mod index;
mod live;
mod policy;
mod reconcile;
mod rule;

pub use covers::{Missing, missing};
pub use index::{Index, Reviewed};
pub use rule::Rule;

pub(crate) use aggregate::settle;
pub(crate) use bootstrap::run as bootstrap;
pub(crate) use live::Rbac;

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
/// Keys of all four kinds start with this.
pub(crate) const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

#[cfg(test)]
mod tests;
