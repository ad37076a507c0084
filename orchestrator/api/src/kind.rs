//! The one table of resources: every stable group version that Kubernetes v1.33 serves, with its names, scope, verbs and subresources.
//! Discovery, routing, storage keys, OpenAPI paths and the command line's names all come from here.

use std::sync::LazyLock;

mod custom;
mod table;

pub use custom::{Row, intern, version_order};

/// A name of a type: API group (`""` for the core group), version, kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group, `""` for the core group.
    pub group: &'static str,
    /// Version such as `v1`.
    pub version: &'static str,
    /// Kind such as `Pod`.
    pub kind: &'static str,
}

impl GroupVersionKind {
    /// The value of the `apiVersion` field: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

/// Whether objects of a resource live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Objects live in a namespace.
    Namespaced,
    /// Objects belong to the whole cluster.
    Cluster,
}

/// What a client may do with a resource, in the words of discovery and RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// POST
    Create,
    /// DELETE of one object
    Delete,
    /// DELETE of a collection
    DeleteCollection,
    /// GET of one object
    Get,
    /// GET of a collection
    List,
    /// PATCH
    Patch,
    /// PUT
    Update,
    /// GET of a stream of changes
    Watch,
}

impl Verb {
    /// The word used in discovery documents and RBAC rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// Whether and under which group version objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Kept as this group version; two served versions of one kind name the same one.
    At {
        /// API group of the stored form.
        group: &'static str,
        /// Version of the stored form.
        version: &'static str,
    },
    /// Never kept: reviews, bindings, component statuses, metrics.
    Transient,
}

/// A path below an object, such as `pods/NAME/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last element of the path.
    pub name: &'static str,
    /// Kind of the body that is sent and returned.
    pub kind: GroupVersionKind,
    /// What is allowed on it.
    pub verbs: &'static [Verb],
}

/// One served resource: a row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// API group, `""` for the core group.
    pub group: &'static str,
    /// Served version.
    pub version: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Kind of a collection.
    pub list_kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name for one object on the command line.
    pub singular: &'static str,
    /// Abbreviations for the command line.
    pub short_names: &'static [&'static str],
    /// Groups of resources for the command line, such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// What is allowed on the resource itself.
    pub verbs: &'static [Verb],
    /// Paths below an object.
    pub subresources: &'static [Subresource],
    /// Where objects are kept.
    pub storage: Storage,
    /// `status` is written only through the `/status` subresource.
    pub status: bool,
    /// The server counts changes of the desired state in `metadata.generation`.
    pub generation: bool,
    /// This version comes first in discovery for its group.
    pub preferred: bool,
    /// A PUT on a missing object creates it.
    pub create_on_update: bool,
    /// A PUT without `metadata.resourceVersion` is accepted.
    pub unconditional_update: bool,
    /// A definition made it, no code: what is known of its objects is the definition's schema.
    pub custom: bool,
    /// Fields for selectors that a definition adds, as paths with dots.
    pub selectable_fields: &'static [&'static str],
}

impl Resource {
    /// The value of the `apiVersion` field: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The kind of one object with its group and version.
    pub const fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group, version: self.version, kind: self.kind }
    }

    /// Whether objects live in a namespace.
    pub const fn namespaced(&self) -> bool {
        matches!(self.scope, Scope::Namespaced)
    }

    /// Whether a verb is allowed on the resource itself.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// The resource under whose group version objects are kept (itself for most); none if they are not kept.
    pub fn stored_as(&self) -> Option<&'static Resource> {
        match self.storage {
            Storage::At { group, version } => find(group, version, self.plural),
            Storage::Transient => None,
        }
    }

    /// `pods` or `deployments.apps`: the name that messages and RBAC use.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `/api/v1` or `/apis/apps/v1`.
    pub fn root_path(&self) -> String {
        root_path(self.group, self.version)
    }
}

/// An API group with its versions, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name, `""` for the core group.
    pub name: &'static str,
    /// Versions, the preferred one first.
    pub versions: Vec<&'static str>,
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `/api/v1` or `/apis/apps/v1`.
pub fn root_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// Group and version of an `apiVersion` value; `None` when it has more than one slash or an empty version.
pub fn split_api_version(api_version: &str) -> Option<(&str, &str)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    (!version.is_empty() && !version.contains('/')).then_some((group, version))
}

/// Every built-in resource, in the order of discovery.
pub fn resources() -> &'static [Resource] {
    table::RESOURCES
}

/// The resource served at this group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    table::RESOURCES.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource whose objects have this kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    table::RESOURCES.iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

/// Every group with its versions, in the order of discovery; the core group comes first.
pub fn groups() -> &'static [Group] {
    static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(|| {
        let mut groups: Vec<Group> = Vec::new();
        for resource in table::RESOURCES {
            let at = groups.iter().position(|g| g.name == resource.group).unwrap_or_else(|| {
                groups.push(Group { name: resource.group, versions: Vec::new() });
                groups.len() - 1
            });
            let versions = &mut groups[at].versions;
            if !versions.contains(&resource.version) {
                let place = if resource.preferred { 0 } else { versions.len() };
                versions.insert(place, resource.version);
            }
        }
        groups
    });
    &GROUPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_and_kind_is_unique() {
        let paths: BTreeSet<_> = resources().iter().map(|r| (r.group, r.version, r.plural)).collect();
        assert_eq!(paths.len(), resources().len());
        let kinds: BTreeSet<_> = resources().iter().map(Resource::gvk).collect();
        assert_eq!(kinds.len(), resources().len());
    }

    #[test]
    fn names_follow_the_conventions() {
        for r in resources() {
            assert_eq!(r.list_kind, format!("{}List", r.kind));
            assert!(r.plural.bytes().all(|b| b.is_ascii_lowercase()), "{}", r.plural);
            // Metrics name their resources after what they measure.
            assert!(r.group == "metrics.k8s.io" || r.singular == r.kind.to_lowercase(), "{}", r.kind);
            assert_eq!(r.status, r.subresource("status").is_some(), "{}", r.plural);
            if let Storage::At { .. } = r.storage {
                assert!(r.stored_as().is_some(), "{}", r.plural);
                assert!(r.allows(Verb::Watch), "{}", r.plural);
            }
        }
    }

    #[test]
    fn two_versions_of_one_kind_share_their_storage() {
        let v1 = find("autoscaling", "v1", "horizontalpodautoscalers").unwrap().stored_as().unwrap();
        assert_eq!((v1.group, v1.version), ("autoscaling", "v2"));
        let events = find("events.k8s.io", "v1", "events").unwrap().stored_as().unwrap();
        assert_eq!((events.group, events.version), ("", "v1"));
        assert!(find("", "v1", "bindings").unwrap().stored_as().is_none());
    }

    #[test]
    fn groups_come_with_the_preferred_version_first() {
        let autoscaling = groups().iter().find(|g| g.name == "autoscaling").unwrap();
        assert_eq!(autoscaling.versions, ["v2", "v1"]);
        assert_eq!(groups()[0].name, "");
    }

    #[test]
    fn an_api_version_splits() {
        assert_eq!(split_api_version("v1"), Some(("", "v1")));
        assert_eq!(split_api_version("apps/v1"), Some(("apps", "v1")));
        assert_eq!(split_api_version("a/b/c"), None);
        assert_eq!(split_api_version(""), None);
    }
}
