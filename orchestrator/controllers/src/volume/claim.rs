//! What is to be done about a claim next: a pure function of the claim, the volumes and the classes. Each step is
//! one write, after which the claim is looked at again.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;

use catamaran_api::local_path::{BIND_COMPLETED, PROVISIONER, SELECTED_NODE};
use catamaran_client::{EventType, object};

use super::local_path;
use super::matching::{self, Where, best, claim_ref, is_for};

/// The provisioner of classes whose volumes people make.
const BY_HAND: &str = "kubernetes.io/no-provisioner";
/// Marks a class that claims get which name none.
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// All that a claim's next step depends on.
pub(super) struct Observed<'a> {
    pub(super) claim: &'a PersistentVolumeClaim,
    /// The volume that the claim names.
    pub(super) named: Option<Arc<PersistentVolume>>,
    pub(super) volumes: &'a [Arc<PersistentVolume>],
    pub(super) classes: &'a [Arc<StorageClass>],
    /// The node that the scheduler chose for its consumer, if there is such a node.
    pub(super) node: Option<Arc<Node>>,
    /// A pod that needs it and has no node yet.
    pub(super) consumer: Option<&'a str>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    Nothing,
    /// It names no class and gets the default one.
    SetClass(String),
    /// Claim and volume become each other's.
    Bind(Arc<PersistentVolume>),
    /// Its status is to be this, with an event where something went wrong.
    Report(Box<PersistentVolumeClaimStatus>, Option<Told>),
    /// A volume is made for it.
    Provision(Box<PersistentVolume>),
    /// Somebody outside must make a volume for it.
    Ask(String),
    /// The scheduler must choose another node.
    Reschedule(Told),
    /// It waits.
    Wait(Told),
}

/// What is said in an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) event_type: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Told {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Told { event_type: EventType::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Told { event_type: EventType::Warning, reason, message: message.into() }
    }
}

/// The next step of a claim.
pub(super) fn plan(observed: &Observed<'_>) -> ClaimStep {
    let claim = observed.claim;
    if object::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound(observed);
    }
    if object::is_being_deleted(&claim.metadata) {
        return ClaimStep::Nothing;
    }
    if !volume_name(claim).is_empty() {
        return named(observed);
    }
    if class_name(claim).is_none()
        && let Some(class) = default_class(observed.classes)
    {
        return ClaimStep::SetClass(object::name(&class.metadata).to_owned());
    }
    unbound(observed)
}

/// `spec.volumeName`.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The class that a claim names: `Some("")` asks for volumes without a class.
pub(super) fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())
}

/// Of several default classes the one made last holds, and of these the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let marked = |class: &&Arc<StorageClass>| {
        DEFAULT.iter().any(|key| object::annotation(&class.metadata, key) == Some("true"))
    };
    let made = |class: &Arc<StorageClass>| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let rank = |class: &&Arc<StorageClass>| {
        (made(class), std::cmp::Reverse(object::name(&class.metadata).to_owned()))
    };
    classes.iter().filter(marked).max_by_key(rank)
}

/// A claim that has had a volume.
fn bound(observed: &Observed<'_>) -> ClaimStep {
    let lost = |reason: &'static str, message: &str| {
        let status = PersistentVolumeClaimStatus {
            phase: Some("Lost".into()),
            ..PersistentVolumeClaimStatus::default()
        };
        report(observed.claim, status, Some(Told::warning(reason, message)))
    };
    if volume_name(observed.claim).is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = &observed.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(volume) {
        None => ClaimStep::Bind(Arc::clone(volume)),
        Some(_) if !is_for(volume, observed.claim) => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
        Some(named) if named.uid.as_deref().unwrap_or_default().is_empty() => {
            ClaimStep::Bind(Arc::clone(volume))
        }
        Some(_) => report(observed.claim, status_of(observed.claim, volume), None),
    }
}

fn status_of(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaimStatus {
    let spec = volume.spec.as_ref();
    PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        access_modes: spec.and_then(|spec| spec.access_modes.clone()),
        capacity: spec.and_then(|spec| spec.capacity.clone()),
        ..claim.status.clone().unwrap_or_default()
    }
}

fn report(
    claim: &PersistentVolumeClaim,
    status: PersistentVolumeClaimStatus,
    told: Option<Told>,
) -> ClaimStep {
    if claim.status.as_ref() == Some(&status) {
        return ClaimStep::Nothing;
    }
    ClaimStep::Report(Box::new(status), told)
}

/// A claim that asks for one volume by its name.
fn named(observed: &Observed<'_>) -> ClaimStep {
    let claim = observed.claim;
    // It may come yet.
    let Some(volume) = &observed.named else { return ClaimStep::Nothing };
    let name = object::name(&volume.metadata);
    if is_for(volume, claim) {
        return ClaimStep::Bind(Arc::clone(volume));
    }
    if claim_ref(volume).is_some() {
        let message = format!("volume {name:?} already bound to a different claim.");
        return ClaimStep::Wait(Told::warning("FailedBinding", message));
    }
    let same_class = matching::class_of_volume(volume) == class_name(claim).unwrap_or_default();
    let fits = matching::fits(claim, volume).and(if same_class {
        Ok(())
    } else {
        Err("storageClassName does not match")
    });
    match fits {
        Ok(()) => ClaimStep::Bind(Arc::clone(volume)),
        Err(why) => {
            let message = format!("Cannot bind to requested volume {name:?}: {why}");
            ClaimStep::Wait(Told::warning("VolumeMismatch", message))
        }
    }
}

/// A claim that takes what fits.
fn unbound(observed: &Observed<'_>) -> ClaimStep {
    let claim = observed.claim;
    let name = class_name(claim).unwrap_or_default();
    let class = observed.classes.iter().find(|class| object::name(&class.metadata) == name);
    let delayed =
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let chosen = object::annotation(&claim.metadata, SELECTED_NODE);
    let place = match (&observed.node, delayed) {
        (Some(node), true) => Where::On(node),
        (None, true) => Where::Unknown,
        (_, false) => Where::Anywhere,
    };
    if let Some(volume) = best(claim, name, place, observed.volumes) {
        return ClaimStep::Bind(volume);
    }
    let Some(class) = class else {
        return ClaimStep::Wait(if name.is_empty() {
            let message = "no persistent volumes available for this claim and no storage class is set";
            Told::normal("FailedBinding", message)
        } else {
            let message = format!("storageclass.storage.k8s.io {name:?} not found");
            Told::warning("ProvisioningFailed", message)
        });
    };
    match (delayed, chosen, &observed.node) {
        (true, None, _) => ClaimStep::Wait(first_consumer(observed.consumer)),
        (true, Some(gone), None) => {
            let message = format!("the node {gone:?} that was chosen for the claim is gone");
            ClaimStep::Reschedule(Told::warning("ProvisioningFailed", message))
        }
        _ => provision(claim, class, observed.node.as_deref()),
    }
}

fn first_consumer(consumer: Option<&str>) -> Told {
    match consumer {
        Some(pod) => Told::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        None => {
            let message = "waiting for first consumer to be created before binding";
            Told::normal("WaitForFirstConsumer", message)
        }
    }
}

fn provision(claim: &PersistentVolumeClaim, class: &StorageClass, node: Option<&Node>) -> ClaimStep {
    match class.provisioner.as_str() {
        PROVISIONER => match local_path::volume(claim, class, node) {
            Ok(volume) => ClaimStep::Provision(Box::new(volume)),
            Err(why) => {
                let name = object::name(&class.metadata);
                let message = format!("failed to provision volume with StorageClass {name:?}: {why}");
                ClaimStep::Wait(Told::warning("ProvisioningFailed", message))
            }
        },
        // The scheduler found one on this node that somebody else took meanwhile.
        BY_HAND if node.is_some() => {
            let message = "the volume that was chosen for the claim is no longer free";
            ClaimStep::Reschedule(Told::normal("FailedBinding", message))
        }
        BY_HAND => {
            ClaimStep::Wait(Told::normal("FailedBinding", "no persistent volumes available for this claim"))
        }
        other => ClaimStep::Ask(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(annotations: Value, spec: Value, status: Value) -> PersistentVolumeClaim {
        let mut whole =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"spec": whole, "status": status, "metadata": {
            "name": "c", "namespace": "ns", "uid": "0b1c", "annotations": annotations}}))
        .unwrap()
    }

    fn volume(more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volume = json!({"metadata": {"name": "v"}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn class(name: &str, provisioner: &str, mode: &str, made: &str) -> Arc<StorageClass> {
        let default = !made.is_empty();
        let mut class = json!({"metadata": {"name": name, "annotations": {DEFAULT[0]: default.to_string()}},
            "provisioner": provisioner, "volumeBindingMode": mode});
        if default {
            class["metadata"]["creationTimestamp"] = json!(made);
        }
        Arc::new(serde_json::from_value(class).unwrap())
    }

    fn node() -> Arc<Node> {
        let labels = json!({"kubernetes.io/hostname": "n"});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap())
    }

    /// The step in a word, with what it says.
    fn step(
        claim: &PersistentVolumeClaim,
        volume: Option<Arc<PersistentVolume>>,
        classes: &[Arc<StorageClass>],
        node: Option<Arc<Node>>,
    ) -> String {
        let volumes: Vec<_> = volume.clone().into_iter().collect();
        let named = volume.filter(|_| volume_name(claim) == "v");
        match plan(&Observed { claim, named, volumes: &volumes, classes, node, consumer: None }) {
            ClaimStep::Nothing => "nothing".into(),
            ClaimStep::SetClass(name) => format!("class {name}"),
            ClaimStep::Bind(_) => "bind".into(),
            ClaimStep::Report(status, told) => {
                let told = told.map(|told| format!(" {}", told.reason)).unwrap_or_default();
                format!("report {}{told}", status.phase.unwrap())
            }
            ClaimStep::Provision(volume) => format!("provision {}", volume.metadata.name.unwrap()),
            ClaimStep::Ask(who) => format!("ask {who}"),
            ClaimStep::Reschedule(told) => format!("reschedule {}", told.reason),
            ClaimStep::Wait(told) => format!("wait {}", told.reason),
        }
    }

    #[test]
    fn an_unbound_claim() {
        let local = |mode: &str| vec![class("lp", PROVISIONER, mode, "")];
        let late = "WaitForFirstConsumer";
        let of = |class: &str| json!({"storageClassName": class});
        let on_n = || json!({SELECTED_NODE: "n"});
        let by_hand = || vec![class("hand", BY_HAND, late, "")];
        let foreign = || vec![class("far", "csi.example.com", "Immediate", "")];
        let none = || json!({});
        let v = |class: &str| Some(volume(json!({"storageClassName": class})));
        let table = [
            (none(), none(), None, vec![], None, "wait FailedBinding"),
            (none(), none(), v(""), vec![], None, "bind"),
            (none(), none(), v(""), vec![class("d", "x", late, "2026-01-01T00:00:00Z")], None, "class d"),
            (none(), of("lp"), None, vec![], None, "wait ProvisioningFailed"),
            (none(), of("lp"), v("lp"), vec![], None, "bind"),
            (none(), of("lp"), v("lp"), local(late), None, "wait WaitForFirstConsumer"),
            (on_n(), of("lp"), v("lp"), local(late), Some(node()), "bind"),
            (on_n(), of("lp"), None, local(late), Some(node()), "provision pvc-0b1c"),
            (on_n(), of("lp"), None, local(late), None, "reschedule ProvisioningFailed"),
            (none(), of("lp"), None, local("Immediate"), None, "wait ProvisioningFailed"),
            (on_n(), of("hand"), None, by_hand(), Some(node()), "reschedule FailedBinding"),
            (none(), of("far"), None, foreign(), None, "ask csi.example.com"),
        ];
        for (annotations, spec, volume, classes, node, expected) in table {
            let claim = claim(annotations.clone(), spec.clone(), json!({"phase": "Pending"}));
            let found = step(&claim, volume, &classes, node);
            assert_eq!(found, expected, "{annotations} {spec}");
        }
    }

    #[test]
    fn of_two_default_classes_the_newest_holds() {
        let classes = [
            class("old", "x", "Immediate", "2026-01-01T00:00:00Z"),
            class("new", "x", "Immediate", "2026-01-02T00:00:00Z"),
            class("none", "x", "Immediate", ""),
        ];
        assert_eq!(default_class(&classes).unwrap().metadata.name.as_deref(), Some("new"));
    }

    #[test]
    fn a_claim_that_names_its_volume() {
        let ours = json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "0b1c"}});
        let theirs = json!({"claimRef": {"namespace": "ns", "name": "other", "uid": "7"}});
        let table = [
            (None, "nothing"),
            (Some(volume(json!({}))), "bind"),
            (Some(volume(ours)), "bind"),
            (Some(volume(theirs)), "wait FailedBinding"),
            (Some(volume(json!({"capacity": {"storage": "1Mi"}}))), "wait VolumeMismatch"),
            (Some(volume(json!({"storageClassName": "x"}))), "wait VolumeMismatch"),
        ];
        for (volume, expected) in table {
            let claim = claim(json!({}), json!({"volumeName": "v"}), json!({"phase": "Pending"}));
            assert_eq!(step(&claim, volume.clone(), &[], None), expected, "{volume:?}");
        }
    }

    #[test]
    fn a_bound_claim() {
        let done = json!({BIND_COMPLETED: "yes"});
        let reference = |name: &str, uid: &str| {
            Some(volume(json!({"claimRef": {"namespace": "ns", "name": name, "uid": uid}})))
        };
        let whole =
            json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        let pending = json!({"phase": "Pending"});
        let table = [
            (&pending, reference("c", "0b1c"), "report Bound"),
            (&whole, reference("c", "0b1c"), "nothing"),
            (&whole, reference("c", ""), "bind"),
            (&whole, Some(volume(json!({}))), "bind"),
            (&whole, reference("other", "8"), "report Lost ClaimMisbound"),
            (&whole, None, "report Lost ClaimLost"),
        ];
        for (status, volume, expected) in table {
            let claim = claim(done.clone(), json!({"volumeName": "v"}), status.clone());
            assert_eq!(step(&claim, volume.clone(), &[], None), expected, "{status} {volume:?}");
        }
    }
}
