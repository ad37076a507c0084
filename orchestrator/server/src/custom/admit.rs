//! The status of a definition when it is written: names, conditions and stored versions follow from the definition
//! and the others of its group, so they are right from the first answer on.

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use catamaran_api::status::Status;
use catamaran_api::{custom, meta};

use crate::context::Context;

/// Brings the status up to date. The guard is held until the definition is stored, so that no name is given twice.
pub(crate) async fn admit(
    context: &Context,
    definition: &mut Value,
) -> Result<Option<OwnedMutexGuard<()>>, Status> {
    let customs = &context.core.customs;
    let guard = customs.naming.clone().lock_owned().await;
    customs.in_force().await;
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let others = customs.names(group, meta::name(definition)).await?;
    custom::renew(definition, &others, context.now);
    Ok(Some(guard))
}
