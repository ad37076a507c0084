//! The objects that a pod needs on its node. Pure.

use serde_json::Value;

/// What is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
}

/// An object in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) kind: Kind,
    pub(crate) name: Box<str>,
}

/// Every object that a pod names, once and in order.
pub(crate) fn of(pod: &Value) -> Vec<Reference> {
    let spec = &pod["spec"];
    let mut found = Found(Vec::new());
    found.add(Kind::Account, &spec["serviceAccountName"]);
    found.each(Kind::Secret, &spec["imagePullSecrets"], &["name"]);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&spec[field]) {
            found.each(Kind::Secret, &container["envFrom"], &["secretRef", "name"]);
            found.each(Kind::ConfigMap, &container["envFrom"], &["configMapRef", "name"]);
            found.each(Kind::Secret, &container["env"], &["valueFrom", "secretKeyRef", "name"]);
            found.each(Kind::ConfigMap, &container["env"], &["valueFrom", "configMapKeyRef", "name"]);
        }
    }
    for volume in list(&spec["volumes"]) {
        found.volume(pod, volume);
    }
    found.0.sort();
    found.0.dedup();
    found.0
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

struct Found(Vec<Reference>);

impl Found {
    fn add(&mut self, kind: Kind, name: &Value) {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            self.0.push(Reference { kind, name: name.into() });
        }
    }

    /// The name at a path below each item.
    fn each(&mut self, kind: Kind, items: &Value, path: &[&str]) {
        for item in list(items) {
            self.add(kind, path.iter().fold(item, |at, field| &at[field]));
        }
    }

    fn volume(&mut self, pod: &Value, volume: &Value) {
        self.add(Kind::Secret, &volume["secret"]["secretName"]);
        self.add(Kind::ConfigMap, &volume["configMap"]["name"]);
        self.add(Kind::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        self.each(Kind::Secret, &volume["projected"]["sources"], &["secret", "name"]);
        self.each(Kind::ConfigMap, &volume["projected"]["sources"], &["configMap", "name"]);
        if volume["ephemeral"].is_object() {
            let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let claim = format!("{}-{}", of(&pod["metadata"]["name"]), of(&volume["name"]));
            self.add(Kind::Claim, &claim.into());
        }
        // Volumes of many kinds name the secret of their storage in the same ways.
        for (source, fields) in volume.as_object().into_iter().flatten() {
            for field in ["secretRef", "nodePublishSecretRef"] {
                self.add(Kind::Secret, &fields[field]["name"]);
            }
            if source == "azureFile" {
                self.add(Kind::Secret, &fields["secretName"]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_that_a_pod_names() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "m1"}}]}],
            "containers": [{"env": [
                {"name": "a", "value": "b"},
                {"name": "c", "valueFrom": {"secretKeyRef": {"name": "s2"}}},
                {"name": "d", "valueFrom": {"configMapKeyRef": {"name": "m1"}}},
            ]}],
            "volumes": [
                {"name": "v1", "secret": {"secretName": "s3"}},
                {"name": "v2", "configMap": {"name": "m2"}},
                {"name": "v3", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "v4", "projected": {"sources": [{"secret": {"name": "s4"}}, {"configMap": {"name": "m3"}}, {"serviceAccountToken": {}}]}},
                {"name": "v5", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "v6", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s5"}}},
                {"name": "v7", "emptyDir": {}},
            ],
        }});
        let named = |kind| -> Vec<String> {
            let all = of(&pod).into_iter().filter(|reference| reference.kind == kind);
            all.map(|reference| reference.name.to_string()).collect()
        };
        assert_eq!(named(Kind::Secret), ["pull", "s1", "s2", "s3", "s4", "s5"]);
        assert_eq!(named(Kind::ConfigMap), ["m1", "m2", "m3"]);
        assert_eq!(named(Kind::Claim), ["c1", "p-v5"]);
        assert_eq!(named(Kind::Account), ["robot"]);
        assert_eq!(of(&json!({})), []);
    }
}
