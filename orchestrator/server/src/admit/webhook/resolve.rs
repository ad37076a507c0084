//! From a Service to one of its endpoints that is ready. The store knows them; the cluster's DNS is not asked, nor
//! are the node's rules for Services needed.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use catamaran_api::{kind, meta};
use catamaran_store::{Range, Store};

use super::call::look_up;
use crate::error::chain;
use crate::{encode, keys};

/// An address that serves a port of a Service.
///
/// # Errors
/// Why there is none, in the words of Kubernetes.
pub(super) async fn endpoint(
    store: &dyn Store,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<SocketAddr, String> {
    let services = kind::find("", "v1", "services").ok_or("no Services are served")?;
    let entry = store.get(&keys::one(services, Some(namespace), name)).await.map_err(|e| chain(&e))?;
    let entry = entry.ok_or_else(|| format!("service \"{name}\" not found"))?;
    let service = encode::decode(&entry.value, entry.mod_revision).map_err(|error| error.to_string())?;
    if service["spec"]["type"] == "ExternalName" {
        let host = service["spec"]["externalName"].as_str().unwrap_or_default();
        return look_up(host, u16::try_from(port).map_err(|error| error.to_string())?).await;
    }
    let slices =
        kind::find("discovery.k8s.io", "v1", "endpointslices").ok_or("no EndpointSlices are served")?;
    let range = Range { prefix: keys::within(slices, Some(namespace)), ..Range::default() };
    let page = store.range(range).await.map_err(|error| chain(&error))?;
    let slices = page.entries.iter().filter_map(|e| encode::decode(&e.value, e.mod_revision).ok());
    let own: Vec<Value> =
        slices.filter(|slice| meta::label(slice, "kubernetes.io/service-name") == Some(name)).collect();
    let mut ready = addresses(&service, &own, port)?;
    if ready.is_empty() {
        return Err(format!("no endpoints available for service \"{name}\""));
    }
    let chosen = rand::random::<u32>() as usize % ready.len();
    Ok(ready.swap_remove(chosen))
}

/// Every address that serves the port. Pure.
fn addresses(service: &Value, slices: &[Value], port: i64) -> Result<Vec<SocketAddr>, String> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let wanted = ports
        .into_iter()
        .find(|own| own["port"].as_i64() == Some(port))
        .ok_or_else(|| format!("no service port {port} found for service \"{}\"", meta::name(service)))?;
    let named = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let mut ports = ports.filter(|port| named(port) == named(wanted));
        let Some(port) = ports.find_map(|port| u16::try_from(port["port"].as_u64()?).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().and_then(|text| text.parse::<IpAddr>().ok());
            if endpoint["conditions"]["ready"] != false {
                found.extend(address.map(|address| SocketAddr::new(address, port)));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_endpoints_of_the_port() {
        let service = json!({
            "metadata": {"name": "s"},
            "spec": {"ports": [{"name": "web", "port": 443}, {"name": "other", "port": 80}]},
        });
        let slices = [json!({
            "ports": [{"name": "other", "port": 8080}, {"name": "web", "port": 8443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        })];
        let found = addresses(&service, &slices, 443).unwrap();
        let found: Vec<String> = found.iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["10.0.0.1:8443", "10.0.0.3:8443"]);
        assert_eq!(addresses(&service, &[], 443).unwrap(), []);
        assert_eq!(addresses(&service, &slices, 9).unwrap_err(), "no service port 9 found for service \"s\"");
    }
}
