//! Which pods use more of the node's disk than they may: `emptyDir.sizeLimit` and limits of `ephemeral-storage`, in
//! the order and the words of the kubelet. Pure.

use std::collections::BTreeMap;

use catamaran_api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::members::{members, spec};

const RESOURCE: &str = "ephemeral-storage";

/// What the files of a pod take, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    /// `emptyDir` volumes on disk, by name.
    pub(crate) volumes: BTreeMap<String, u64>,
    /// Writable layer and logs of each container.
    pub(crate) containers: BTreeMap<String, u64>,
}

impl Storage {
    pub(crate) fn total(&self) -> u64 {
        self.volumes.values().chain(self.containers.values()).sum()
    }
}

/// Does anything limit what the pod stores?
pub(crate) fn has_limit(pod: &Pod) -> bool {
    let volumes = spec(pod).volumes.iter().flatten();
    volumes.into_iter().filter_map(|volume| volume.empty_dir.as_ref()).any(|dir| dir.size_limit.is_some())
        || members(pod).any(|member| limit(member.container).is_some())
}

/// Names of the volumes that count: those in memory are limited by the kernel.
pub(crate) fn counted_volumes(pod: &Pod) -> impl Iterator<Item = &str> {
    let on_disk = |medium: Option<&str>| medium != Some("Memory");
    spec(pod).volumes.iter().flatten().filter_map(move |volume| {
        let empty = volume.empty_dir.as_ref()?;
        on_disk(empty.medium.as_deref()).then_some(volume.name.as_str())
    })
}

/// Why the pod must go.
pub(crate) fn exceeded(pod: &Pod, storage: &Storage) -> Option<String> {
    volume_exceeded(pod, storage)
        .or_else(|| pod_exceeded(pod, storage))
        .or_else(|| container_exceeded(pod, storage))
}

fn volume_exceeded(pod: &Pod, storage: &Storage) -> Option<String> {
    for volume in spec(pod).volumes.iter().flatten() {
        let Some(text) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref()) else {
            continue;
        };
        let used = storage.volumes.get(&volume.name).copied().unwrap_or(0);
        if over(used, Quantity::parse(&text.0).ok()) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, text.0
            ));
        }
    }
    None
}

fn pod_exceeded(pod: &Pod, storage: &Storage) -> Option<String> {
    let limits: Vec<Quantity> =
        members(pod).filter_map(|member| limit(member.container)).map(|(_, amount)| amount).collect();
    let all: i64 = limits.iter().map(|limit| limit.value()).sum();
    if limits.is_empty() || !over(storage.total(), Some(Quantity::from_units(all, Format::BinarySi))) {
        return None;
    }
    let text = in_words(u64::try_from(all).unwrap_or(0));
    Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "))
}

fn container_exceeded(pod: &Pod, storage: &Storage) -> Option<String> {
    for member in members(pod) {
        let Some((text, amount)) = limit(member.container) else { continue };
        let used = storage.containers.get(member.name()).copied().unwrap_or(0);
        if over(used, Some(amount)) {
            let name = member.name();
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "));
        }
    }
    None
}

fn limit(container: &Container) -> Option<(&str, Quantity)> {
    let text = &container.resources.as_ref()?.limits.as_ref()?.get(RESOURCE)?.0;
    Some((text, Quantity::parse(text).ok()?))
}

fn over(used: u64, limit: Option<Quantity>) -> bool {
    let limit = limit.map(Quantity::value).and_then(|limit| u64::try_from(limit).ok());
    limit.is_some_and(|limit| limit > 0 && used > limit)
}

/// Bytes as Kubernetes writes them: `12Ki`, `3Mi`; what is no whole number of these as it is.
pub(crate) fn in_words(bytes: u64) -> String {
    Quantity::from_units(i64::try_from(bytes).unwrap_or(i64::MAX), Format::BinarySi).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(limits: Value, volumes: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"volumes": volumes, "containers": [
            {"name": "a", "resources": {"limits": limits}}, {"name": "b"}]}}))
        .unwrap()
    }

    #[test]
    fn the_words_of_what_is_exceeded() {
        let mi = 1 << 20;
        let scratch = |limit: Value| json!([{"name": "scratch", "emptyDir": {"sizeLimit": limit}}]);
        let one = json!({"ephemeral-storage": "1Mi"});
        let storage = |volume: u64, a: u64, b: u64| Storage {
            volumes: [("scratch".to_owned(), volume)].into(),
            containers: [("a".to_owned(), a), ("b".to_owned(), b)].into(),
        };
        let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
        let table = [
            (json!({}), json!([]), storage(9 * mi, 9 * mi, 9 * mi), None),
            (json!({}), scratch(json!("1Mi")), storage(mi, 0, 0), None),
            (
                json!({}),
                scratch(json!("1Mi")),
                storage(mi + 1, 0, 0),
                Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "),
            ),
            (json!({}), scratch(json!("0")), storage(9 * mi, 0, 0), None),
            (one.clone(), scratch(json!(null)), storage(mi, 1, 0), Some(of_pod)),
            (one.clone(), json!([]), storage(0, 0, mi), None),
            (one, json!([]), storage(0, 2 * mi, 0), Some(of_pod)),
        ];
        for (limits, volumes, storage, expected) in table {
            let pod = pod(limits.clone(), volumes.clone());
            assert_eq!(exceeded(&pod, &storage).as_deref(), expected, "{limits} {volumes}");
        }
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
            {"name": "b", "resources": {"limits": {"ephemeral-storage": "9Mi"}}}]}});
        let found = exceeded(&serde_json::from_value(two).unwrap(), &storage(0, 2 * mi, 0));
        assert_eq!(
            found.as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\". ")
        );
    }

    #[test]
    fn what_is_looked_at() {
        let memory = json!([{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {}}]);
        let limited = pod(json!({}), memory);
        assert!(has_limit(&limited) && !has_limit(&pod(json!({}), json!([{"name": "d", "emptyDir": {}}]))));
        assert!(has_limit(&pod(json!({"ephemeral-storage": "1Gi"}), json!([]))));
        assert_eq!(counted_volumes(&limited).collect::<Vec<_>>(), ["d"]);
        assert_eq!([in_words(1 << 20), in_words(1000), in_words(0)], ["1Mi", "1k", "0"]);
    }
}
