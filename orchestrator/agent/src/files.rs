//! The files in `/etc` that a pod's containers see: hosts, hostname, resolv.conf. The texts are pure.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use catamaran_task::spec::Resolvers;
use k8s_openapi::api::core::v1::Pod;

use crate::config::{AgentConfig, PodPaths};
use crate::members::{name, namespace, spec};
use crate::record::write_atomically;

/// Writes the three files; which one failed, and why.
pub(crate) fn write(
    config: &AgentConfig,
    pod: &Pod,
    paths: &PodPaths,
    ip: Option<Ipv4Addr>,
) -> Result<(), (&'static str, io::Error)> {
    let hostname = hostname(pod, config);
    let hosts = if spec(pod).host_network == Some(true) {
        let of_node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let head = "# Kubernetes-managed hosts file (host network).\n";
        format!("{head}{of_node}{}", aliases(pod))
    } else {
        hosts(pod, &hostname, &config.cluster_domain, ip)
    };
    let resolv = resolv_conf(&resolvers(config, pod, &node_resolv_conf()), pod);
    let write = |file: &'static str, path: PathBuf, text: String| {
        write_atomically(&path, text.as_bytes()).map_err(|error| (file, error))
    };
    write("/etc/hosts", paths.hosts(), hosts)?;
    write("/etc/hostname", paths.hostname(), format!("{hostname}\n"))?;
    write("/etc/resolv.conf", paths.resolv_conf(), resolv)
}

/// The pod's host name: that of the node on its network; else `spec.hostname`, else its name, cut at 63 bytes; or the
/// full name where that is asked for.
pub(crate) fn hostname(pod: &Pod, config: &AgentConfig) -> String {
    let spec = spec(pod);
    if spec.host_network == Some(true) {
        return config.node_name.clone();
    }
    let given = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or_else(|| name(pod));
    let short = given.get(..63).unwrap_or(given).trim_end_matches(['-', '.']);
    let full = full_name(pod, short, &config.cluster_domain);
    let full = full.filter(|_| spec.set_hostname_as_fqdn == Some(true));
    // The kernel knows no longer host names than this.
    full.filter(|full| full.len() <= 64).unwrap_or_else(|| short.to_owned())
}

/// `HOST.SUBDOMAIN.NAMESPACE.svc.DOMAIN`, for pods with a subdomain.
fn full_name(pod: &Pod, hostname: &str, domain: &str) -> Option<String> {
    let subdomain = spec(pod).subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{}.svc.{domain}", namespace(pod)))
}

fn hosts(pod: &Pod, hostname: &str, domain: &str, ip: Option<Ipv4Addr>) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if let Some(ip) = ip {
        let short = hostname.split('.').next().unwrap_or(hostname);
        let full = full_name(pod, short, domain).map(|full| format!("{full}\t")).unwrap_or_default();
        text.push_str(&format!("{ip}\t{full}{short}\n"));
    }
    text + &aliases(pod)
}

/// The names of the hosts file, for those who read no files: the pod's own and `hostAliases`.
pub(crate) fn host_names(config: &AgentConfig, pod: &Pod, ip: Ipv4Addr) -> BTreeMap<String, Vec<IpAddr>> {
    let hostname = hostname(pod, config);
    let short = hostname.split('.').next().unwrap_or(&hostname).to_owned();
    let full = full_name(pod, &short, &config.cluster_domain);
    let own = full.into_iter().chain([short]).map(|name| (name, IpAddr::V4(ip)));
    let aliases = spec(pod).host_aliases.iter().flatten().filter_map(|alias| {
        Some((alias.ip.parse::<IpAddr>().ok()?, alias.hostnames.as_deref().unwrap_or_default()))
    });
    let aliases = aliases.flat_map(|(ip, names)| names.iter().map(move |name| (name.clone(), ip)));
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (name, ip) in own.chain(aliases) {
        all.entry(name.to_ascii_lowercase()).or_default().push(ip);
    }
    all
}

/// `hostAliases`, as lines.
fn aliases(pod: &Pod) -> String {
    let mut text = String::new();
    for alias in spec(pod).host_aliases.iter().flatten() {
        if text.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        ));
    }
    text
}

/// `/etc/resolv.conf` of the node.
pub(crate) fn node_resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// Name servers and search domains by `dnsPolicy` and `dnsConfig`.
pub(crate) fn resolvers(config: &AgentConfig, pod: &Pod, node: &str) -> Resolvers {
    let spec = spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolvers = if cluster {
        let domain = &config.cluster_domain;
        let search = [format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
        Resolvers {
            nameservers: vec![config.cluster_dns],
            search: search.to_vec(),
            ndots: 5,
            ..Resolvers::default()
        }
    } else if policy == "None" {
        Resolvers { ndots: 1, ..Resolvers::default() }
    } else {
        parse_resolv_conf(node)
    };
    let Some(extra) = &spec.dns_config else { return resolvers };
    resolvers
        .nameservers
        .extend(extra.nameservers.iter().flatten().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
    resolvers.search.extend(extra.searches.iter().flatten().cloned());
    let ndots = extra.options.iter().flatten().find(|option| option.name.as_deref() == Some("ndots"));
    if let Some(ndots) = ndots.and_then(|option| option.value.as_deref()?.parse().ok()) {
        resolvers.ndots = ndots;
    }
    resolvers
}

fn parse_resolv_conf(text: &str) -> Resolvers {
    let mut resolvers = Resolvers { ndots: 1, ..Resolvers::default() };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                resolvers.nameservers.extend(words.next().and_then(|ip| ip.parse::<Ipv4Addr>().ok()))
            }
            Some("search" | "domain") => resolvers.search = words.map(str::to_owned).collect(),
            Some("options") => {
                let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                resolvers.ndots = ndots.unwrap_or(resolvers.ndots);
            }
            _ => {}
        }
    }
    resolvers
}

fn resolv_conf(resolvers: &Resolvers, pod: &Pod) -> String {
    let mut text = String::new();
    if !resolvers.search.is_empty() {
        text.push_str(&format!("search {}\n", resolvers.search.join(" ")));
    }
    for server in &resolvers.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let mut options = vec![format!("ndots:{}", resolvers.ndots)];
    let more = spec(pod).dns_config.iter().flat_map(|config| config.options.iter().flatten());
    for option in more.filter(|option| option.name.as_deref() != Some("ndots")) {
        let name = option.name.as_deref().unwrap_or_default();
        options.push(option.value.as_ref().map_or(name.to_owned(), |value| format!("{name}:{value}")));
    }
    text.push_str(&format!("options {}\n", options.join(" ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    fn config() -> AgentConfig {
        crate::testing::config(std::path::Path::new("/nowhere"))
    }

    #[test]
    fn dns_policies() {
        let node = "nameserver 192.0.2.1\nsearch corp.example\noptions ndots:2\n";
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        let of_node = "search corp.example\nnameserver 192.0.2.1\noptions ndots:2\n";
        let table = [
            (serde_json::json!({"containers": []}), cluster),
            (serde_json::json!({"containers": [], "hostNetwork": true}), of_node),
            (
                serde_json::json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            (serde_json::json!({"containers": [], "dnsPolicy": "Default"}), of_node),
            (
                serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"],
                    "searches": ["a.example"], "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}}),
                "search a.example\nnameserver 192.0.2.9\noptions ndots:3 edns0\n",
            ),
        ];
        for (spec, expected) in table {
            let pod = pod(spec);
            assert_eq!(resolv_conf(&resolvers(&config(), &pod, node), &pod), expected);
        }
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db", "db.example"]}]}));
        let text = hosts(&pod, "web-0", "cluster.local", Some(Ipv4Addr::new(10, 128, 0, 9)));
        assert!(text.contains("10.128.0.9\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.contains("192.0.2.7\tdb\tdb.example\n"), "{text}");
    }

    #[test]
    fn names_for_those_who_read_no_files() {
        let pod = pod(serde_json::json!({"containers": [], "subdomain": "web", "hostAliases": [
            {"ip": "192.0.2.7", "hostnames": ["db", "DB.example"]}, {"ip": "192.0.2.8", "hostnames": ["db"]}]}));
        let names = super::host_names(&config(), &pod, Ipv4Addr::new(10, 128, 0, 9));
        assert_eq!(names["db"], [IpAddr::from([192, 0, 2, 7]), IpAddr::from([192, 0, 2, 8])]);
        assert_eq!(names["db.example"], [IpAddr::from([192, 0, 2, 7])]);
        for own in ["web-0", "web-0.web.shop.svc.cluster.local"] {
            assert_eq!(names[own], [IpAddr::from([10, 128, 0, 9])], "{own}");
        }
    }

    #[test]
    fn host_names() {
        let full = "web-0.web.shop.svc.cluster.local";
        let table = [
            (serde_json::json!({"containers": []}), "web-0"),
            (serde_json::json!({"containers": [], "hostname": "db"}), "db"),
            (serde_json::json!({"containers": [], "hostNetwork": true}), "n1"),
            (serde_json::json!({"containers": [], "subdomain": "web"}), "web-0"),
            (serde_json::json!({"containers": [], "subdomain": "web", "setHostnameAsFQDN": true}), full),
        ];
        for (spec, expected) in table {
            assert_eq!(hostname(&pod(spec.clone()), &config()), expected, "{spec}");
        }
        let mut long = pod(serde_json::json!({"containers": []}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(20)));
        assert_eq!(hostname(&long, &config()), "a".repeat(62));
    }

    #[test]
    fn a_pod_on_the_node_network_sees_the_hosts_of_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let paths = PodPaths { root: dir.path().to_owned(), run: dir.path().join("run") };
        let pod = pod(serde_json::json!({"containers": [], "hostNetwork": true,
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db"]}]}));
        write(&config(), &pod, &paths, Some(Ipv4Addr::LOCALHOST)).unwrap();
        let text = std::fs::read_to_string(paths.hosts()).unwrap();
        assert!(text.contains(&std::fs::read_to_string("/etc/hosts").unwrap()), "{text}");
        assert!(text.ends_with("192.0.2.7\tdb\n"), "{text}");
        assert_eq!(std::fs::read_to_string(paths.hostname()).unwrap(), "n1\n");
    }
}
