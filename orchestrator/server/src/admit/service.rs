//! Addresses and ports of Services. What is free follows from the stored Services alone; one request at a time
//! chooses, and holds its place until it is stored.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use catamaran_api::field_error::{FieldError, Path};
use catamaran_api::meta;
use catamaran_api::status::Status;
use catamaran_store::Range;

use super::Reserved;
use crate::context::Context;
use crate::core::ServiceRange;
use crate::{encode, error, keys};

/// Addresses at the beginning of the range that are given only to those who ask for them.
const STATIC: u32 = 256;
/// Random tries before free addresses are looked for in order.
const TRIES: usize = 16;

/// Completes a Service, allocating what it needs.
pub(super) async fn admit(
    context: &Context,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Reserved, Status> {
    if let Some(old) = old {
        let_go(service, old);
        inherit(service, old);
    }
    if kind(service) == "ExternalName" {
        return Ok(None);
    }
    let reserved = context.core.allocator.reserve().await;
    let config = &context.core.config;
    let taken = taken(context, meta::name(service)).await?;
    let ranges = Ranges { addresses: config.services, ports: config.node_ports };
    let mut errors = Vec::new();
    allocate(service, &taken, &ranges, &mut errors, &mut rand::random::<u32>);
    if errors.is_empty() {
        return Ok(Some(reserved));
    }
    Err(Status::invalid("", "Service", meta::name(service), &errors))
}

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

/// What an update leaves out stays: the address, and node ports of ports that stay.
fn inherit(service: &mut Value, old: &Value) {
    if kind(service) == "ExternalName" {
        return;
    }
    if text(service, "clusterIP").is_empty()
        && !text(old, "clusterIP").is_empty()
        && kind(old) != "ExternalName"
    {
        for field in ["clusterIP", "clusterIPs"] {
            service["spec"][field] = old["spec"][field].clone();
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if service["spec"][field].is_null() && !old["spec"][field].is_null() {
            service["spec"][field] = old["spec"][field].clone();
        }
    }
    if on_nodes(service) && on_nodes(old) {
        let same = |a: &Value, b: &Value| a["port"] == b["port"] && protocol(a) == protocol(b);
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in ports_mut(service) {
            if port["nodePort"].as_u64().unwrap_or(0) == 0
                && let Some(old) = before.iter().find(|old| same(old, port))
                && !old["nodePort"].is_null()
            {
                port["nodePort"] = old["nodePort"].clone();
            }
        }
    }
}

/// The ports that there are; indexing for writing would make the list.
fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// What the old type had and the new one has no use for goes, unless the caller set it to something else: then
/// validation tells them. So it is enough to change `type`.
fn let_go(service: &mut Value, old: &Value) {
    let mut drop_if_same = |fields: &[&str], needed: fn(&Value) -> bool| {
        let same = fields.iter().all(|field| service["spec"].get(field) == old["spec"].get(field));
        if needed(old) && !needed(service) && same {
            let spec = service.get_mut("spec").and_then(Value::as_object_mut);
            spec.into_iter().for_each(|spec| spec.retain(|field, _| !fields.contains(&field.as_str())));
        }
    };
    drop_if_same(&["clusterIP", "clusterIPs"], has_address);
    drop_if_same(&["ipFamilies"], has_address);
    drop_if_same(&["ipFamilyPolicy"], has_address);
    drop_if_same(&["internalTrafficPolicy"], has_address);
    drop_if_same(&["externalTrafficPolicy"], is_external);
    drop_if_same(&["healthCheckNodePort"], checks_health);
    drop_if_same(&["allocateLoadBalancerNodePorts"], is_balanced);
    drop_if_same(&["loadBalancerClass"], is_balanced);
    let node_ports = |service: &Value| -> Vec<Value> {
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        ports.map(|port| port["nodePort"].clone()).collect()
    };
    if on_nodes(old) && !on_nodes(service) && node_ports(service) == node_ports(old) {
        clear_node_ports(service);
    }
}

fn has_address(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

fn on_nodes(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

fn is_balanced(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
}

/// Can it be reached from outside of the cluster?
fn is_external(service: &Value) -> bool {
    on_nodes(service) || service["spec"]["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty())
}

/// Do nodes answer for it whether they have endpoints?
fn checks_health(service: &Value) -> bool {
    is_balanced(service) && service["spec"]["externalTrafficPolicy"] == "Local"
}

fn clear_node_ports(service: &mut Value) {
    for port in ports_mut(service) {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
}

/// What other Services have.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    /// Port with its protocol.
    ports: HashSet<(u64, String)>,
}

impl Taken {
    fn add(&mut self, service: &Value) {
        self.addresses.extend(text(service, "clusterIP").parse::<Ipv4Addr>());
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            if let Some(number) = port["nodePort"].as_u64().filter(|number| *number > 0) {
                self.ports.insert((number, protocol(port).to_owned()));
            }
        }
        if let Some(number) = service["spec"]["healthCheckNodePort"].as_u64() {
            self.ports.insert((number, "TCP".to_owned()));
        }
    }
}

async fn taken(context: &Context, but: &str) -> Result<Taken, Status> {
    let range = Range { prefix: keys::all(context.stored), ..Range::default() };
    let page = context.core.store.range(range).await;
    let page = page.map_err(|error| error::from_store(error, context.group_resource(), but))?;
    let own = keys::one(context.stored, context.namespace(), but);
    let mut taken = Taken::default();
    for entry in page.entries.iter().filter(|entry| *entry.key != *own) {
        if let Ok(service) = encode::decode(&entry.value, entry.mod_revision) {
            taken.add(&service);
        }
    }
    Ok(taken)
}

struct Ranges {
    addresses: ServiceRange,
    /// First and last node port.
    ports: (u16, u16),
}

/// Chooses what is not said and checks what is. `random` gives numbers.
fn allocate(
    service: &mut Value,
    taken: &Taken,
    ranges: &Ranges,
    errors: &mut Vec<FieldError>,
    random: &mut impl FnMut() -> u32,
) {
    allocate_address(service, taken, ranges, (errors, random));
    if on_nodes(service) {
        allocate_node_ports(service, taken, ranges, (errors, random));
    }
}

fn allocate_address(
    service: &mut Value,
    taken: &Taken,
    ranges: &Ranges,
    (errors, random): (&mut Vec<FieldError>, &mut impl FnMut() -> u32),
) {
    let first = service["spec"]["clusterIPs"][0].as_str().unwrap_or_default();
    let said = Some(text(service, "clusterIP")).filter(|said| !said.is_empty()).unwrap_or(first).to_owned();
    let path = Path::root("spec.clusterIPs");
    let chosen = match (said.as_str(), said.parse::<Ipv4Addr>()) {
        ("None", _) => Some(said.clone()),
        ("", _) => {
            let address = free_address(ranges.addresses, taken, random);
            if address.is_none() {
                errors.push(FieldError::invalid(
                    &path,
                    Value::Null,
                    "failed to allocate a serviceIP: range is full",
                ));
            }
            address.map(|address| address.to_string())
        }
        (_, Ok(address)) if !ranges.addresses.contains(address) => {
            let why = format!(
                "failed to allocate IP {said}: the provided IP is not in the valid range. The range of valid IPs is {}/{}",
                ranges.addresses.base, ranges.addresses.prefix
            );
            errors.push(FieldError::invalid(&path, json!([said]), why));
            None
        }
        (_, Ok(address)) if taken.addresses.contains(&address) => {
            let why = format!("failed to allocate IP {said}: provided IP is already allocated");
            errors.push(FieldError::invalid(&path, json!([said]), why));
            None
        }
        (_, Ok(address)) => Some(address.to_string()),
        // Validation says what is wrong with it.
        (_, Err(_)) => None,
    };
    if let Some(chosen) = chosen {
        service["spec"]["clusterIP"] = chosen.as_str().into();
        service["spec"]["clusterIPs"] = json!([chosen]);
    }
    if service["spec"]["ipFamilies"].is_null() {
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
    }
    if service["spec"]["ipFamilyPolicy"].is_null() {
        service["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    }
}

fn free_address(range: ServiceRange, taken: &Taken, random: &mut impl FnMut() -> u32) -> Option<Ipv4Addr> {
    let reserved = STATIC.min(range.size() / 16).max(16).min(range.size() / 2);
    let free = |offset: &u32| {
        let address = range.at(*offset);
        range.contains(address) && !taken.addresses.contains(&address)
    };
    let span = range.size() - reserved;
    let guess = (0..TRIES).map(|_| reserved + random() % span).find(free);
    // The first sixteen stay for the cluster's own Services.
    let offset = guess.or_else(|| (reserved..range.size()).find(free)).or_else(|| (16..reserved).find(free));
    offset.map(|offset| range.at(offset))
}

fn allocate_node_ports(
    service: &mut Value,
    taken: &Taken,
    ranges: &Ranges,
    (errors, random): (&mut Vec<FieldError>, &mut impl FnMut() -> u32),
) {
    let wants = kind(service) == "NodePort" || service["spec"]["allocateLoadBalancerNodePorts"] != false;
    let mut own: HashSet<(u64, String)> = HashSet::new();
    let (first, last) = (u64::from(ranges.ports.0), u64::from(ranges.ports.1));
    let list = Path::root("spec.ports");
    for (at, port) in ports_mut(service).enumerate() {
        let protocol = protocol(port).to_owned();
        let said = port["nodePort"].as_u64().unwrap_or(0);
        let item = list.index(at);
        let path = item.child("nodePort");
        if said != 0 {
            let used = taken.ports.contains(&(said, protocol.clone())) || !own.insert((said, protocol));
            if !(first..=last).contains(&said) {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {first}-{last}"
                );
                errors.push(FieldError::invalid(&path, said, why));
            } else if used {
                errors.push(FieldError::invalid(&path, said, "provided port is already allocated"));
            }
        } else if wants {
            match free_port((first, last), |port| !taken_by(taken, &own, port, &protocol), random) {
                Some(chosen) => {
                    own.insert((chosen, protocol));
                    port["nodePort"] = chosen.into();
                }
                None => {
                    errors.push(FieldError::invalid(&path, 0, "failed to allocate a nodePort: range is full"))
                }
            }
        }
    }
    if checks_health(service) && service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        let free = free_port((first, last), |port| !taken_by(taken, &own, port, "TCP"), random);
        if let Some(chosen) = free {
            service["spec"]["healthCheckNodePort"] = chosen.into();
        }
    }
}

fn taken_by(taken: &Taken, own: &HashSet<(u64, String)>, port: u64, protocol: &str) -> bool {
    let key = (port, protocol.to_owned());
    taken.ports.contains(&key) || own.contains(&key)
}

fn free_port(
    (first, last): (u64, u64),
    free: impl Fn(u64) -> bool,
    random: &mut impl FnMut() -> u32,
) -> Option<u64> {
    let span = last.saturating_sub(first) + 1;
    let guess = (0..TRIES).map(|_| first + u64::from(random()) % span).find(|port| free(*port));
    guess.or_else(|| (first..=last).find(|port| free(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        Ranges {
            addresses: ServiceRange { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 },
            ports: (30_000, 30_002),
        }
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn run(service: &mut Value, taken: &Taken) -> Vec<String> {
        let mut errors = Vec::new();
        let mut seed = 0;
        allocate(service, taken, &ranges(), &mut errors, &mut || {
            seed += 1;
            seed
        });
        errors.iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn addresses() {
        let mut taken = Taken::default();
        taken.add(&service(json!({"clusterIP": "10.96.0.1"})));
        let mut auto = service(json!({}));
        assert!(run(&mut auto, &taken).is_empty());
        let address: Ipv4Addr = auto["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(address >= Ipv4Addr::new(10, 96, 1, 0), "{address} is in the static part");
        assert_eq!(auto["spec"]["clusterIPs"], json!([address.to_string()]));
        assert_eq!(auto["spec"]["ipFamilies"], json!(["IPv4"]));

        let mut headless = service(json!({"clusterIP": "None"}));
        assert!(run(&mut headless, &taken).is_empty());
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        assert!(headless["spec"].get("ports").is_none());

        for (address, why) in [("10.96.0.1", "already allocated"), ("10.1.0.1", "not in the valid range")] {
            let mut wrong = service(json!({"clusterIP": address}));
            let errors = run(&mut wrong, &taken);
            assert!(errors[0].contains(why), "{errors:?}");
        }
        let mut fixed = service(json!({"clusterIP": "10.96.0.10"}));
        assert!(run(&mut fixed, &taken).is_empty());
        assert_eq!(fixed["spec"]["clusterIP"], "10.96.0.10");
    }

    #[test]
    fn node_ports() {
        let mut taken = Taken::default();
        taken.add(&service(json!({"ports": [{"port": 1, "nodePort": 30_000}]})));
        let mut both = service(json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}));
        assert!(run(&mut both, &taken).is_empty());
        let mut got: Vec<u64> =
            (0..2).map(|at| both["spec"]["ports"][at]["nodePort"].as_u64().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [30_001, 30_002]);
        for (port, why) in [(30_000, "already allocated"), (80, "not in the valid range")] {
            let mut wrong = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}));
            assert!(run(&mut wrong, &taken)[0].contains(why));
        }
        let mut other = service(
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_000, "protocol": "UDP"}]}),
        );
        assert!(run(&mut other, &taken).is_empty(), "another protocol is another port");
        let mut fixed = service(json!({"type": "ClusterIP", "ports": [{"port": 1, "nodePort": 30_001}]}));
        run(&mut fixed, &taken);
        assert_eq!(fixed["spec"]["ports"][0]["nodePort"], 30_001, "validation refuses it");
    }

    #[test]
    fn updates_keep_what_they_leave_out() {
        let old = service(json!({
            "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_001}],
        }));
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        inherit(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.1.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30_001);
    }

    #[test]
    fn a_new_type_lets_go_of_what_it_has_no_use_for() {
        let old = service(json!({
            "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30_001}],
        }));
        let with = |change: Value| {
            let mut new = old.clone();
            for (field, value) in change.as_object().unwrap() {
                new["spec"][field] = value.clone();
            }
            let_go(&mut new, &old);
            new["spec"].clone()
        };
        let inside = with(json!({"type": "ClusterIP"}));
        assert_eq!(inside["clusterIP"], "10.96.1.1");
        assert!(inside.get("externalTrafficPolicy").is_none());
        assert_eq!(inside["ports"], json!([{"port": 80}]));
        let outside = with(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert_eq!(outside, json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]}));
        let said = with(
            json!({"type": "ClusterIP", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 7}]}),
        );
        assert_eq!(said["externalTrafficPolicy"], "Local", "for validation to refuse");
        assert_eq!(said["ports"][0]["nodePort"], 7);
        let external_ips = with(json!({"type": "ClusterIP", "externalIPs": ["1.2.3.4"]}));
        assert_eq!(external_ips["externalTrafficPolicy"], "Cluster");
        assert_eq!(with(json!({})), old["spec"], "the same type keeps everything");
    }
}
