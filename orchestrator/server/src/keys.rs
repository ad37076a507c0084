//! Keys of the store: `/registry/GROUP/PLURAL/NAMESPACE/NAME`, cluster-wide objects without the namespace.

use catamaran_api::kind::Resource;

fn group(resource: &Resource) -> &str {
    if resource.group.is_empty() { "core" } else { resource.group }
}

/// The prefix of all objects of a stored resource.
pub(crate) fn all(stored: &Resource) -> String {
    format!("/registry/{}/{}/", group(stored), stored.plural)
}

/// The prefix of the objects in a namespace, or of all.
pub(crate) fn within(stored: &Resource, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) if stored.namespaced() => format!("{}{namespace}/", all(stored)),
        _ => all(stored),
    }
}

/// The key of one object.
pub(crate) fn one(stored: &Resource, namespace: Option<&str>, name: &str) -> String {
    format!("{}{name}", within(stored, namespace))
}

#[cfg(test)]
mod tests {
    use catamaran_api::kind;

    use super::*;

    #[test]
    fn keys() {
        let pods = kind::find("", "v1", "pods").unwrap();
        let nodes = kind::find("", "v1", "nodes").unwrap();
        let deployments = kind::find("apps", "v1", "deployments").unwrap();
        assert_eq!(one(pods, Some("d"), "p"), "/registry/core/pods/d/p");
        assert_eq!(within(pods, None), "/registry/core/pods/");
        assert_eq!(one(nodes, Some("ignored"), "n"), "/registry/core/nodes/n");
        assert_eq!(within(deployments, Some("d")), "/registry/apps/deployments/d/");
    }
}
