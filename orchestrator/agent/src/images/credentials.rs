//! Credentials from `imagePullSecrets`: Docker's configuration files, matched to a registry. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// A user of one registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    registry: String,
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} at {})", self.user, self.registry)
    }
}

#[derive(Deserialize, Default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// What a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` holds.
pub(crate) fn of_secret(secret: &Secret) -> Vec<Credentials> {
    let get = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.clone());
    let entries = match (get(".dockerconfigjson"), get(".dockercfg")) {
        (Some(bytes), _) => serde_json::from_slice::<File>(&bytes).unwrap_or_default().auths,
        (None, Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        (None, None) => BTreeMap::new(),
    };
    entries.into_iter().filter_map(|(registry, entry)| credentials(&registry, entry)).collect()
}

fn credentials(registry: &str, entry: Entry) -> Option<Credentials> {
    let decoded = entry.auth.and_then(|auth| String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok());
    let (user, password) = match (entry.username, entry.password, decoded) {
        (Some(user), Some(password), _) => (user, password),
        (_, _, Some(pair)) => {
            pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))?
        }
        _ => return None,
    };
    Some(Credentials { registry: host(registry), user, password })
}

/// The registry of a key: without scheme, path, and Docker's own old name.
fn host(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    if host == "index.docker.io" { "docker.io".into() } else { host.to_owned() }
}

/// The first that fits the registry.
pub(crate) fn for_registry(all: &[Credentials], registry: &str) -> RegistryAuth {
    match all.iter().find(|credentials| credentials.registry == registry) {
        Some(found) => RegistryAuth::Basic(found.user.clone(), found.password.clone()),
        None => RegistryAuth::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_matched() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("joe:a:b")},
            "registry.example:5000": {"username": "ann", "password": "secret"},
            "broken.example": {"auth": "!!"}}});
        let secret = serde_json::json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}});
        let all = of_secret(&serde_json::from_value(secret).unwrap());
        assert_eq!(all.len(), 2);
        assert_eq!(for_registry(&all, "docker.io"), RegistryAuth::Basic("joe".into(), "a:b".into()));
        assert_eq!(
            for_registry(&all, "registry.example:5000"),
            RegistryAuth::Basic("ann".into(), "secret".into())
        );
        assert_eq!(for_registry(&all, "broken.example"), RegistryAuth::Anonymous);
        assert!(!format!("{all:?}").contains("secret"));
    }
}
