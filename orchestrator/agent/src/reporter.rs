//! Writes the status of one pod to the API, beside its worker: the newest counts, equal ones are not sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catamaran_client::error::{Chain, is_not_found};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::members::{name, namespace, uid};

/// A pod that is coming up changes its status every millisecond; the passing ones are not worth a durable write.
const SETTLE: Duration = Duration::from_millis(100);
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// The writing end of one pod's status.
pub(crate) struct Reporter {
    newest: watch::Sender<Option<PodStatus>>,
    written: watch::Receiver<Option<PodStatus>>,
    said: Arc<Mutex<Said>>,
    task: JoinHandle<()>,
}

/// What the API says, as far as we know.
#[derive(Default)]
struct Said {
    /// Of the object that says it; 0: not known.
    version: u64,
    status: Option<PodStatus>,
}

impl Reporter {
    pub(crate) fn new(client: kube::Client, pod: &Pod) -> Self {
        let (newest, receiver) = watch::channel(None);
        let (done, written) = watch::channel(None);
        // What the API said when we began counts as written.
        let said = Arc::new(Mutex::new(Said { version: version(pod), status: pod.status.clone() }));
        let writer = Writer {
            api: Api::namespaced(client, namespace(pod)),
            name: name(pod).to_owned(),
            uid: uid(pod).to_owned(),
            said: said.clone(),
        };
        Reporter { newest, written, said, task: tokio::spawn(writer.run(receiver, done)) }
    }

    /// Takes note of what the API says by now. What somebody else wrote over our words is written again with the next
    /// report.
    pub(crate) fn observe(&self, pod: &Pod) {
        let overwritten = {
            let mut said = lock(&self.said);
            if version(pod) <= said.version {
                return; // an older state, or our own write
            }
            said.version = version(pod);
            let ours = self.newest.borrow();
            let differs = ours.as_ref().zip(pod.status.as_ref()).is_some_and(|(ours, theirs)| {
                self.written.borrow().as_ref() == Some(ours) && gist(ours) != gist(theirs)
            });
            if differs {
                said.status.clone_from(&pod.status);
            }
            differs
        };
        if overwritten {
            self.newest.send_modify(|_| {});
        }
    }

    /// Takes a status to be written soon.
    pub(crate) fn report(&self, status: PodStatus) {
        self.newest.send_if_modified(|newest| {
            let changed = newest.as_ref() != Some(&status);
            *newest = Some(status);
            changed
        });
    }

    /// Waits until the newest status is written, or cannot be, for at most `limit`.
    pub(crate) async fn flush(&mut self, limit: Duration) {
        let newest = self.newest.borrow().clone();
        let flushed = self.written.wait_for(|written| *written == newest);
        // Either way the worker goes on: the pod is removed next.
        let _ = tokio::time::timeout(limit, flushed).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Writer {
    api: Api<Pod>,
    name: String,
    uid: String,
    said: Arc<Mutex<Said>>,
}

/// The version of an object. The API's versions are numbers that grow.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn lock(said: &Mutex<Said>) -> std::sync::MutexGuard<'_, Said> {
    // A panic while holding it cannot leave it half-changed.
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What nobody but the agent has a say in.
#[derive(Debug, PartialEq, Eq)]
struct Gist<'a> {
    phase: Option<&'a str>,
    conditions: BTreeMap<&'a str, &'a str>,
    /// Ready, and how often restarted.
    containers: BTreeMap<&'a str, (bool, i32)>,
}

fn gist(status: &PodStatus) -> Gist<'_> {
    const OURS: [&str; 4] = ["Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers"];
    let conditions = status.conditions.iter().flatten();
    let conditions = conditions.map(|condition| (condition.type_.as_str(), condition.status.as_str()));
    let containers = status.container_statuses.iter().flatten();
    Gist {
        phase: status.phase.as_deref(),
        conditions: conditions.filter(|(kind, _)| OURS.contains(kind)).collect(),
        containers: containers.map(|one| (one.name.as_str(), (one.ready, one.restart_count))).collect(),
    }
}

impl Writer {
    async fn run(
        mut self,
        mut newest: watch::Receiver<Option<PodStatus>>,
        done: watch::Sender<Option<PodStatus>>,
    ) {
        while newest.changed().await.is_ok() {
            if newest.borrow().as_ref().is_some_and(is_passing) {
                tokio::select! {
                    _ = newest.changed() => newest.mark_changed(),
                    () = tokio::time::sleep(SETTLE) => {}
                }
                if newest.has_changed().unwrap_or(false)
                    && newest.borrow().as_ref().is_some_and(|s| !is_passing(s))
                {
                    continue;
                }
            }
            let Some(status) = newest.borrow_and_update().clone() else { continue };
            while !self.write(&status).await {
                tokio::time::sleep(RETRY).await;
                if newest.has_changed().unwrap_or(true) {
                    break;
                }
            }
            done.send_replace(Some(status));
        }
    }

    /// True when there is nothing left to do about this status.
    async fn write(&mut self, status: &PodStatus) -> bool {
        let last = lock(&self.said).status.clone();
        if last.as_ref().is_some_and(|last| same(last, status)) {
            return true;
        }
        let status_patch = with_nulls(status, last.as_ref());
        let patch =
            Patch::Strategic(serde_json::json!({"metadata": {"uid": self.uid}, "status": status_patch}));
        match self.api.patch_status(&self.name, &PatchParams::default(), &patch).await {
            Ok(pod) => {
                let mut said = lock(&self.said);
                said.status = Some(status.clone());
                said.version = said.version.max(version(&pod));
                true
            }
            Err(error) if is_not_found(&error) => true,
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                // Another pod has this name by now.
                debug!(pod = self.name, answer = answer.message, "the status is refused");
                true
            }
            Err(kube::Error::Api(answer)) if answer.code == 422 => {
                // Sending it again does not help.
                warn!(pod = self.name, answer = answer.message, "the server finds fault with the status");
                true
            }
            Err(error) => {
                warn!(pod = self.name, error = %Chain(&error), "the status cannot be written yet");
                false
            }
        }
    }
}

/// On its way up without anything to tell.
fn is_passing(status: &PodStatus) -> bool {
    let nothing_to_tell =
        |reason: Option<&str>| matches!(reason, Some("ContainerCreating" | "PodInitializing"));
    let mut all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    status.phase.as_deref() == Some("Pending")
        && all.all(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_none_or(|waiting| nothing_to_tell(waiting.reason.as_deref()))
        })
}

/// Whether the API says all of this already. Conditions of others and fields that we never write do not count.
fn same(last: &PodStatus, status: &PodStatus) -> bool {
    let ours = |status: &PodStatus, names: &[String]| {
        let mut ours = status.clone();
        ours.conditions.iter_mut().flatten().for_each(|condition| {
            condition.last_probe_time = None;
            condition.observed_generation = None;
        });
        if let Some(conditions) = &mut ours.conditions {
            conditions.retain(|condition| names.contains(&condition.type_));
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        ours.observed_generation = None;
        ours.nominated_node_name = None;
        // As the API has it: times in whole seconds.
        serde_json::to_value(ours).unwrap_or_default()
    };
    let names: Vec<String> =
        status.conditions.iter().flatten().map(|condition| condition.type_.clone()).collect();
    ours(last, &names) == ours(status, &names)
}

/// The status as a patch: what was said before and is not any more becomes null.
fn with_nulls(status: &PodStatus, last: Option<&PodStatus>) -> serde_json::Value {
    let mut new = serde_json::to_value(status).unwrap_or_default();
    let old = serde_json::to_value(last).unwrap_or_default();
    if let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) {
        for field in ["reason", "message", "podIP", "podIPs", "initContainerStatuses"] {
            if old.contains_key(field) && !new.contains_key(field) {
                new.insert(field.to_owned(), serde_json::Value::Null);
            }
        }
        for condition in new.get_mut("conditions").and_then(|list| list.as_array_mut()).into_iter().flatten()
        {
            for field in ["reason", "message"] {
                if condition.get(field).is_none() {
                    condition[field] = serde_json::Value::Null;
                }
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: serde_json::Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn conditions_of_others_do_not_make_a_difference() {
        let last = status(serde_json::json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}]}));
        let new = status(
            serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        );
        assert!(same(&last, &new));
        let other = status(
            serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}),
        );
        assert!(!same(&last, &other));
    }

    #[test]
    fn fractions_of_a_second_are_not_said() {
        let at = |time: &str| PodStatus {
            start_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time.parse().unwrap())),
            ..PodStatus::default()
        };
        assert!(same(&at("2026-01-01T00:00:07Z"), &at("2026-01-01T00:00:07.25Z")));
        assert!(!same(&at("2026-01-01T00:00:07Z"), &at("2026-01-01T00:00:08Z")));
    }

    #[test]
    fn what_is_no_longer_said_is_taken_back() {
        let last = status(serde_json::json!({"reason": "DeadlineExceeded", "message": "late"}));
        let new = status(serde_json::json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let patch = with_nulls(&new, Some(&last));
        assert_eq!(patch["reason"], serde_json::Value::Null);
        assert!(patch.as_object().unwrap().contains_key("message"));
        assert!(patch["conditions"][0].as_object().unwrap().contains_key("reason"));
    }

    #[test]
    fn words_that_somebody_wrote_over_are_known_by_their_gist() {
        let of = |ready: &str, time: &str| {
            status(serde_json::json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": time},
                {"type": "example.com/gate", "status": ready}]}))
        };
        let (ours, later) = (of("True", "2026-01-01T00:00:00Z"), of("True", "2026-01-02T00:00:00Z"));
        assert_eq!(gist(&ours), gist(&later));
        assert_ne!(gist(&ours), gist(&of("False", "2026-01-01T00:00:00Z")));
    }

    #[test]
    fn a_pod_on_its_way_up_is_passing_and_a_stuck_one_is_not() {
        let waiting = |reason: &str| {
            status(serde_json::json!({"phase": "Pending", "containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]}))
        };
        assert!(is_passing(&waiting("ContainerCreating")));
        assert!(!is_passing(&waiting("ErrImagePull")));
    }
}
