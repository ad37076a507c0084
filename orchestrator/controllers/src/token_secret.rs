//! Secrets that hold tokens: those of type `kubernetes.io/service-account-token` are filled with a token of their
//! account and removed with it; bootstrap tokens are removed when their time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher;
use serde_json::json;

use catamaran_client::error::is_not_found;
use catamaran_client::{Cache, Key, Outcome, Queue, Tasks, object, runner};

use crate::authority::Keys;
use crate::write::preconditions;

const WORKERS: usize = 4;
const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
const BOOTSTRAP_TOKEN: &str = "bootstrap.kubernetes.io/token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// How long a Secret may be there before its account: both may come from one file.
const EARLY: Duration = Duration::from_secs(10);
/// The time between two looks at whether the account is still there.
const LOOK: Duration = Duration::from_secs(60);

/// Why a Secret could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenSecretError {
    /// Its account could not be read.
    #[error("cannot read the ServiceAccount of the Secret")]
    Account(#[source] kube::Error),
    /// There is no token.
    #[error("cannot make a token for the Secret: {0}")]
    Token(String),
    /// It could not be filled.
    #[error("cannot write the Secret")]
    Write(#[source] kube::Error),
    /// It could not be removed.
    #[error("cannot remove the Secret")]
    Remove(#[source] kube::Error),
}

struct Context {
    client: Client,
    secrets: [Cache<Secret>; 2],
    keys: Keys,
    ca: String,
}

/// The caches of the Secrets that this controller is about; no other Secret is read.
pub(crate) fn caches(client: &Client, tasks: &mut Tasks) -> [Cache<Secret>; 2] {
    let of_type = |kind: &str| watcher::Config::default().fields(&format!("type={kind}"));
    let accounts = Cache::new(Api::all(client.clone()), of_type(ACCOUNT_TOKEN));
    let bootstrap = Cache::new(Api::namespaced(client.clone(), "kube-system"), of_type(BOOTSTRAP_TOKEN));
    tasks.spawn("cache of account tokens", accounts.clone().run());
    tasks.spawn("cache of bootstrap tokens", bootstrap.clone().run());
    [accounts, bootstrap]
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, secrets: [Cache<Secret>; 2], keys: Keys, ca: String) {
    let queue: Queue<Key> = Queue::new();
    for cache in &secrets {
        let wake = queue.clone();
        cache.on_change(move |change| wake.add(Key::of(&**change.object())));
    }
    for cache in &secrets {
        cache.ready().await;
    }
    let context = Arc::new(Context { client, secrets, keys, ca });
    runner::run("tokens", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, TokenSecretError> {
    let Some(secret) = context.secrets.iter().find_map(|cache| cache.get(&key)) else {
        return Ok(Outcome::Done);
    };
    if object::is_being_deleted(&secret.metadata) {
        return Ok(Outcome::Done);
    }
    if secret.type_.as_deref() == Some(BOOTSTRAP_TOKEN) {
        return expire(&context, &secret, Timestamp::now()).await;
    }
    follow(&context, &secret, Timestamp::now()).await
}

async fn expire(context: &Context, secret: &Secret, now: Timestamp) -> Result<Outcome, TokenSecretError> {
    match end(secret) {
        Some(end) if end <= now => {
            remove(context, secret).await?;
            Ok(Outcome::Done)
        }
        Some(end) => Ok(Duration::try_from(end.duration_since(now)).map_or(Outcome::Done, Outcome::After)),
        None => Ok(Outcome::Done),
    }
}

/// When a bootstrap token ends.
fn end(secret: &Secret) -> Option<Timestamp> {
    let text = secret.data.as_ref()?.get("expiration")?;
    std::str::from_utf8(&text.0).ok()?.parse().ok()
}

async fn follow(context: &Context, secret: &Secret, now: Timestamp) -> Result<Outcome, TokenSecretError> {
    let namespace = object::namespace(&secret.metadata);
    let name = object::annotation(&secret.metadata, ACCOUNT_NAME).unwrap_or_default();
    if name.is_empty() {
        return Ok(Outcome::Done);
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), namespace);
    let account = accounts.get_opt(name).await.map_err(TokenSecretError::Account)?;
    let uid = object::annotation(&secret.metadata, ACCOUNT_UID).unwrap_or_default();
    let account = account.filter(|account| uid.is_empty() || uid == object::uid(&account.metadata));
    let Some(account) = account else {
        let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let age = created.and_then(|created| Duration::try_from(now.duration_since(created)).ok());
        if uid.is_empty() && age.unwrap_or_default() < EARLY {
            return Ok(Outcome::After(Duration::from_secs(1)));
        }
        remove(context, secret).await?;
        return Ok(Outcome::Done);
    };
    let uid = object::uid(&account.metadata).to_owned();
    fill(context, secret, (name, &uid)).await?;
    Ok(Outcome::After(LOOK))
}

async fn fill(context: &Context, secret: &Secret, account: (&str, &str)) -> Result<(), TokenSecretError> {
    let namespace = object::namespace(&secret.metadata);
    let name = object::name(&secret.metadata);
    let missing = missing(secret, namespace, &context.ca);
    let named = object::annotation(&secret.metadata, ACCOUNT_UID).is_some_and(|uid| !uid.is_empty());
    if missing.is_empty() && named {
        return Ok(());
    }
    let mut data = BTreeMap::new();
    for (field, value) in missing {
        let value = match value {
            Some(value) => value,
            None => context.keys.token(namespace, account, name).map_err(TokenSecretError::Token)?,
        };
        data.insert(field, ByteString(value.into_bytes()));
    }
    let mut metadata = preconditions(&secret.metadata);
    metadata["annotations"] = json!({ACCOUNT_UID: account.1});
    let patch = Patch::Merge(json!({"metadata": metadata, "data": data}));
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    match secrets.patch(name, &PatchParams::default(), &patch).await {
        Err(error) if !is_not_found(&error) => Err(TokenSecretError::Write(error)),
        _ => Ok(()),
    }
}

/// Fields to be set, with their values; the token has none yet.
fn missing(secret: &Secret, namespace: &str, ca: &str) -> Vec<(&'static str, Option<String>)> {
    let has = |field: &str, value: Option<&str>| {
        let found = secret.data.as_ref().and_then(|data| data.get(field));
        match value {
            Some(value) => found.is_some_and(|found| found.0 == value.as_bytes()),
            None => found.is_some_and(|found| !found.0.is_empty()),
        }
    };
    let wanted = [("token", None), ("ca.crt", Some(ca)), ("namespace", Some(namespace))];
    let missing = wanted.into_iter().filter(|(field, value)| !has(field, *value));
    missing.map(|(field, value)| (field, value.map(str::to_owned))).collect()
}

async fn remove(context: &Context, secret: &Secret) -> Result<(), TokenSecretError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), object::namespace(&secret.metadata));
    let preconditions = Preconditions {
        uid: secret.metadata.uid.clone(),
        resource_version: secret.metadata.resource_version.clone(),
    };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets.delete(object::name(&secret.metadata), &options).await {
        Err(error) if !is_not_found(&error) => Err(TokenSecretError::Remove(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing() {
        let secret = |data: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": "s"}, "data": data})).unwrap()
        };
        let fields = |data| -> Vec<&str> {
            missing(&secret(data), "d", "ca").into_iter().map(|(field, _)| field).collect()
        };
        assert_eq!(fields(json!({})), ["token", "ca.crt", "namespace"]);
        assert_eq!(
            fields(json!({"token": "YQ==", "ca.crt": "Y2E=", "namespace": "ZA=="})),
            Vec::<&str>::new()
        );
        assert_eq!(fields(json!({"token": "", "ca.crt": "eA==", "namespace": "ZA=="})), ["token", "ca.crt"]);
    }

    #[test]
    fn when_a_bootstrap_token_ends() {
        let secret = |text: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(text.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        assert_eq!(end(&secret("2026-01-01T00:00:00Z")), "2026-01-01T00:00:00Z".parse().ok());
        assert_eq!(end(&secret("soon")), None);
        assert_eq!(end(&Secret::default()), None);
    }
}
