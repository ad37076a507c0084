//! What tests of this crate share.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::config::AgentConfig;

/// A configuration whose files lie below `directory`.
pub(crate) fn config(directory: &Path) -> AgentConfig {
    AgentConfig {
        node_name: "n1".into(),
        node_address: Ipv4Addr::new(10, 128, 0, 1),
        data_dir: directory.join("data"),
        run_dir: directory.join("run"),
        pod_logs: directory.join("logs"),
        executable: directory.join("catamaran"),
        cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
        cluster_domain: "cluster.local".into(),
        cluster_ranges: vec!["10.128.0.0/10".into(), "10.96.0.0/16".into()],
        insecure_registries: Vec::new(),
        endpoint: None,
        max_pods: 100,
    }
}
