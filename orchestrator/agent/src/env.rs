//! The environment of a container: `env`, `envFrom`, the variables of Services, and `$(NAME)` expansion. Pure:
//! [`Sources`] holds what was looked up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use catamaran_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
    ResourceFieldSelector, Secret, Service,
};

use crate::members::{member, name, namespace, spec, uid};
use crate::qos::Amounts;

/// What an environment may refer to. A missing object is `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Option<Secret>>,
    /// Services of the pod's namespace (and `kubernetes` of `default`), for pods with service links.
    pub(crate) services: Vec<Service>,
    pub(crate) pod_ip: Option<Ipv4Addr>,
    pub(crate) host_ip: Option<Ipv4Addr>,
    /// What the node has, where a container has no limit.
    pub(crate) node_cpu_milli: i64,
    pub(crate) node_memory: i64,
    pub(crate) node_storage: i64,
}

/// A configuration that cannot be made: shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error("the field path {0:?} is not one that a container may see")]
    FieldPath(String),
    #[error("the resource {0:?} is not one that a container may see")]
    Resource(String),
    #[error("{kind} {name:?} cannot be read from the API")]
    Read {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
}

/// The names of ConfigMaps and Secrets that a container's environment refers to.
pub(crate) fn needed(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (maps, secrets)
}

/// What the pod says of the environment: the Services', then `envFrom`, then `env`; later ones win, `$(NAME)` refers
/// to what is known so far. The image's own variables are none of these: `$(PATH)` stays as it is.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut env = Env::default();
    for (name, value) in service_variables(pod, &sources.services) {
        env.set(&name, value);
    }
    for from in container.env_from.iter().flatten() {
        add_all(&mut env, from, sources)?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, variable, &env.list, sources)? {
            env.set(&variable.name, value);
        }
    }
    Ok(env.list)
}

/// The image's variables, overlaid by those of the pod.
pub(crate) fn over_image(image: &[String], pod: &[(String, String)]) -> Vec<(String, String)> {
    let mut env = Env::default();
    for entry in image {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        env.set(name, value.to_owned());
    }
    pod.iter().for_each(|(name, value)| env.set(name, value.clone()));
    env.list
}

#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }
}

fn add_all(env: &mut Env, from: &EnvFromSource, sources: &Sources) -> Result<(), ConfigError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_ref {
        match sources.config_maps.get(&reference.name).and_then(Option::as_ref) {
            Some(map) => map
                .data
                .iter()
                .flatten()
                .for_each(|(key, value)| env.set(&format!("{prefix}{key}"), value.clone())),
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError::NoConfigMap(reference.name.clone())),
        }
    }
    if let Some(reference) = &from.secret_ref {
        match sources.secrets.get(&reference.name).and_then(Option::as_ref) {
            Some(secret) => secret.data.iter().flatten().for_each(|(key, value)| {
                env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }),
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError::NoSecret(reference.name.clone())),
        }
    }
    Ok(())
}

/// The value of one variable; `None` where an optional reference leads nowhere.
fn value(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    known: &[(String, String)],
    sources: &Sources,
) -> Result<Option<String>, ConfigError> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    if let Some(field) = &from.field_ref {
        return self::field(pod, field, sources).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return self::resource(pod, container, resource, sources).map(Some);
    }
    from_object(pod, from, sources)
}

fn from_object(pod: &Pod, from: &EnvVarSource, sources: &Sources) -> Result<Option<String>, ConfigError> {
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_maps.get(&reference.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(ConfigError::NoConfigMap(reference.name.clone())) };
        };
        let found = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match found {
            None if !optional => Err(ConfigError::NoConfigMapKey {
                namespace: namespace(pod).to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
            found => Ok(found),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secrets.get(&reference.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(ConfigError::NoSecret(reference.name.clone())) };
        };
        let found = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        return match found {
            None if !optional => Err(ConfigError::NoSecretKey {
                namespace: namespace(pod).to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
            found => Ok(found.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())),
        };
    }
    Ok(Some(String::new()))
}

/// A field of the pod, as the downward API names it.
pub(crate) fn field(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    sources: &Sources,
) -> Result<String, ConfigError> {
    let address = |ip: Option<Ipv4Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let path = selector.field_path.as_str();
    let one = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((field, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match field {
            "metadata.labels" => Ok(one(&pod.metadata.labels, key)),
            "metadata.annotations" => Ok(one(&pod.metadata.annotations, key)),
            _ => Err(ConfigError::FieldPath(path.to_owned())),
        };
    }
    Ok(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => uid(pod).to_owned(),
        "metadata.labels" => lines(&pod.metadata.labels),
        "metadata.annotations" => lines(&pod.metadata.annotations),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.podIP" | "status.podIPs" => address(sources.pod_ip),
        "status.hostIP" | "status.hostIPs" => address(sources.host_ip),
        _ => return Err(ConfigError::FieldPath(path.to_owned())),
    })
}

/// `key="value"` lines, as the downward API writes labels and annotations.
fn lines(map: &Option<BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// An amount of a container, divided and rounded up.
pub(crate) fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, ConfigError> {
    let of = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = of.and_then(|name| member(pod, name)).map_or(container, |member| member.container);
    let amounts = Amounts::of(container);
    let wrong = || ConfigError::Resource(selector.resource.clone());
    let thousandths = match selector.resource.as_str() {
        "limits.cpu" => i128::from(amounts.cpu_limit.unwrap_or(sources.node_cpu_milli)),
        "requests.cpu" => i128::from(amounts.cpu_request.unwrap_or(0)),
        "limits.memory" => i128::from(amounts.memory_limit.unwrap_or(sources.node_memory)) * 1000,
        "requests.memory" => i128::from(amounts.memory_request.unwrap_or(0)) * 1000,
        "limits.ephemeral-storage" => {
            let given = limit(container, "ephemeral-storage");
            given.map_or(i128::from(sources.node_storage) * 1000, |limit| i128::from(limit.milli_value()))
        }
        other => {
            let (side, resource) = other.split_once('.').ok_or_else(wrong)?;
            let resources = container.resources.clone().unwrap_or_default();
            let map = match side {
                "limits" => resources.limits,
                "requests" => resources.requests,
                _ => return Err(wrong()),
            };
            let quantity = map.as_ref().and_then(|map| map.get(resource)).map(|quantity| quantity.0.clone());
            i128::from(quantity.and_then(|text| Quantity::parse(&text).ok()).map_or(0, Quantity::milli_value))
        }
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.map(Quantity::milli_value).filter(|divisor| *divisor > 0).map_or(1000, i128::from);
    Ok(((thousandths + divisor - 1) / divisor).to_string())
}

fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get(resource)?.0).ok()
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the older forms. Only the `kubernetes` Service when the pod wants no
/// links.
fn service_variables(pod: &Pod, services: &[Service]) -> Vec<(String, String)> {
    let links = spec(pod).enable_service_links != Some(false);
    let mut variables = Vec::new();
    for service in services {
        let of_api = service.metadata.name.as_deref() == Some("kubernetes")
            && service.metadata.namespace.as_deref() == Some("default");
        let ours = service.metadata.namespace.as_deref() == Some(namespace(pod));
        if of_api || (links && ours) {
            variables.extend(variables_of(service));
        }
    }
    variables
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let Some(spec) = &service.spec else { return Vec::new() };
    let ip = match spec.cluster_ip.as_deref() {
        Some(ip) if !ip.is_empty() && ip != "None" => ip,
        _ => return Vec::new(),
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let protocol = |text: &Option<String>| text.clone().unwrap_or_else(|| "TCP".into());
    let url = |port: &k8s_openapi::api::core::v1::ServicePort| {
        format!("{}://{ip}:{}", protocol(&port.protocol).to_lowercase(), port.port)
    };
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports.iter().filter(|port| port.name.as_deref().is_some_and(|name| !name.is_empty())) {
        let part = port.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
        variables.push((format!("{name}_SERVICE_PORT_{part}"), port.port.to_string()));
    }
    variables.push((format!("{name}_PORT"), url(first)));
    for port in ports {
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol(&port.protocol));
        variables.push((prefix.clone(), url(port)));
        variables.push((format!("{prefix}_PROTO"), protocol(&port.protocol).to_lowercase()));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    variables
}

/// Replaces `$(NAME)` by its value; `$$` is one dollar sign; an unknown name stays as it is.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match reference {
            Some((name, after)) => {
                match env.iter().find(|(known, _)| known == name) {
                    Some((_, value)) => result.push_str(value),
                    None => result.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests;
