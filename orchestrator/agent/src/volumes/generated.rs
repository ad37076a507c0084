//! What files a configMap, secret, downwardAPI or projected volume holds.

use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};

use super::atomic::{Content, Files};
use super::{VolumeError, token};
use crate::context::Context;
use crate::env::{Sources, field, resource};
use crate::members::{member, namespace, spec};

const DEFAULT_MODE: i32 = 0o644;

/// Whether the agent writes the volume's content.
pub(super) fn is(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// One volume whose content is wanted.
pub(super) struct Wanted<'a> {
    pub(super) context: &'a Context,
    pub(super) pod: &'a Pod,
    pub(super) volume: &'a Volume,
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) place: &'a Path,
}

/// An object's keys, and what a volume takes of them.
struct Pick<'a> {
    volume: &'a str,
    kind: &'static str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    optional: bool,
}

// === impl ===

impl Wanted<'_> {
    /// All files of the volume.
    pub(super) async fn files(&self) -> Result<Files, VolumeError> {
        if let Some(source) = &self.volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            return self
                .config_map(&source.name, source.items.as_deref(), mode, source.optional == Some(true))
                .await;
        }
        if let Some(source) = &self.volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let name = source.secret_name.as_deref().unwrap_or_default();
            return self.secret(name, source.items.as_deref(), mode, source.optional == Some(true)).await;
        }
        if let Some(source) = &self.volume.downward_api {
            return self.downward(source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE));
        }
        let mut files = Files::new();
        if let Some(projected) = &self.volume.projected {
            let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
            for projection in projected.sources.iter().flatten() {
                files.extend(self.projection(projection, mode).await?);
            }
        }
        Ok(files)
    }

    async fn projection(&self, projection: &VolumeProjection, mode: i32) -> Result<Files, VolumeError> {
        if let Some(source) = &projection.config_map {
            return self
                .config_map(&source.name, source.items.as_deref(), mode, source.optional == Some(true))
                .await;
        }
        if let Some(source) = &projection.secret {
            return self
                .secret(&source.name, source.items.as_deref(), mode, source.optional == Some(true))
                .await;
        }
        if let Some(source) = &projection.downward_api {
            return self.downward(source.items.as_deref(), mode);
        }
        let Some(source) = &projection.service_account_token else { return Ok(Files::new()) };
        let token = token::current(self.context, self.pod, source, self.place).await.map_err(|source| {
            VolumeError::Read {
                volume: self.volume.name.clone(),
                what: "a token of the service account".into(),
                source,
            }
        })?;
        // A token is nobody's but the pod's: unless a group owns the volume, and its user is root, others may not read.
        let private = spec(self.pod).security_context.as_ref().and_then(|context| context.fs_group).is_some();
        let mode = if private { 0o600 } else { mode };
        Ok(Files::from([(source.path.clone(), Content { bytes: token, mode: mode_of(mode) })]))
    }

    fn read_error(&self, kind: &str, name: &str) -> impl FnOnce(kube::Error) -> VolumeError {
        let (volume, what) = (self.volume.name.clone(), format!("{kind} {name:?}"));
        move |source| VolumeError::Read { volume, what, source }
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, VolumeError> {
        let pick = Pick { volume: &self.volume.name, kind: "configmap", name, items, mode, optional };
        let found = self.context.objects.config_map(namespace(self.pod), name).await;
        pick.files(found.map_err(self.read_error("configmap", name))?.map(bytes_of_map))
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, VolumeError> {
        let pick = Pick { volume: &self.volume.name, kind: "secret", name, items, mode, optional };
        let found = self.context.objects.secret(namespace(self.pod), name).await;
        pick.files(found.map_err(self.read_error("secret", name))?.map(bytes_of_secret))
    }

    fn downward(&self, items: Option<&[DownwardAPIVolumeFile]>, mode: i32) -> Result<Files, VolumeError> {
        let sources = self.context.objects.plain_sources(self.ip, &self.context.config);
        downward(self.pod, &self.volume.name, items.unwrap_or_default(), mode, &sources)
    }
}

type Bytes = Vec<(String, Vec<u8>)>;

fn bytes_of_map(map: ConfigMap) -> Bytes {
    let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
    text.chain(binary).collect()
}

fn bytes_of_secret(secret: Secret) -> Bytes {
    secret.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)).collect()
}

fn downward(
    pod: &Pod,
    volume: &str,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    sources: &Sources,
) -> Result<Files, VolumeError> {
    let wrong = |why: String| VolumeError::Field { volume: volume.to_owned(), why };
    let mut files = Files::new();
    for item in items {
        let text = if let Some(selector) = &item.field_ref {
            field(pod, selector, sources).map_err(|error| wrong(error.to_string()))?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let of = member(pod, name).ok_or_else(|| wrong(format!("the pod has no container {name:?}")))?;
            resource(pod, of.container, selector, sources).map_err(|error| wrong(error.to_string()))?
        } else {
            continue;
        };
        let mode = mode_of(item.mode.unwrap_or(mode));
        files.insert(item.path.clone(), Content { bytes: text.into_bytes(), mode });
    }
    Ok(files)
}

impl Pick<'_> {
    fn files(&self, found: Option<Bytes>) -> Result<Files, VolumeError> {
        let Some(all) = found else {
            if self.optional {
                return Ok(Files::new());
            }
            let (volume, name) = (self.volume.to_owned(), self.name.to_owned());
            return Err(VolumeError::NoObject { volume, kind: self.kind, name });
        };
        let content = |bytes: Vec<u8>, mode: i32| Content { bytes, mode: mode_of(mode) };
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            return Ok(all.into_iter().map(|(key, bytes)| (key, content(bytes, self.mode))).collect());
        };
        let mut files = Files::new();
        for item in items {
            match all.iter().find(|(key, _)| *key == item.key) {
                Some((_, bytes)) => {
                    files.insert(item.path.clone(), content(bytes.clone(), item.mode.unwrap_or(self.mode)));
                }
                None if self.optional => {}
                None => {
                    return Err(VolumeError::NoKey {
                        volume: self.volume.to_owned(),
                        kind: self.kind,
                        name: self.name.to_owned(),
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(files)
    }
}

fn mode_of(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pick<'a>(items: Option<&'a [KeyToPath]>, optional: bool) -> Pick<'a> {
        Pick { volume: "v", kind: "secret", name: "s", items, mode: 0o400, optional }
    }

    fn found() -> Option<Bytes> {
        Some(vec![("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())])
    }

    #[test]
    fn all_keys_or_some_under_other_names() {
        assert_eq!(pick(None, false).files(found()).unwrap().len(), 2);
        let items = [KeyToPath { key: "a".into(), path: "deep/x".into(), mode: Some(0o600) }];
        let files = pick(Some(&items), false).files(found()).unwrap();
        assert_eq!(files, Files::from([("deep/x".into(), Content { bytes: b"1".to_vec(), mode: 0o600 })]));
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let items = [KeyToPath { key: "z".into(), path: "z".into(), mode: None }];
        let error = pick(Some(&items), false).files(found()).unwrap_err().to_string();
        assert!(error.ends_with("secret \"s\" references non-existent key: z"), "{error}");
        let error = pick(None, false).files(None).unwrap_err().to_string();
        assert!(error.ends_with("secret \"s\" not found"), "{error}");
        assert!(pick(Some(&items), true).files(found()).unwrap().is_empty());
        assert!(pick(None, true).files(None).unwrap().is_empty());
    }

    #[test]
    fn the_downward_api_speaks_of_the_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]}}))
        .unwrap();
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}}]))
        .unwrap();
        let files = downward(&pod, "v", &items, 0o644, &Sources::default()).unwrap();
        assert_eq!(files["labels"].bytes, b"a=\"1\"");
        assert_eq!(files["memory"].bytes, b"64");
    }
}
