//! What a pod asks of a node. Pods of one template have the same shape: it is kept once, and they are placed
//! together.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use catamaran_api::quantity::Quantity;

use crate::volumes::ClaimId;
use crate::wire::{Container, NodeAffinity, Pod, PodSpec, Toleration};

/// What a container counts as, for scores only, when it requests no CPU (thousandths).
const DEFAULT_CPU: i64 = 100;
/// What a container counts as, for scores only, when it requests no memory (bytes).
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts of resources: CPU in thousandths, the others in units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Amounts {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    /// All others by name, sorted, none of them zero.
    pub(crate) others: Vec<(Arc<str>, i64)>,
}

impl Amounts {
    /// Reads a map of quantities; what cannot be read counts as nothing, the server has refused it before.
    pub(crate) fn parse(quantities: &BTreeMap<String, String>) -> Self {
        let mut amounts = Self::default();
        for (name, text) in quantities {
            let Ok(quantity) = Quantity::parse(text) else { continue };
            match name.as_str() {
                "cpu" => amounts.cpu = quantity.milli_value(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.storage = quantity.value(),
                "pods" => {}
                _ if quantity.is_zero() => {}
                _ => amounts.others.push((Arc::from(name.as_str()), quantity.value())),
            }
        }
        amounts
    }

    /// The amount of a resource that is not one of the three.
    pub(crate) fn other(&self, name: &str) -> i64 {
        self.others.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `factor` times the other amounts.
    pub(crate) fn add(&mut self, other: &Self, factor: i64) {
        self.cpu = self.cpu.saturating_add(other.cpu.saturating_mul(factor));
        self.memory = self.memory.saturating_add(other.memory.saturating_mul(factor));
        self.storage = self.storage.saturating_add(other.storage.saturating_mul(factor));
        for (name, amount) in &other.others {
            let amount = amount.saturating_mul(factor);
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum = sum.saturating_add(amount),
                None => self.others.push((Arc::clone(name), amount)),
            }
        }
        self.others.retain(|(_, amount)| *amount != 0);
    }

    fn raise_to(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, most)) => *most = (*most).max(*amount),
                None => self.others.push((Arc::clone(name), *amount)),
            }
        }
    }
}

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) port: u16,
    pub(crate) protocol: String,
    /// `0.0.0.0` for all addresses.
    pub(crate) address: String,
}

impl HostPort {
    /// Can a pod with this port and one with `other` not be on one node?
    pub(crate) fn collides(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ALL || other.address == ALL)
    }
}

/// What a pod asks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) requests: Amounts,
    /// CPU and memory as they count for scores.
    pub(crate) weight: (i64, i64),
    pub(crate) node_selector: Vec<(String, String)>,
    pub(crate) affinity: Option<NodeAffinity>,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) runtime_class: Option<String>,
    /// With a tag each.
    pub(crate) images: Vec<String>,
    /// The uid of the controller: its pods are spread over nodes.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) priority: i32,
    /// The claims that its volumes are.
    pub(crate) claims: Vec<ClaimId>,
}

impl Shape {
    /// The shape of a pod of `owner`.
    pub(crate) fn new(spec: &PodSpec, owner: Option<&str>) -> Self {
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        let mut ports: Vec<HostPort> = containers().flat_map(host_ports).collect();
        ports.dedup();
        Self {
            requests: requests(spec),
            weight: weight(spec),
            node_selector: spec.node_selector.clone().into_iter().collect(),
            affinity: spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone()),
            tolerations: spec.tolerations.clone(),
            ports,
            runtime_class: spec.runtime_class_name.clone().filter(|name| !name.is_empty()),
            images: spec.containers.iter().map(|container| tagged(&container.image)).collect(),
            owner: owner.map(Arc::from),
            priority: spec.priority,
            claims: Vec::new(),
        }
    }
}

/// The claims that the volumes of a pod are.
pub(crate) fn claims(pod: &Pod) -> Vec<ClaimId> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or_default().into();
    let claim = |volume: &crate::wire::Volume| {
        let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => claim.claim_name.as_str().into(),
            (None, Some(_)) => format!("{name}-{}", volume.name).into(),
            (None, None) => return None,
        };
        Some((Arc::clone(&namespace), claim))
    };
    pod.spec.volumes.iter().filter_map(claim).collect()
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    container.ports.iter().filter(|port| port.host_port > 0).map(move |port| HostPort {
        port: port.host_port,
        protocol: or(&port.protocol, "TCP"),
        address: or(&port.host_ip, "0.0.0.0"),
    })
}

/// The containers together, or the largest moment of initialization if that is more; init containers that go on
/// running count for all that comes after them.
fn requests(spec: &PodSpec) -> Amounts {
    let mut sum = Amounts::default();
    for container in &spec.containers {
        sum.add(&Amounts::parse(&container.resources.requests), 1);
    }
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in &spec.init_containers {
        let mut moment = Amounts::parse(&container.resources.requests);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment, 1);
            moment = sidecars.clone();
        } else {
            moment.add(&sidecars, 1);
        }
        peak.raise_to(&moment);
    }
    sum.add(&sidecars, 1);
    sum.raise_to(&peak);
    sum.add(&Amounts::parse(&spec.overhead), 1);
    sum.others.sort();
    sum
}

fn weight(spec: &PodSpec) -> (i64, i64) {
    let overhead = Amounts::parse(&spec.overhead);
    spec.containers.iter().fold((overhead.cpu, overhead.memory), |(cpu, memory), container| {
        let wanted = Amounts::parse(&container.resources.requests);
        let or = |amount: i64, default: i64| if amount == 0 { default } else { amount };
        (cpu + or(wanted.cpu, DEFAULT_CPU), memory + or(wanted.memory, DEFAULT_MEMORY))
    })
}

/// The name of an image with a tag or digest, as nodes report it.
pub(crate) fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Keeps one copy of each shape.
#[derive(Default)]
pub(crate) struct Shapes {
    known: HashSet<Arc<Shape>>,
    sweep_at: usize,
}

impl Shapes {
    /// The one copy of `shape`.
    pub(crate) fn intern(&mut self, shape: Shape) -> Arc<Shape> {
        if let Some(known) = self.known.get(&shape) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at.max(1024) {
            self.known.retain(|shape| Arc::strong_count(shape) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let shape = Arc::new(shape);
        self.known.insert(Arc::clone(&shape));
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(spec: serde_json::Value) -> Shape {
        Shape::new(&serde_json::from_value(spec).unwrap(), Some("rs"))
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn requests_of_a_pod() {
        let sidecar =
            json!({"image": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        let table = [
            (json!({"containers": [container("500m", "1Gi"), container("1", "1Gi")]}), (1500, 2 << 30)),
            (
                json!({"containers": [container("1", "1Gi")], "initContainers": [container("3", "1Mi")]}),
                (3000, 1 << 30),
            ),
            (
                json!({"containers": [container("1", "0")], "initContainers": [sidecar, container("2", "0")]}),
                (2050, 0),
            ),
            (
                json!({"containers": [container("1", "0")], "initContainers": [container("1", "0"), sidecar]}),
                (1050, 0),
            ),
            (json!({"containers": [container("1", "0")], "overhead": {"cpu": "100m"}}), (1100, 0)),
        ];
        for (spec, expected) in table {
            let requests = shape(spec.clone()).requests;
            assert_eq!((requests.cpu, requests.memory), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_without_requests_has_a_weight() {
        assert_eq!(shape(json!({"containers": [{"image": "i"}]})).weight, (100, 200 << 20));
    }

    #[test]
    fn an_image_has_a_tag() {
        assert_eq!(tagged("localhost:5000/web"), "localhost:5000/web:latest");
        assert_eq!(tagged("web:1"), "web:1");
        assert_eq!(tagged("web@sha256:0"), "web@sha256:0");
    }

    #[test]
    fn ports_collide_on_one_address_or_all() {
        let port = |address: &str| HostPort { port: 80, protocol: "TCP".into(), address: address.into() };
        assert!(port("0.0.0.0").collides(&port("127.0.0.1")));
        assert!(!port("127.0.0.2").collides(&port("127.0.0.1")));
        assert!(!port("0.0.0.0").collides(&HostPort { protocol: "UDP".into(), ..port("0.0.0.0") }));
    }

    #[test]
    fn one_copy_of_each_shape() {
        let mut shapes = Shapes::default();
        let spec = || json!({"containers": [container("1", "1Gi")]});
        let one = shapes.intern(shape(spec()));
        assert!(Arc::ptr_eq(&one, &shapes.intern(shape(spec()))));
        for number in 0..5000 {
            shapes.intern(shape(json!({"containers": [container("1", &number.to_string())]})));
        }
        assert!(shapes.known.len() <= 2049, "shapes that nobody has are dropped");
    }
}
