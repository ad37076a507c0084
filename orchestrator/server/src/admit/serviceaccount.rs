//! A pod's service account: the default name, the account must exist, its token is mounted.

use std::time::Duration;

use serde_json::{Value, json};

use catamaran_api::status::Status;
use catamaran_api::{meta, name};

use super::look_up;
use crate::context::Context;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that the mounted token lasts; the odd ones tell it from a token asked for by a person.
const EXPIRATION: i64 = 3607;
/// The account `default` of a new namespace may be on its way.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Sets and checks the account and mounts its token.
pub(super) async fn admit(context: &Context, pod: &mut Value) -> Result<(), Status> {
    // A mirror of a static pod has no account.
    if meta::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Ok(());
    }
    let wanted =
        pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default");
    let wanted = wanted.to_owned();
    let account = account(context, &wanted).await?.ok_or_else(|| {
        let namespace = context.namespace().unwrap_or_default();
        let why = format!(
            "error looking up service account {namespace}/{wanted}: serviceaccount \"{wanted}\" not found"
        );
        Status::forbidden(context.group_resource(), meta::name(pod), &why)
    })?;
    complete(pod, &wanted, &account, rand::random());
    Ok(())
}

async fn account(context: &Context, name: &str) -> Result<Option<Value>, Status> {
    let attempts = if name == "default" { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        let found = look_up(context, ("", "v1", "serviceaccounts"), context.namespace(), name).await?;
        if found.is_some() || attempt == attempts {
            return Ok(found);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

/// What the account adds to a pod.
fn complete(pod: &mut Value, name: &str, account: &Value, random: [u32; 5]) {
    pod["spec"]["serviceAccountName"] = name.into();
    pod["spec"]["serviceAccount"] = name.into();
    if pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && account["imagePullSecrets"].is_array()
    {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let mounts = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if mounts {
        mount_token(pod, random);
    }
}

fn mount_token(pod: &mut Value, random: [u32; 5]) {
    let own =
        |volume: &&Value| volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().find(own);
    let existing = existing.and_then(|volume| volume["name"].as_str()).map(str::to_owned);
    let is_new = existing.is_none();
    let volume = existing.unwrap_or_else(|| format!("kube-api-access-{}", name::random_suffix(random)));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        // Indexing for writing would make the list where there is none.
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        let Some(containers) = containers else { continue };
        for container in containers {
            used |= mount_in(container, &volume);
        }
    }
    if used && is_new {
        push(&mut pod["spec"]["volumes"], token_volume(&volume));
    }
}

/// Mounts the volume unless something is mounted there already.
fn mount_in(container: &mut Value, volume: &str) -> bool {
    let taken = |mount: &Value| {
        mount["mountPath"].as_str().is_some_and(|path| path.trim_end_matches('/') == MOUNT_PATH)
    };
    if container["volumeMounts"].as_array().is_some_and(|mounts| mounts.iter().any(taken)) {
        return false;
    }
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
    push(&mut container["volumeMounts"], mount);
    true
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn the_token_is_mounted_once() {
        let mut object =
            pod(json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}));
        complete(&mut object, "default", &json!({}), [0; 5]);
        let volume = object["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(volume.starts_with("kube-api-access-"), "{volume}");
        for container in ["/spec/containers/0", "/spec/containers/1", "/spec/initContainers/0"] {
            let mount = object.pointer(&format!("{container}/volumeMounts/0")).unwrap();
            assert_eq!(
                (mount["name"].as_str(), mount["mountPath"].as_str()),
                (Some(volume.as_str()), Some(MOUNT_PATH))
            );
        }
        assert!(object["spec"].get("ephemeralContainers").is_none());
        let before = object.clone();
        complete(&mut object, "default", &json!({}), [1; 5]);
        assert_eq!(object, before, "a second time changes nothing");
    }

    #[test]
    fn opting_out() {
        let table = [
            (json!({"automountServiceAccountToken": false}), json!({}), false),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (
                json!({"automountServiceAccountToken": true}),
                json!({"automountServiceAccountToken": false}),
                true,
            ),
            (json!({}), json!({}), true),
        ];
        for (mut spec, account, expected) in table {
            spec["containers"] = json!([{"name": "a"}]);
            let mut object = pod(spec);
            complete(&mut object, "x", &account, [0; 5]);
            assert_eq!(object["spec"]["volumes"].is_array(), expected);
            assert_eq!(object["spec"]["serviceAccountName"], "x");
        }
    }

    #[test]
    fn pull_secrets_come_from_the_account() {
        let account = json!({"imagePullSecrets": [{"name": "r"}]});
        let mut object = pod(json!({"containers": []}));
        complete(&mut object, "x", &account, [0; 5]);
        assert_eq!(object["spec"]["imagePullSecrets"][0]["name"], "r");
        let mut own = pod(json!({"containers": [], "imagePullSecrets": [{"name": "mine"}]}));
        complete(&mut own, "x", &account, [0; 5]);
        assert_eq!(own["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
    }
}
