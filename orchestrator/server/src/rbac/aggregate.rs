//! Aggregated cluster roles: their rules are gathered from the roles that they select. Brought up to date with
//! every write of a cluster role, before the write is answered, and at start.

use std::sync::Arc;

use serde_json::{Value, json};

use catamaran_api::status::{Reason, Status};

use super::GROUP;
use super::rule::Rule;
use crate::bootstrap;
use crate::core::Core;
use crate::options::WriteOptions;
use crate::query::Query;
use crate::registry::{self, Missing};
use crate::strategy::Part;

/// Writes the rules of those aggregated roles whose rules are others than what they gather.
///
/// # Errors
/// When roles cannot be read or written.
pub(crate) async fn settle(core: &Arc<Core>) -> Result<(), Status> {
    // One at a time, so that nobody writes what was gathered before somebody else's change.
    let _one = core.rbac.settling.lock().await;
    core.rbac.in_force().await;
    for (name, rules) in core.rbac.ask(super::Index::to_aggregate).await? {
        match write(core, &name, &rules).await {
            // Whoever deletes it does not miss its rules.
            Err(status) if status.reason == Some(Reason::NotFound) => {}
            done => done?,
        }
    }
    core.rbac.in_force().await;
    Ok(())
}

async fn write(core: &Arc<Core>, name: &str, rules: &[Rule]) -> Result<(), Status> {
    let rules: Value = rules.iter().map(Rule::to_value).collect();
    let named = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
    });
    let context = bootstrap::context(core, &named)?;
    let mut options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    options.field_manager = Some("clusterrole-aggregation-controller".to_owned());
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        // It may have become an ordinary role meanwhile.
        if new["aggregationRule"].is_object() {
            new["rules"] = rules.clone();
        }
        Ok(new)
    };
    registry::update(&context, (Part::Main, Missing::Refuse), &options, change).await.map(drop)
}
