//! The lease by which a server says that it is there (KEP-1965): `apiserver-…` in `kube-system`. It lasts an hour and is
//! renewed a few times in it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use catamaran_api::status::{Reason, Status};
use catamaran_api::{meta, time};

use crate::bootstrap;
use crate::core::Core;
use crate::options::WriteOptions;
use crate::query::Query;
use crate::registry::{self, Missing};
use crate::strategy::Part;

/// Seconds that the lease lasts.
const LASTS: u64 = 3600;
const RENEW: Duration = Duration::from_secs(15 * 60);

/// Renews for ever.
pub(crate) async fn run(core: &Arc<Core>) {
    loop {
        sleep(RENEW).await;
        if let Err(status) = renew(core).await {
            tracing::warn!(error = status.message, "the server's lease could not be renewed");
        }
    }
}

/// Makes the lease or renews it.
pub(crate) async fn renew(core: &Arc<Core>) -> Result<(), Status> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let object = lease(host.trim(), core.started, Timestamp::now());
    let context = bootstrap::context(core, &object)?;
    let options = WriteOptions::parse(&Query::default(), "UpdateOptions")?;
    match registry::create(&context, object.clone(), &options).await {
        Err(status) if status.reason == Some(Reason::AlreadyExists) => {}
        done => return done.map(drop),
    }
    let change = |current: Option<&Value>| {
        let mut new = current.cloned().unwrap_or_default();
        new["spec"] = object["spec"].clone();
        Ok(new)
    };
    registry::update(&context, (Part::Main, Missing::Refuse), &options, change).await.map(drop)
}

/// The lease of the server on a host that started at `started`.
fn lease(host: &str, started: Timestamp, now: Timestamp) -> Value {
    let digest: String = Sha256::digest(host).iter().take(13).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("apiserver-{digest}");
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "namespace": "kube-system",
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"},
        },
        "spec": {
            "holderIdentity": format!("{name}_{}", started.as_millisecond()),
            "leaseDurationSeconds": LASTS, "renewTime": time::format_micro(now),
        },
    });
    if catamaran_api::name::label_value(host).is_empty() && !host.is_empty() {
        meta::set_label(&mut lease, "kubernetes.io/hostname", host);
    }
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_name() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (one, two) = (lease("a", at(0), at(1)), lease("a", at(0), at(2)));
        assert_eq!(meta::name(&one), meta::name(&two));
        assert_eq!(one["spec"]["holderIdentity"], two["spec"]["holderIdentity"]);
        assert_ne!(one["spec"]["renewTime"], two["spec"]["renewTime"]);
        assert_ne!(meta::name(&lease("b", at(0), at(1))), meta::name(&one));
        assert_eq!(one["metadata"]["labels"]["kubernetes.io/hostname"], "a");
        assert!(lease("no name", at(0), at(1))["metadata"]["labels"]["kubernetes.io/hostname"].is_null());
    }
}
