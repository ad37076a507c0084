//! What every namespace has: the ServiceAccount `default` and the certificate authority in `kube-root-ca.crt`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::json;

use catamaran_client::error::{is_already_exists, is_namespace_terminating, is_not_found};
use catamaran_client::{Cache, Change, Key, Outcome, Queue, Tasks, object, runner};

use crate::caches::Caches;
use crate::write::Written;

const WORKERS: usize = 8;
const ACCOUNT: &str = "default";
const AUTHORITY: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// Why a namespace lacks what it should have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceAccountError {
    /// The ServiceAccount could not be created.
    #[error("cannot create the ServiceAccount default")]
    Account(#[source] kube::Error),
    /// The ConfigMap could not be written.
    #[error("cannot write the ConfigMap kube-root-ca.crt")]
    Authority(#[source] kube::Error),
}

struct Context {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    authorities: Cache<ConfigMap>,
    /// The certificate authority, PEM.
    ca: String,
    written: Written<Key>,
}

/// The caches of what this controller keeps up; only the objects of these names are watched.
pub(crate) struct OwnCaches {
    accounts: Cache<ServiceAccount>,
    authorities: Cache<ConfigMap>,
}

impl OwnCaches {
    /// Starts the caches in `tasks`.
    pub(crate) fn start(client: &Client, tasks: &mut Tasks) -> Self {
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let accounts = Cache::new(Api::all(client.clone()), named(ACCOUNT));
        let authorities = Cache::new(Api::all(client.clone()), named(AUTHORITY));
        tasks.spawn("cache of serviceaccounts", accounts.clone().run());
        tasks.spawn("cache of root certificates", authorities.clone().run());
        Self { accounts, authorities }
    }
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, caches: Caches, own: OwnCaches, ca: String) {
    let queue: Queue<Key> = Queue::new();
    let wake = queue.clone();
    caches.namespaces.on_change(move |change| wake.add(Key::of(&**change.object())));
    let wake = queue.clone();
    own.accounts.on_change(move |change: &Change<'_, ServiceAccount>| {
        wake.add(Key::new("", object::namespace(&change.object().metadata)));
    });
    let wake = queue.clone();
    own.authorities.on_change(move |change: &Change<'_, ConfigMap>| {
        wake.add(Key::new("", object::namespace(&change.object().metadata)));
    });
    caches.namespaces.ready().await;
    own.accounts.ready().await;
    own.authorities.ready().await;
    let context = Arc::new(Context {
        client,
        namespaces: caches.namespaces,
        accounts: own.accounts,
        authorities: own.authorities,
        ca,
        written: Written::default(),
    });
    runner::run("serviceaccount", queue, WORKERS, move |key| reconcile(Arc::clone(&context), key)).await;
}

async fn reconcile(context: Arc<Context>, key: Key) -> Result<Outcome, ServiceAccountError> {
    let Some(namespace) = context.namespaces.get(&key) else { return Ok(Outcome::Done) };
    if object::is_being_deleted(&namespace.metadata) {
        return Ok(Outcome::Done);
    }
    if context.written.is_ahead_of(&key, context.authorities.progress().revision) {
        return Ok(Outcome::After(Duration::from_secs(1)));
    }
    if context.accounts.get(&Key::new(key.name.as_str(), ACCOUNT)).is_none() {
        create_account(&context, &key.name).await?;
    }
    publish_authority(&context, &key).await?;
    Ok(Outcome::Done)
}

async fn create_account(context: &Context, namespace: &str) -> Result<(), ServiceAccountError> {
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), namespace);
    let account = ServiceAccount { metadata: named(namespace, ACCOUNT), ..ServiceAccount::default() };
    match api.create(&PostParams::default(), &account).await {
        Err(error) if !is_no_trouble(&error) => Err(ServiceAccountError::Account(error)),
        _ => Ok(()),
    }
}

async fn publish_authority(context: &Context, key: &Key) -> Result<(), ServiceAccountError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.name);
    let data = json!({"ca.crt": context.ca});
    let current = context.authorities.get(&Key::new(key.name.as_str(), AUTHORITY));
    let written = match current {
        Some(map) if map.data.as_ref().is_some_and(|map| json!(map) == data) => return Ok(()),
        Some(_) => {
            // The whole of `data` is replaced, so that nothing a user added is taken for a certificate.
            let patch = json!([{"op": "add", "path": "/data", "value": data}]);
            let patch = serde_json::from_value(patch).expect("this is a JSON patch");
            api.patch(AUTHORITY, &PatchParams::default(), &Patch::<()>::Json(patch)).await
        }
        None => {
            let mut metadata = named(&key.name, AUTHORITY);
            let description = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
            metadata.annotations = Some([description].into());
            let map = ConfigMap {
                metadata,
                data: Some([("ca.crt".to_owned(), context.ca.clone())].into()),
                ..ConfigMap::default()
            };
            api.create(&PostParams::default(), &map).await
        }
    };
    match written {
        Ok(map) => {
            context.written.note(key, object::revision(&map.metadata));
            Ok(())
        }
        Err(error) if is_no_trouble(&error) => Ok(()),
        Err(error) => Err(ServiceAccountError::Authority(error)),
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// It is there already, or the namespace is going: an event of the one or the other brings us here again.
fn is_no_trouble(error: &kube::Error) -> bool {
    is_already_exists(error) || is_namespace_terminating(error) || is_not_found(error)
}
