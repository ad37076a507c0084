//! Ports of the node that pods have for themselves: kept in the pods' records, in force among the routes of Services.

use super::super::error::{NetworkError, Step};
use super::{PodRecord, Work, lock};
use crate::services::ports::{self, HostPort};

impl Work {
    /// Takes up the ports of the node that pods were given before.
    pub(super) fn find_ports(&self) -> Result<(), NetworkError> {
        let known: Vec<_> = {
            let addresses = lock(&self.addresses);
            let with_ports = addresses.pods.iter().filter(|(_, record)| !record.ports.is_empty());
            with_ports.map(|(uid, record)| (uid.clone(), record.clone())).collect()
        };
        for (uid, record) in known {
            let routes = ports::routes(record.address, &record.ports);
            self.rules.publish(ports::name(&uid), routes).step("set the ports of a pod")?;
        }
        Ok(())
    }

    pub(super) fn ports_of(&self, uid: &str) -> Vec<HostPort> {
        lock(&self.addresses).pods.get(uid).map(|record| record.ports.clone()).unwrap_or_default()
    }

    /// Gives an attached pod these ports of the node, and no others.
    pub(in crate::attach) fn publish(&self, uid: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let mut addresses = lock(&self.addresses);
        let Some(record) = addresses.pods.get(uid).cloned() else { return Ok(()) };
        let routes = ports::routes(record.address, &ports);
        if record.ports != ports {
            addresses.pods.insert(uid, PodRecord { ports, ..record })?;
        }
        drop(addresses);
        self.rules.publish(ports::name(uid), routes).step("set the ports of a pod")
    }

    /// A pod that is detached gives its ports back.
    pub(super) fn withdraw_ports(&self, uid: &str, record: &PodRecord) -> Result<(), NetworkError> {
        if record.ports.is_empty() {
            return Ok(());
        }
        self.rules.publish(ports::name(uid), Vec::new()).step("take back the ports of a pod")
    }
}
