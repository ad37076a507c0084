//! Claims, volumes and storage classes, as far as they say where a pod can be. A pure structure.
//!
//! A claim that is bound ties its pod to the nodes that reach the volume. One that waits for its first consumer is
//! chosen a node together with the pod; who makes or gives the volume then reads it from an annotation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use catamaran_api::local_path::{BIND_COMPLETED, SELECTED_NODE};
use catamaran_api::quantity::Quantity;
use catamaran_client::object;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::filter::term_matches;
use crate::queue::Uid;
use crate::snapshot::Detail;
use crate::wire::NodeSelector;

/// The provisioner of classes whose volumes people make.
const BY_HAND: &str = "kubernetes.io/no-provisioner";

/// Namespace and name of a claim.
pub(crate) type ClaimId = (Arc<str>, Arc<str>);

/// Something that was seen.
#[derive(Debug)]
pub(crate) enum Change {
    Claim(Box<PersistentVolumeClaim>),
    ClaimGone(Box<PersistentVolumeClaim>),
    /// A list is complete: others are gone.
    ClaimsListed(HashSet<Uid>),
    Volume(Box<PersistentVolume>),
    VolumeGone(Box<PersistentVolume>),
    /// A list is complete: others are gone.
    VolumesListed(HashSet<Uid>),
    Class(Box<StorageClass>),
    ClassGone(Box<StorageClass>),
    /// A list is complete: others are gone.
    ClassesListed(HashSet<Uid>),
}

/// What volumes ask of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Need {
    /// The volume can be reached from there.
    Reaches(NodeSelector),
    /// One of these free volumes can be reached from there; `None` can be from everywhere.
    OneOf(Vec<Option<NodeSelector>>),
    /// It was chosen before, for another pod.
    Node(Arc<str>),
}

/// What the claims of a pod ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    pub(crate) of_node: Vec<Need>,
    /// Claims that wait to be told the node.
    pub(crate) choose: Vec<ClaimId>,
    /// A second pod must not have one of them at the same time.
    pub(crate) exclusive: bool,
}

#[derive(Debug, Default)]
struct Claim {
    class: String,
    /// The volume it has for good.
    volume: Option<String>,
    chosen: Option<Arc<str>>,
    lost: bool,
    leaving: bool,
    exclusive: bool,
    size: Quantity,
    modes: Vec<String>,
    mode: String,
    selector: Option<LabelSelector>,
}

#[derive(Debug, Default)]
struct Volume {
    class: String,
    reach: Option<NodeSelector>,
    /// Namespace and name of the claim that it is meant for.
    claim: Option<(String, String)>,
    available: bool,
    size: Quantity,
    modes: Vec<String>,
    mode: String,
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Class {
    delayed: bool,
    by_hand: bool,
    topologies: Vec<NodeSelector>,
}

/// All that is known of storage.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<ClaimId, Claim>,
    volumes: HashMap<String, Volume>,
    classes: HashMap<String, Class>,
    /// Nodes that were chosen and that the claims do not show yet.
    assumed: HashMap<ClaimId, Arc<str>>,
}

/// What tells objects of a kind apart in a list.
pub(crate) fn id<T: kube::Resource>(object: &T) -> Uid {
    let meta = object.meta();
    Uid::from(format!("{}/{}", object::namespace(meta), object::name(meta)))
}

fn claim_id(claim: &PersistentVolumeClaim) -> ClaimId {
    (object::namespace(&claim.metadata).into(), object::name(&claim.metadata).into())
}

impl Volumes {
    /// Takes in what was seen.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Claim(claim) => {
                let (id, row) = (claim_id(&claim), Claim::new(&claim));
                if row.volume.is_some() || row.chosen.is_some() {
                    self.assumed.remove(&id);
                }
                self.claims.insert(id, row);
            }
            Change::ClaimGone(claim) => {
                self.assumed.remove(&claim_id(&claim));
                self.claims.remove(&claim_id(&claim));
            }
            Change::ClaimsListed(listed) => self
                .claims
                .retain(|(namespace, name), _| listed.contains(format!("{namespace}/{name}").as_str())),
            Change::Volume(volume) => {
                let name = object::name(&volume.metadata).to_owned();
                self.volumes.insert(name, Volume::new(&volume));
            }
            Change::VolumeGone(volume) => {
                self.volumes.remove(object::name(&volume.metadata));
            }
            Change::VolumesListed(listed) => {
                self.volumes.retain(|name, _| listed.contains(format!("/{name}").as_str()));
            }
            Change::Class(class) => {
                let name = object::name(&class.metadata).to_owned();
                self.classes.insert(name, Class::new(&class));
            }
            Change::ClassGone(class) => {
                self.classes.remove(object::name(&class.metadata));
            }
            Change::ClassesListed(listed) => {
                self.classes.retain(|name, _| listed.contains(format!("/{name}").as_str()));
            }
        }
    }

    /// What these claims ask; or why their pod can be nowhere, in Kubernetes' words. `in_use`: does a pod that has a
    /// node use the claim?
    pub(crate) fn needs(
        &self,
        claims: &[ClaimId],
        in_use: impl Fn(&ClaimId) -> bool,
    ) -> Result<Needs, String> {
        let mut needs = Needs::default();
        for id in claims {
            let name = &id.1;
            let Some(claim) = self.claims.get(id) else {
                return Err(format!("persistentvolumeclaim {name:?} not found"));
            };
            if claim.leaving {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if claim.exclusive {
                needs.exclusive = true;
                if in_use(id) {
                    return Err("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode".into());
                }
            }
            match &claim.volume {
                Some(volume) => needs.of_node.extend(self.bound(name, claim, volume)?),
                None => self.unbound(id, claim, &mut needs)?,
            }
        }
        Ok(needs)
    }

    fn bound(&self, name: &str, claim: &Claim, volume: &str) -> Result<Option<Need>, String> {
        if claim.lost {
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        let found = self.volumes.get(volume);
        let volume = found.ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
        Ok(volume.reach.clone().map(Need::Reaches))
    }

    fn unbound(&self, id: &ClaimId, claim: &Claim, needs: &mut Needs) -> Result<(), String> {
        let class = self.classes.get(&claim.class).filter(|class| class.delayed);
        let class = class.ok_or_else(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())?;
        if let Some(node) = claim.chosen.as_ref().or_else(|| self.assumed.get(id)) {
            needs.of_node.push(Need::Node(Arc::clone(node)));
            needs.choose.push(id.clone());
            return Ok(());
        }
        let free = self.volumes.values().filter(|volume| volume.suits(id, claim));
        if class.by_hand {
            needs.of_node.push(Need::OneOf(free.map(|volume| volume.reach.clone()).collect()));
        } else if !class.topologies.is_empty() {
            let there = free.map(|volume| volume.reach.clone());
            let made = class.topologies.iter().cloned().map(Some);
            needs.of_node.push(Need::OneOf(there.chain(made).collect()));
        }
        needs.choose.push(id.clone());
        Ok(())
    }

    /// The node of a claim was chosen.
    pub(crate) fn assume(&mut self, claims: &[ClaimId], node: &Arc<str>) {
        for id in claims {
            self.assumed.insert(id.clone(), Arc::clone(node));
        }
    }

    /// The choice did not hold.
    pub(crate) fn forget(&mut self, claims: &[ClaimId]) {
        for id in claims {
            self.assumed.remove(id);
        }
    }
}

impl Need {
    /// Does the node do?
    pub(crate) fn holds(&self, node: &Detail) -> bool {
        match self {
            Self::Reaches(selector) => selects(selector, node),
            Self::OneOf(all) => {
                all.iter().any(|one| one.as_ref().is_none_or(|selector| selects(selector, node)))
            }
            Self::Node(name) => *name == node.name,
        }
    }
}

fn selects(selector: &NodeSelector, node: &Detail) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

impl Claim {
    fn new(claim: &PersistentVolumeClaim) -> Self {
        let meta = &claim.metadata;
        let spec = claim.spec.clone().unwrap_or_default();
        let request = spec.resources.and_then(|resources| resources.requests?.remove("storage"));
        let modes = spec.access_modes.unwrap_or_default();
        let complete = object::annotation(meta, BIND_COMPLETED).is_some();
        Self {
            class: spec.storage_class_name.unwrap_or_default(),
            volume: spec.volume_name.filter(|name| complete && !name.is_empty()),
            chosen: object::annotation(meta, SELECTED_NODE).map(Arc::from),
            lost: claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost"),
            leaving: object::is_being_deleted(meta),
            exclusive: modes.iter().any(|mode| mode == "ReadWriteOncePod"),
            size: request.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default(),
            modes,
            mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            selector: spec.selector,
        }
    }
}

impl Volume {
    fn new(volume: &PersistentVolume) -> Self {
        let spec = volume.spec.clone().unwrap_or_default();
        let amount = spec.capacity.and_then(|mut capacity| capacity.remove("storage"));
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            class: spec.storage_class_name.unwrap_or_default(),
            reach: spec.node_affinity.and_then(|affinity| affinity.required).map(|selector| wire(&selector)),
            claim: spec
                .claim_ref
                .map(|named| (named.namespace.unwrap_or_default(), named.name.unwrap_or_default())),
            available: phase == Some("Available") && !object::is_being_deleted(&volume.metadata),
            size: amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or_default(),
            modes: spec.access_modes.unwrap_or_default(),
            mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            labels: volume.metadata.labels.clone().unwrap_or_default(),
        }
    }

    /// Could it become the claim's?
    fn suits(&self, id: &ClaimId, claim: &Claim) -> bool {
        let meant =
            self.claim.as_ref().is_none_or(|(namespace, name)| **namespace == *id.0 && **name == *id.1);
        let selected = claim.selector.as_ref().is_none_or(|selector| {
            Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(&self.labels))
        });
        self.available
            && meant
            && selected
            && self.class == claim.class
            && self.mode == claim.mode
            && self.size >= claim.size
            && claim.modes.iter().all(|mode| self.modes.contains(mode))
    }
}

impl Class {
    fn new(class: &StorageClass) -> Self {
        // A term of topologies is written as a list of keys with values: the same as `In`.
        let topology = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
            let all = term.match_label_expressions.iter().flatten();
            let expressions: Vec<_> = all
                .map(|one| serde_json::json!({"key": one.key, "operator": "In", "values": one.values}))
                .collect();
            let selector = serde_json::json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]});
            serde_json::from_value(selector).unwrap_or_default()
        };
        Self {
            delayed: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            by_hand: class.provisioner == BY_HAND,
            topologies: class.allowed_topologies.iter().flatten().map(topology).collect(),
        }
    }
}

/// The same selector as scheduling keeps it; one that cannot be read matches nothing.
fn wire(selector: &k8s_openapi::api::core::v1::NodeSelector) -> NodeSelector {
    let value = serde_json::to_value(selector);
    value.ok().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn id(name: &str) -> ClaimId {
        ("ns".into(), name.into())
    }

    fn claim(name: &str, class: &str, annotations: Value, volume: &str) -> Change {
        let claim = json!({"metadata": {"name": name, "namespace": "ns", "annotations": annotations},
            "spec": {"storageClassName": class, "volumeName": volume, "accessModes": ["ReadWriteOnce"],
                     "resources": {"requests": {"storage": "1Gi"}}}});
        Change::Claim(Box::new(serde_json::from_value(claim).unwrap()))
    }

    fn volume(name: &str, size: &str, zone: &str) -> Change {
        let affinity = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        let volume = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"storageClassName": "hand", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
                     "nodeAffinity": affinity}});
        Change::Volume(Box::new(serde_json::from_value(volume).unwrap()))
    }

    fn class(name: &str, provisioner: &str, mode: &str) -> Change {
        let class =
            json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        Change::Class(Box::new(serde_json::from_value(class).unwrap()))
    }

    fn world() -> Volumes {
        let mut volumes = Volumes::default();
        for change in [
            class("late", "x.example.com", "WaitForFirstConsumer"),
            class("hand", BY_HAND, "WaitForFirstConsumer"),
            class("now", "x.example.com", "Immediate"),
            volume("a", "1Gi", "a"),
            volume("small", "1Mi", "b"),
            claim("bound", "hand", json!({BIND_COMPLETED: "yes"}), "a"),
            claim("missing", "hand", json!({BIND_COMPLETED: "yes"}), "z"),
            claim("now", "now", json!({}), ""),
            claim("late", "late", json!({}), ""),
            claim("chosen", "late", json!({SELECTED_NODE: "n"}), ""),
            claim("hand", "hand", json!({}), ""),
        ] {
            volumes.apply(change);
        }
        volumes
    }

    fn node(name: &str, zone: &str) -> crate::snapshot::Snapshot {
        let mut snapshot = crate::snapshot::Snapshot::default();
        let node = json!({"metadata": {"name": name, "labels": {"zone": zone}}});
        snapshot.set_node(serde_json::from_value(node).unwrap());
        snapshot
    }

    #[test]
    fn what_claims_ask() {
        let volumes = world();
        // claim, does node n in zone a do, does node m in zone b, how many are chosen
        let table = [
            ("bound", Ok((true, false, 0))),
            ("missing", Err("persistentvolume \"z\" not found")),
            ("none", Err("persistentvolumeclaim \"none\" not found")),
            ("now", Err("pod has unbound immediate PersistentVolumeClaims")),
            ("late", Ok((true, true, 1))),
            ("chosen", Ok((true, false, 1))),
            ("hand", Ok((true, false, 1))),
        ];
        for (name, expected) in table {
            let found = volumes.needs(&[id(name)], |_| false).map(|needs| {
                let does = |name: &str, zone: &str| {
                    let snapshot = node(name, zone);
                    needs.of_node.iter().all(|need| need.holds(&snapshot.details[0]))
                };
                (does("n", "a"), does("m", "b"), needs.choose.len())
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn a_node_that_was_chosen_holds_for_the_next_pod() {
        let mut volumes = world();
        volumes.assume(&[id("late")], &"m".into());
        let needs = volumes.needs(&[id("late")], |_| false).unwrap();
        assert_eq!(needs.of_node, [Need::Node("m".into())]);
        volumes.forget(&[id("late")]);
        assert!(volumes.needs(&[id("late")], |_| false).unwrap().of_node.is_empty());
    }

    #[test]
    fn one_pod_at_a_time() {
        let mut volumes = world();
        let claim = json!({"metadata": {"name": "own", "namespace": "ns"},
            "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOncePod"]}});
        volumes.apply(Change::Claim(Box::new(serde_json::from_value(claim).unwrap())));
        assert!(volumes.needs(&[id("own")], |_| false).unwrap().exclusive);
        assert!(volumes.needs(&[id("own")], |_| true).unwrap_err().contains("ReadWriteOncePod"));
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let mut volumes = world();
        volumes.apply(Change::ClaimsListed([Uid::from("ns/late")].into()));
        volumes.apply(Change::VolumesListed(HashSet::new()));
        volumes.apply(Change::ClassesListed([Uid::from("/late")].into()));
        assert_eq!((volumes.claims.len(), volumes.volumes.len(), volumes.classes.len()), (1, 0, 1));
    }
}
