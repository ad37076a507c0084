//! Custom resources in a running server: which there are (`live`), what their schemas do to a write (`write`), the
//! status of definitions (`admit`) and their end (`lifecycle`). Everything follows from the stored definitions.

mod admit;
mod catalog;
pub(crate) mod convert;
mod lifecycle;
mod live;
mod webhook;
mod write;

use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use catamaran_api::custom::{self, Conversion, Definition, Version};
use catamaran_api::kind::Resource;
use catamaran_api::status::Status;

pub(crate) use admit::admit;
pub(crate) use catalog::Catalog;
pub(crate) use lifecycle::start;
pub(crate) use live::Customs;
pub(crate) use write::{check_create, check_update, decode, fill, normalize, refuse_new};

/// The group of definitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// The plural of definitions.
pub(crate) const PLURAL: &str = "customresourcedefinitions";
/// Where definitions are stored.
const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// One version of a custom resource, as long as its definition stays as it is.
pub(crate) struct Custom {
    /// The row of this version.
    pub(crate) resource: &'static Resource,
    /// The row of the version in which objects are kept.
    pub(crate) stored: &'static Resource,
    pub(crate) definition: Arc<Definition>,
    /// Which of the definition's versions this is.
    at: usize,
    /// Ends when the definition changes or goes: watches then begin anew.
    pub(crate) ended: CancellationToken,
}

impl Custom {
    pub(crate) fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    /// Whether stored bytes are what a client gets: no object can have been written under another schema, be it that
    /// of another version or one that the definition had before.
    pub(crate) fn reads_as_stored(&self) -> bool {
        self.definition.generation <= 1 && self.definition.versions.len() == 1
    }

    /// From the form that is kept, whenever that was, to this version as it is now.
    ///
    /// # Errors
    /// When the object still is in another version although only a webhook converts it (see [`convert`]).
    pub(crate) fn to_served(&self, object: &mut Value) -> Result<(), Status> {
        self.convert(object, self.resource)?;
        // Defaults and fields may have changed since the object was stored.
        custom::prune(&self.version().schema, object);
        custom::default(&self.version().schema, object);
        Ok(())
    }

    /// From this version to the form that is kept.
    ///
    /// # Errors
    /// As [`Custom::to_served`].
    pub(crate) fn to_stored(&self, object: &mut Value) -> Result<(), Status> {
        self.convert(object, self.stored)
    }

    fn convert(&self, object: &mut Value, to: &Resource) -> Result<(), Status> {
        let wanted = to.api_version();
        if object["apiVersion"] == wanted.as_str() {
            return Ok(());
        }
        if let Conversion::Webhook(_) = self.definition.conversion {
            let from = object["apiVersion"].as_str().unwrap_or_default();
            let what = format!("{} was not converted from {from} to {wanted} by its webhook", to.kind);
            return Err(Status::internal_error(what));
        }
        object["apiVersion"] = wanted.into();
        Ok(())
    }
}
