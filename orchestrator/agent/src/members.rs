//! The containers of a pod in the order in which they start, and small questions about a Pod object.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::restart::Policy;

/// Seconds for the containers of a pod whose object is gone.
const FORCED_GRACE: i64 = 2;

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: goes on running beside the others.
    Sidecar,
    Main,
}

/// One container of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) role: Role,
    pub(crate) container: &'a Container,
}

/// What the API asks of this node for one pod.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) pod: std::sync::Arc<Pod>,
    /// The object was removed while its containers still ran.
    pub(crate) gone: bool,
}

// === impl ===

impl Member<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.container.name
    }

    /// What happens when this container ends.
    pub(crate) fn policy(&self, pod: &Pod) -> Policy {
        let of_pod = Policy::parse(spec(pod).restart_policy.as_deref());
        match (self.role, of_pod) {
            (Role::Sidecar, _) => Policy::Always,
            (Role::Init, Policy::Always) => Policy::OnFailure,
            (_, policy) => policy,
        }
    }
}

impl Desired {
    /// Whether the pod is to end.
    pub(crate) fn ending(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds its containers have between TERM and KILL. An object that is removed while they run was removed by
    /// force.
    pub(crate) fn grace(&self) -> i64 {
        let of_spec = spec(&self.pod).termination_grace_period_seconds.unwrap_or(30);
        let of_deletion = self.pod.metadata.deletion_grace_period_seconds;
        let grace = if self.ending() { of_deletion.unwrap_or(of_spec) } else { of_spec }.max(0);
        if self.gone { grace.min(FORCED_GRACE) } else { grace }
    }
}

/// The spec; a pod that was bound to a node has one.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

/// Init containers and sidecars in order, then the main containers.
pub(crate) fn members(pod: &Pod) -> impl DoubleEndedIterator<Item = Member<'_>> {
    let spec = spec(pod);
    let first = spec.init_containers.iter().flatten().map(|container| Member {
        role: if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        container,
    });
    first.chain(spec.containers.iter().map(|container| Member { role: Role::Main, container }))
}

/// The member of that name.
pub(crate) fn member<'a>(pod: &'a Pod, name: &str) -> Option<Member<'a>> {
    members(pod).find(|member| member.name() == name)
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

pub(crate) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A time from milliseconds since the epoch, as shims give it.
pub(crate) fn time_from_ms(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_is_that_of_the_deletion_and_short_by_force() {
        // spec, deletion, gone, expected
        let table = [
            (None, None, false, 30),
            (Some(5), None, false, 5),
            (Some(60), Some(10), false, 10),
            (Some(60), Some(0), false, 0),
            (Some(60), None, true, 2),
            (Some(60), Some(0), true, 0),
            (Some(1), None, true, 1),
        ];
        for (of_spec, of_deletion, gone, expected) in table {
            let mut pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"containers": [], "terminationGracePeriodSeconds": of_spec}}),
            )
            .unwrap();
            if of_deletion.is_some() {
                let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
                pod.metadata.deletion_timestamp = Some(now);
                pod.metadata.deletion_grace_period_seconds = of_deletion;
            }
            let desired = Desired { pod: pod.into(), gone };
            assert_eq!(desired.grace(), expected, "{of_spec:?} {of_deletion:?} {gone}");
        }
    }
}
