//! Which kinds the server has, as far as controllers that work on all of them need to know.

use std::collections::HashMap;

use kube::Client;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};

/// A kind whose objects can be listed, watched and deleted.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) scope: Scope,
    /// Can all objects of a namespace be deleted with one request?
    pub(crate) deletes_collections: bool,
}

impl Kind {
    pub(crate) fn is_namespaced(&self) -> bool {
        matches!(self.scope, Scope::Namespaced)
    }
}

/// All kinds in their preferred version, by apiVersion and kind.
///
/// # Errors
/// The server did not answer.
pub(crate) async fn kinds(client: &Client) -> Result<HashMap<(String, String), Kind>, kube::Error> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut kinds = HashMap::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let supports = |verb| capabilities.supports_operation(verb);
            if !(supports(verbs::LIST) && supports(verbs::WATCH) && supports(verbs::DELETE)) {
                continue;
            }
            let key = (resource.api_version.clone(), resource.kind.clone());
            let deletes_collections = supports(verbs::DELETE_COLLECTION);
            kinds.insert(key, Kind { resource, scope: capabilities.scope, deletes_collections });
        }
    }
    Ok(kinds)
}

/// Events come and go by themselves, and there are two names for the same ones.
pub(crate) fn is_event(resource: &ApiResource) -> bool {
    resource.kind == "Event" && (resource.group.is_empty() || resource.group == "events.k8s.io")
}
