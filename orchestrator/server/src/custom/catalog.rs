//! The custom resources at one moment, with the discovery and OpenAPI documents that show them beside the built-in
//! ones. Documents are made when first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use catamaran_api::kind::{Group, Resource, version_order};
use catamaran_api::openapi;

use super::Custom;
use crate::discovery::Discovery;

/// Every served version of every definition.
#[derive(Default)]
pub(crate) struct Catalog {
    versions: HashMap<(String, String, String), Arc<Custom>>,
    /// Rows in the order of discovery.
    pub(crate) resources: Vec<&'static Resource>,
    /// Groups with their versions, the preferred one first.
    pub(crate) groups: Vec<Group>,
    discovery: OnceLock<Discovery>,
    documents: Mutex<HashMap<(String, String), (Bytes, String)>>,
    /// The index of OpenAPI documents.
    pub(crate) openapi_index: OnceLock<Bytes>,
}

impl Catalog {
    /// From the versions of all definitions.
    pub(super) fn new(all: impl Iterator<Item = Arc<Custom>>) -> Self {
        let mut catalog = Catalog::default();
        for custom in all.filter(|custom| custom.version().served) {
            let resource = custom.resource;
            catalog.resources.push(resource);
            let key = (resource.group.to_owned(), resource.version.to_owned(), resource.plural.to_owned());
            catalog.versions.insert(key, custom);
        }
        catalog.resources.sort_by(|one, other| {
            let versions = || version_order(one.version, other.version);
            one.group.cmp(other.group).then_with(versions).then_with(|| one.plural.cmp(other.plural))
        });
        for resource in &catalog.resources {
            if catalog.groups.last().is_none_or(|group| group.name != resource.group) {
                catalog.groups.push(Group { name: resource.group, versions: Vec::new() });
            }
            if let Some(group) = catalog.groups.last_mut()
                && group.versions.last() != Some(&resource.version)
            {
                group.versions.push(resource.version);
            }
        }
        catalog
    }

    /// What is served at a path.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Custom>> {
        self.versions.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The rows of a group version.
    pub(crate) fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
        self.resources.iter().copied().filter(move |row| row.group == group && row.version == version)
    }

    /// The discovery documents.
    pub(crate) fn discovery(&self) -> &Discovery {
        self.discovery.get_or_init(|| Discovery::new(self))
    }

    /// Bytes and hash of a group version's OpenAPI document.
    pub(crate) fn document(&self, group: &str, version: &str) -> Option<(Bytes, String)> {
        let key = (group.to_owned(), version.to_owned());
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = documents.get(&key) {
            return Some(found.clone());
        }
        let rows: Vec<_> = self.of(group, version).collect();
        let customs: Vec<_> =
            rows.iter().filter_map(|row| self.find(row.group, row.version, row.plural)).collect();
        if customs.is_empty() {
            return None;
        }
        let pairs: Vec<_> = customs.iter().map(|custom| (custom.resource, &custom.version().json)).collect();
        let bytes = openapi::custom_document(group, version, &pairs);
        let made = (bytes.clone(), openapi::hash(&bytes));
        documents.insert(key, made.clone());
        Some(made)
    }
}
