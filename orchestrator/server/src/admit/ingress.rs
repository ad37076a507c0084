//! DefaultIngressClass: an Ingress that names no class gets the default one.

use serde_json::Value;

use catamaran_api::meta;
use catamaran_api::status::Status;

use super::storage::{all, newest_default};
use crate::context::Context;

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How classes were named before they were objects.
const CLASS: &str = "kubernetes.io/ingress.class";

/// Sets the class.
pub(super) async fn default_class(context: &Context, ingress: &mut Value) -> Result<(), Status> {
    if !ingress["spec"]["ingressClassName"].is_null() || meta::annotation(ingress, CLASS).is_some() {
        return Ok(());
    }
    let classes = all(context, ("networking.k8s.io", "v1", "ingressclasses")).await?;
    if let Some(class) = newest_default(&classes, &[IS_DEFAULT]) {
        ingress["spec"]["ingressClassName"] = class.into();
    }
    Ok(())
}
