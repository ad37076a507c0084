//! Images: pulled by digest, unpacked once per layer, wasm compiled at pull. One store for both runtimes.
//!
//! ```text
//! images/
//!   refs/…json              what a name stands for
//!   blobs/sha256/…          manifests, configurations, wasm code
//!   layers/sha256/…/fs      a layer's files, named by the digest of its uncompressed archive
//!   wasm/DIGEST-KEY.cwasm   compiled code
//!   tmp/                    what is being made
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::context::Context;
use crate::members::{namespace, spec};

pub(crate) mod collect;
pub(crate) mod compile;
pub(crate) mod content;
pub(crate) mod credentials;
pub(crate) mod detect;
pub(crate) mod pull;
pub(crate) mod reference;
mod spin;
pub(crate) mod unpack;

pub(crate) use pull::PullError;

use content::Store;
use credentials::Credentials;
use detect::ImageKind;

/// An image that is here, unpacked or compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// The name it was pulled by, in full.
    pub(crate) reference: String,
    /// `HOST/NAME@sha256:…`: `imageID` in the status.
    pub(crate) repo_digest: String,
    /// Digest of its manifest.
    pub(crate) digest: String,
    pub(crate) kind: ImageKind,
    pub(crate) config: ImageConfig,
    /// Directories of its layers, topmost first; empty for wasm.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) wasm: Option<Code>,
    /// Bytes that were pulled.
    pub(crate) size: u64,
}

/// The code of a wasm image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Code {
    /// As pulled.
    pub(crate) artifact: PathBuf,
    /// As compiled for this machine.
    pub(crate) compiled: PathBuf,
}

/// What an image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) user: String,
    pub(crate) stop_signal: Option<String>,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A pull that several may wait for.
type Pulling = Arc<OnceCell<Result<Arc<Image>, PullError>>>;

/// All images of the node.
pub(crate) struct Images {
    store: Store,
    puller: pull::Puller,
    known: Mutex<HashMap<String, Arc<Image>>>,
    /// Pulls under way, by reference: whoever wants the same waits for the same.
    under_way: Mutex<HashMap<String, Pulling>>,
}

// === impl ===

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// The signal that asks the program to end, where the image names one.
    pub(crate) fn stop_signal(&self) -> Option<i32> {
        let name = self.stop_signal.as_deref()?.trim();
        let bare = name.strip_prefix("SIG").unwrap_or(name);
        let known = [
            ("HUP", 1),
            ("INT", 2),
            ("QUIT", 3),
            ("KILL", 9),
            ("USR1", 10),
            ("USR2", 12),
            ("TERM", 15),
            ("WINCH", 28),
        ];
        if let Some((_, number)) = known.iter().find(|(known, _)| *known == bare) {
            return Some(*number);
        }
        // 64 signals there are; SIGRTMIN is 34.
        let number = match bare.strip_prefix("RTMIN+") {
            Some(offset) => offset.parse::<i32>().ok()?.checked_add(34)?,
            None => bare.parse().ok()?,
        };
        (1..=64).contains(&number).then_some(number)
    }
}

impl PullPolicy {
    /// The container's policy; left out it is `Always` for `latest` and `IfNotPresent` for others.
    pub(crate) fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some(_) => PullPolicy::IfNotPresent,
            None if reference::is_latest(container.image.as_deref().unwrap_or_default()) => {
                PullPolicy::Always
            }
            None => PullPolicy::IfNotPresent,
        }
    }
}

impl Images {
    /// The store below `root`; images pulled earlier are known at once.
    pub(crate) fn open(root: &Path, executable: &Path, insecure: &[String]) -> std::io::Result<Self> {
        let store = Store::open(root)?;
        let known =
            store.references().into_iter().map(|image| (image.reference.clone(), Arc::new(image))).collect();
        let puller = pull::Puller::new(store.clone(), compile::Compiler::new(executable, root), insecure);
        Ok(Images { store, puller, known: Mutex::new(known), under_way: Mutex::default() })
    }

    /// The image of that name, if it is here whole.
    pub(crate) fn local(&self, name: &str) -> Option<Arc<Image>> {
        let full = reference::normalize(name).ok()?;
        let image = self.lock().get(&full).cloned()?;
        self.store.is_whole(&image).then_some(image)
    }

    /// The image with that `imageID`.
    pub(crate) fn by_id(&self, repo_digest: &str) -> Option<Arc<Image>> {
        self.lock().values().find(|image| image.repo_digest == repo_digest).cloned()
    }

    /// All images.
    pub(crate) fn all(&self) -> Vec<Arc<Image>> {
        self.lock().values().cloned().collect()
    }

    /// Pulls by name, with the credentials that fit. Two at a time of the same name are one.
    pub(crate) async fn pull(
        &self,
        name: &str,
        credentials: &[Credentials],
    ) -> Result<Arc<Image>, PullError> {
        let full = reference::normalize(name)?;
        let cell = self.under_way().entry(full.clone()).or_default().clone();
        let result = cell
            .get_or_init(|| async {
                let pulled = self.puller.pull(&full, credentials).await.map(Arc::new);
                if let Ok(image) = &pulled {
                    self.lock().insert(full.clone(), image.clone());
                }
                pulled
            })
            .await
            .clone();
        self.under_way().retain(|_, other| !Arc::ptr_eq(other, &cell));
        result
    }

    /// Removes what no name among `used` needs and what was not used for `unused_for`. Content that is younger than
    /// `young` stays.
    pub(crate) fn collect(
        &self,
        used: &[String],
        unused_for: Duration,
        young: Duration,
    ) -> std::io::Result<u64> {
        let mut known = self.lock();
        let (freed, left) = collect::collect(&self.store, used, unused_for, young)?;
        known.retain(|name, _| left.contains(name));
        Ok(freed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Image>>> {
        // A panic while holding it cannot leave the map half-changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pulling>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets the image for a container, by its policy, and tells it in events.
pub(crate) async fn pull_for(
    context: &Context,
    pod: &Pod,
    container: &str,
    name: &str,
    policy: PullPolicy,
) -> Result<Arc<Image>, PullError> {
    if policy == PullPolicy::Never {
        return context.images.local(name).ok_or_else(|| PullError::Never(name.to_owned()));
    }
    let mut credentials = Vec::new();
    for reference in spec(pod).image_pull_secrets.iter().flatten() {
        match context.objects.secret(namespace(pod), &reference.name).await {
            Ok(Some(secret)) => credentials.extend(credentials::of_secret(&secret)),
            Ok(None) => context.warning(
                pod,
                None,
                "FailedToRetrieveImagePullSecret",
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                ),
            ),
            Err(error) => tracing::warn!(secret = reference.name, %error, "a pull secret cannot be read"),
        }
    }
    context.normal(pod, Some(container), "Pulling", format!("Pulling image {name:?}"));
    let begun = tokio::time::Instant::now();
    let image = context.images.pull(name, &credentials).await?;
    let took = begun.elapsed();
    let text = format!(
        "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
        in_words(took),
        in_words(took),
        image.size
    );
    context.normal(pod, Some(container), "Pulled", text);
    Ok(image)
}

fn in_words(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{}ms", took.as_millis())
    } else {
        format!("{:.3}s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        let signal = |text: &str| {
            ImageConfig { stop_signal: Some(text.into()), ..ImageConfig::default() }.stop_signal()
        };
        let table = [
            ("SIGQUIT", Some(3)),
            ("TERM", Some(15)),
            ("3", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("99", None),
            ("x", None),
        ];
        for (text, expected) in table {
            assert_eq!(signal(text), expected, "{text}");
        }
    }

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let text = r#"{"Entrypoint": null, "Cmd": ["/hello"], "Env": null, "User": "", "ExposedPorts": {"80/tcp": {}}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.cmd, ["/hello"]);
        assert!(config.entrypoint.is_empty());
    }
}
