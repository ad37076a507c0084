//! Leases: the heartbeat of a holder, and the election of a leader (coordination.k8s.io/v1).
//!
//! Whether a lease may be taken is [`decide`], a function of values. The time that counts is how long *we* have
//! seen the lease unchanged, not the time written in it: clocks of machines differ.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::error::{Chain, is_already_exists, is_conflict, is_not_found};

/// A lease that somebody keeps alive.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// For nodes `kube-node-lease`.
    pub namespace: String,
    /// For nodes the node's name.
    pub name: String,
    /// Who is alive.
    pub holder: String,
    /// Whose lease it is, so that it is collected with its owner.
    pub owner: Option<OwnerReference>,
    /// After this long without renewal the holder counts as gone.
    pub duration: Duration,
    /// The time between two renewals.
    pub interval: Duration,
}

impl Heartbeat {
    /// The lease of a node, with the kubelet's numbers: 40 s, renewed every 10 s.
    #[must_use]
    pub fn of_node(node: &str, owner: Option<OwnerReference>) -> Self {
        Self {
            namespace: "kube-node-lease".to_owned(),
            name: node.to_owned(),
            holder: node.to_owned(),
            owner,
            duration: Duration::from_secs(40),
            interval: Duration::from_secs(10),
        }
    }

    /// Renews the lease for ever; makes it when it is missing. A failure is logged and tried again soon.
    pub async fn run(self, client: Client) {
        let api: Api<Lease> = Api::namespaced(client, &self.namespace);
        loop {
            let pause = match self.beat(&api).await {
                Ok(()) => self.interval,
                Err(error) => {
                    debug!(lease = %self.name, error = %Chain(&error), "the lease could not be renewed");
                    self.interval / 10
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews the lease once.
    ///
    /// # Errors
    /// The server did not answer, or refused.
    pub async fn beat(&self, api: &Api<Lease>) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let patch = serde_json::json!({"spec": {"renewTime": now, "holderIdentity": self.holder}});
        match api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if is_not_found(&error) => {
                let spec = LeaseSpec {
                    holder_identity: Some(self.holder.clone()),
                    lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                };
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    owner_references: self.owner.clone().map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: Some(spec) };
                api.create(&PostParams::default(), &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

/// A leadership that several processes want and one has.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the lease, usually `kube-system`.
    pub namespace: String,
    /// The name of the lease, for example `catamaran-controllers`.
    pub name: String,
    /// Who we are; differs for each process.
    pub identity: String,
    /// How long a leader that says nothing stays the leader.
    pub duration: Duration,
    /// How long the leader goes on working without having renewed; shorter than `duration`.
    pub deadline: Duration,
    /// The time between two tries to take or renew.
    pub retry: Duration,
}

impl Election {
    /// An election in `kube-system` with client-go's numbers: 15 s, 10 s, 2 s.
    #[must_use]
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// Waits until we are the leader, then runs `work` until it ends or the leadership is lost. On loss `work`
    /// is dropped before anybody else can be the leader. Returns what `work` returned, or `None` after a loss.
    pub async fn lead<T>(&self, client: Client, work: impl Future<Output = T>) -> Option<T> {
        let api: Api<Lease> = Api::namespaced(client, &self.namespace);
        let mut seen = Seen::default();
        while !self.try_once(&api, &mut seen).await {
            tokio::time::sleep(self.retry).await;
        }
        info!(lease = %self.name, identity = %self.identity, "leading");
        tokio::select! {
            result = work => {
                self.release(&api).await;
                Some(result)
            }
            () = self.keep(&api, &mut seen) => {
                warn!(lease = %self.name, "the leadership is lost");
                None
            }
        }
    }

    /// Renews until that was impossible for `deadline`.
    async fn keep(&self, api: &Api<Lease>, seen: &mut Seen) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.deadline {
            tokio::time::sleep(self.retry).await;
            let left = self.deadline.saturating_sub(renewed.elapsed());
            if let Ok(true) = tokio::time::timeout(left, self.try_once(api, seen)).await {
                renewed = Instant::now();
            } else if seen.somebody_else(&self.identity) {
                return;
            }
        }
    }

    async fn try_once(&self, api: &Api<Lease>, seen: &mut Seen) -> bool {
        match self.take_or_renew(api, seen).await {
            Ok(leading) => leading,
            Err(error) if is_conflict(&error) || is_already_exists(&error) => false,
            Err(error) => {
                debug!(lease = %self.name, error = %Chain(&error), "the lease could not be read or written");
                false
            }
        }
    }

    async fn take_or_renew(&self, api: &Api<Lease>, seen: &mut Seen) -> Result<bool, kube::Error> {
        let current = api.get_opt(&self.name).await?;
        let now = Timestamp::now();
        let Some(current) = current else {
            let lease = self.lease(ObjectMeta::default(), None, now);
            seen.note(&api.create(&PostParams::default(), &lease).await?);
            return Ok(true);
        };
        seen.note(&current);
        match decide(current.spec.as_ref(), &self.identity, seen.unchanged_for()) {
            Decision::Wait => Ok(false),
            decision => {
                let before = current.spec.filter(|_| decision == Decision::Renew);
                let lease = self.lease(current.metadata, before, now);
                // The resourceVersion of `current` goes along: somebody else's write in between is a conflict.
                seen.note(&api.replace(&self.name, &PostParams::default(), &lease).await?);
                Ok(true)
            }
        }
    }

    fn lease(&self, metadata: ObjectMeta, before: Option<LeaseSpec>, now: Timestamp) -> Lease {
        let acquired = before.as_ref().and_then(|spec| spec.acquire_time.clone());
        let transitions = before.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                lease_transitions: Some(if before.is_some() { transitions } else { transitions + 1 }),
                acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Gives the lease up, so that the next leader need not wait.
    async fn release(&self, api: &Api<Lease>) {
        let Ok(Some(mut lease)) = api.get_opt(&self.name).await else { return };
        if let Some(spec) = lease.spec.as_mut()
            && spec.holder_identity.as_deref() == Some(&self.identity)
        {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = api.replace(&self.name, &PostParams::default(), &lease).await {
                debug!(lease = %self.name, error = %Chain(&error), "the lease was not released");
            }
        }
    }
}

/// When we saw the lease change last.
#[derive(Default)]
struct Seen {
    version: Option<String>,
    holder: Option<String>,
    at: Option<Instant>,
}

impl Seen {
    fn note(&mut self, lease: &Lease) {
        self.holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        if self.at.is_none() || self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.at = Some(Instant::now());
        }
    }

    fn unchanged_for(&self) -> Duration {
        self.at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn somebody_else(&self, identity: &str) -> bool {
        self.holder.as_deref().is_some_and(|holder| !holder.is_empty() && holder != identity)
    }
}

/// What may be done with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder was silent for too long: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// What `identity` may do with a lease that it has seen unchanged for `unchanged`.
#[must_use]
pub fn decide(spec: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Decision {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if holder == identity {
        Decision::Renew
    } else if holder.is_empty() || unchanged > duration {
        Decision::Take
    } else {
        Decision::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_the_lease() {
        let spec = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let table = [
            (None, 0, Decision::Take),
            (Some(spec("")), 0, Decision::Take),
            (Some(spec("me")), 0, Decision::Renew),
            (Some(spec("me")), 99, Decision::Renew),
            (Some(spec("you")), 0, Decision::Wait),
            (Some(spec("you")), 15, Decision::Wait),
            (Some(spec("you")), 16, Decision::Take),
        ];
        for (spec, unchanged, expected) in table {
            let decision = decide(spec.as_ref(), "me", Duration::from_secs(unchanged));
            assert_eq!(decision, expected, "{spec:?} unchanged for {unchanged} s");
        }
    }
}
