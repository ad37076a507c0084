//! Which EndpointSlices a Service needs, and how to get there from those it has with few writes: a function
//! of values.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::{self, Port};
use crate::caches::SERVICE_NAME;
use crate::pod::Pod;
use catamaran_client::object;

/// Endpoints in one slice at most.
pub(super) const SLICE_SIZE: usize = 100;
/// Who made a slice; others' slices are left alone.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name there.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// On slices and Endpoints of a Service without an address of its own.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// What is to be written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    /// Whole slices with the resourceVersion they replace.
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Plans the slices of `service`, which selects `pods` and has the slices `existing`.
pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut wanted: BTreeMap<Vec<Port>, HashMap<String, Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| address::is_member(pod)) {
        let endpoints = wanted.entry(address::ports(service, pod)).or_default();
        endpoints.insert(object::uid(&pod.metadata).to_owned(), address::endpoint(service, pod));
    }
    let mut plan = Plan::default();
    let mut by_ports: HashMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let ports = slice_ports(slice);
        let known = wanted.contains_key(&ports);
        let usable = slice.address_type == "IPv4" && !object::is_being_deleted(&slice.metadata);
        if usable && (known || wanted.is_empty()) {
            by_ports.entry(ports).or_default().push(slice);
        } else {
            plan.delete.push(Arc::clone(slice));
        }
    }
    if wanted.is_empty() {
        // One empty slice says that there is nobody, which is different from not having looked.
        keep_one_empty(service, by_ports.into_values().flatten().collect(), &mut plan);
        return plan;
    }
    for (ports, endpoints) in wanted {
        let mut slices = by_ports.remove(&ports).unwrap_or_default();
        slices.sort_by_key(|slice| object::name(&slice.metadata).to_owned());
        plan_ports(service, &ports, endpoints, &slices, &mut plan);
    }
    plan
}

fn keep_one_empty(service: &Service, slices: Vec<&Arc<EndpointSlice>>, plan: &mut Plan) {
    let mut slices = slices.into_iter();
    match slices.next() {
        Some(first) => update_if_changed(service, first, Vec::new(), &[], plan),
        None => plan.create.push(new_slice(service, &[], Vec::new())),
    }
    plan.delete.extend(slices.cloned());
}

/// The slices of one set of ports: endpoints stay where they are, new ones fill the gaps.
fn plan_ports(
    service: &Service,
    ports: &[Port],
    mut wanted: HashMap<String, Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let mut kept: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| {
            let stay = |endpoint: &Endpoint| wanted.remove(target_uid(endpoint)?);
            slice.endpoints.iter().filter_map(stay).collect()
        })
        .collect();
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    fresh.sort_by(|one, other| target_uid(one).cmp(&target_uid(other)));
    let mut fresh = fresh.into_iter().peekable();
    // The fullest first: the fewest slices are touched, and the emptiest may go.
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(kept[*at].len()));
    for at in order {
        let room = SLICE_SIZE.saturating_sub(kept[at].len());
        kept[at].extend(fresh.by_ref().take(room));
    }
    for (slice, endpoints) in slices.iter().zip(kept) {
        if endpoints.is_empty() {
            plan.delete.push(Arc::clone(slice));
        } else {
            update_if_changed(service, slice, endpoints, ports, plan);
        }
    }
    while fresh.peek().is_some() {
        let endpoints = fresh.by_ref().take(SLICE_SIZE).collect();
        plan.create.push(new_slice(service, ports, endpoints));
    }
}

fn update_if_changed(
    service: &Service,
    slice: &EndpointSlice,
    endpoints: Vec<Endpoint>,
    ports: &[Port],
    plan: &mut Plan,
) {
    let labels = Some(labels(service));
    if slice.endpoints == endpoints && slice_ports(slice) == ports && slice.metadata.labels == labels {
        return;
    }
    let mut slice = slice.clone();
    slice.metadata.labels = labels;
    slice.ports = Some(ports.iter().map(Port::to_slice_port).collect());
    slice.endpoints = endpoints;
    plan.update.push(slice);
}

fn new_slice(service: &Service, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let owner = object::controller_reference("v1", "Service", &service.metadata);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", object::name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        ports: Some(ports.iter().map(Port::to_slice_port).collect()),
        endpoints,
    }
}

/// The labels of a slice: the Service's own and those that lead to the Service.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), object::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if address::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(Port::of_slice_port).collect();
    ports.sort();
    ports
}

fn target_uid(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.uid.as_deref()
}

/// Is this one of our slices?
pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    object::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "x"}},
            "spec": {"clusterIP": "10.96.0.2", "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}
        }))
        .unwrap()
    }

    fn pod(number: usize, port: i32, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "web", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": format!("10.128.{}.{}", number / 250, number % 250),
                           "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
            }))
            .unwrap(),
        )
    }

    /// Does what a plan says; new slices get names.
    fn apply(existing: Vec<Arc<EndpointSlice>>, plan: &Plan, names: &mut usize) -> Vec<Arc<EndpointSlice>> {
        let name = |slice: &EndpointSlice| object::name(&slice.metadata).to_owned();
        let gone: BTreeSet<String> = plan.delete.iter().map(|slice| name(slice)).collect();
        let updated: BTreeMap<String, &EndpointSlice> =
            plan.update.iter().map(|slice| (name(slice), slice)).collect();
        let mut slices: Vec<Arc<EndpointSlice>> = existing
            .into_iter()
            .filter(|slice| !gone.contains(&name(slice)))
            .map(|slice| updated.get(&name(&slice)).map_or(slice, |slice| Arc::new((*slice).clone())))
            .collect();
        for slice in &plan.create {
            let mut slice = slice.clone();
            *names += 1;
            slice.metadata.name = Some(format!("web-{names:05}"));
            slices.push(Arc::new(slice));
        }
        slices
    }

    #[test]
    fn nobody_is_said_by_one_empty_slice() {
        let plan = plan(&service(), &[], &[]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 0));
        let slice = &plan.create[0];
        assert!(slice.endpoints.is_empty());
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!(labels[SERVICE_NAME], "web");
        assert_eq!(labels["team"], "x");
        assert!(is_ours(slice));
        assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].kind, "Service");
    }

    #[test]
    fn a_pod_that_changes_touches_one_slice() {
        let mut pods: Vec<Arc<Pod>> = (0..250).map(|number| pod(number, 80, true)).collect();
        let mut names = 0;
        let first = plan(&service(), &pods, &[]);
        assert_eq!(
            first.create.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        let slices = apply(Vec::new(), &first, &mut names);
        assert_eq!(plan(&service(), &pods, &slices), Plan::default(), "nothing to do");
        pods[17] = pod(17, 80, false);
        let second = plan(&service(), &pods, &slices);
        assert_eq!((second.create.len(), second.update.len(), second.delete.len()), (0, 1, 0));
        pods.push(pod(900, 80, true));
        let slices = apply(slices, &second, &mut names);
        let third = plan(&service(), &pods, &slices);
        assert_eq!((third.create.len(), third.update.len(), third.delete.len()), (0, 1, 0));
    }

    #[test]
    fn pods_with_other_ports_are_in_other_slices() {
        let pods = [pod(0, 80, true), pod(1, 8080, true), pod(2, 80, true)];
        let plan = plan(&service(), &pods, &[]);
        let sizes: Vec<usize> = plan.create.iter().map(|slice| slice.endpoints.len()).collect();
        assert_eq!(sizes, [2, 1]);
        assert_eq!(plan.create[1].ports.as_ref().unwrap()[0].port, Some(8080));
    }

    #[test]
    fn a_headless_service_is_marked() {
        let mut service = service();
        service.spec.as_mut().unwrap().cluster_ip = Some("None".into());
        let plan = plan(&service, &[], &[]);
        assert_eq!(plan.create[0].metadata.labels.as_ref().unwrap()[HEADLESS], "");
    }

    proptest! {
        /// From any slices to any pods in one step: each pod is in exactly one slice, none has more than 100.
        #[test]
        fn one_pass_is_enough(rounds in prop::collection::vec(
            prop::collection::btree_map(0..400usize, (80..82i32, any::<bool>()), 0..250), 1..4)) {
            let (service, mut slices, mut names) = (service(), Vec::new(), 0);
            for round in rounds {
                let pods: Vec<Arc<Pod>> =
                    round.iter().map(|(number, (port, ready))| pod(*number, *port, *ready)).collect();
                let step = plan(&service, &pods, &slices);
                slices = apply(slices, &step, &mut names);
                prop_assert_eq!(plan(&service, &pods, &slices), Plan::default());
                let mut seen: Vec<String> = Vec::new();
                for slice in &slices {
                    prop_assert!(slice.endpoints.len() <= SLICE_SIZE);
                    seen.extend(slice.endpoints.iter().filter_map(|endpoint| target_uid(endpoint).map(str::to_owned)));
                }
                seen.sort();
                let mut expected: Vec<String> = round.keys().map(|number| format!("u{number}")).collect();
                expected.sort();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
