//! Whom a guest may reach, and which of its own addresses it may use. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use catamaran_task::spec::Outbound;

use crate::engine::Isolation;

/// Addresses remembered for named hosts.
const MAX_GRANTED: usize = 4096;

/// Why an outbound policy makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("outbound entry {0:?} is neither an address range (10.0.0.0/8), an address nor a host name")]
pub(crate) struct PolicyError(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    network: u32,
    bits: u8,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= 32)?;
        Some(Self { network: u32::from(address.parse::<Ipv4Addr>().ok()?), bits })
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
        (u32::from(ip) ^ self.network) & mask == 0
    }
}

#[derive(Debug)]
enum Reach {
    Nobody,
    Listed { ranges: Vec<Range>, names: HashSet<String>, granted: Mutex<HashSet<IpAddr>> },
    Anybody,
}

/// Whether a confined guest's address is its own, and which one stands for it.
#[derive(Debug)]
pub(crate) struct NetworkPolicy {
    isolation: Isolation,
    pod_ip: Ipv4Addr,
    reach: Reach,
}

impl NetworkPolicy {
    pub(crate) fn new(
        isolation: Isolation,
        pod_ip: Ipv4Addr,
        outbound: &Outbound,
    ) -> Result<Self, PolicyError> {
        let reach = match outbound {
            Outbound::None => Reach::Nobody,
            Outbound::All => Reach::Anybody,
            Outbound::Hosts(entries) => listed(entries)?,
        };
        Ok(Self { isolation, pod_ip, reach })
    }

    /// The address that a guest's sockets are bound to; `None`: it has the namespace for itself.
    pub(crate) fn source(&self) -> Option<Ipv4Addr> {
        (self.isolation == Isolation::Shared).then_some(self.pod_ip)
    }

    /// What a guest means by a local address: in a shared host wildcard and loopback are its pod's.
    pub(crate) fn local(&self, address: SocketAddr) -> SocketAddr {
        match self.source() {
            Some(pod) if own_names(address.ip()) => SocketAddr::from((pod, address.port())),
            _ => address,
        }
    }

    /// What a guest means by the address it connects to: loopback is its own pod.
    pub(crate) fn remote(&self, address: SocketAddr) -> SocketAddr {
        match self.source() {
            Some(pod) if address.ip().to_canonical().is_loopback() && address.is_ipv4() => {
                SocketAddr::from((pod, address.port()))
            }
            _ => address,
        }
    }

    pub(crate) fn may_bind(&self, ip: IpAddr) -> bool {
        self.source().is_none_or(|pod| ip == IpAddr::V4(pod))
    }

    /// Whether names may be asked for at all.
    pub(crate) fn may_look_up(&self) -> bool {
        !matches!(self.reach, Reach::Nobody)
    }

    /// Whether `ip` may be reached; itself always, others' loopback never.
    pub(crate) fn may_reach(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip == IpAddr::V4(self.pod_ip) {
            return true;
        }
        if ip.is_loopback() || ip.is_unspecified() {
            return self.isolation == Isolation::Solo;
        }
        match (&self.reach, ip) {
            (Reach::Nobody, _) => false,
            (Reach::Anybody, _) => true,
            (Reach::Listed { ranges, granted, .. }, ip) => {
                let listed = matches!(ip, IpAddr::V4(ip) if ranges.iter().any(|range| range.contains(ip)));
                listed || granted.lock().unwrap_or_else(PoisonError::into_inner).contains(&ip)
            }
        }
    }

    /// A look-up of `name` gave these: where the name is granted they are too.
    pub(crate) fn resolved(&self, name: &str, addresses: &[IpAddr]) {
        if let Reach::Listed { names, granted, .. } = &self.reach
            && names.contains(&plain(name))
        {
            let mut granted = granted.lock().unwrap_or_else(PoisonError::into_inner);
            if granted.len() + addresses.len() > MAX_GRANTED {
                granted.clear();
            }
            granted.extend(addresses.iter().map(IpAddr::to_canonical));
        }
    }
}

fn own_names(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_unspecified() || ip.is_loopback())
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn listed(entries: &[String]) -> Result<Reach, PolicyError> {
    let (mut ranges, mut names) = (Vec::new(), HashSet::new());
    for entry in entries {
        if let Some(range) = Range::parse(entry) {
            ranges.push(range);
        } else if !entry.is_empty() && !entry.contains(['/', ':', ' ']) {
            names.insert(plain(entry));
        } else {
            return Err(PolicyError(entry.clone()));
        }
    }
    Ok(Reach::Listed { ranges, names, granted: Mutex::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 7);

    fn policy(isolation: Isolation, entries: &[&str]) -> NetworkPolicy {
        let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
        NetworkPolicy::new(isolation, POD, &Outbound::Hosts(entries)).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_confined_guest_has_its_pods_address_only() {
        let policy = policy(Isolation::Shared, &[]);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(policy.local(at("0.0.0.0:80")), at("10.128.0.7:80"));
        assert_eq!(policy.local(at("127.0.0.1:80")), at("10.128.0.7:80"));
        assert_eq!(policy.remote(at("127.9.9.9:80")), at("10.128.0.7:80"));
        assert_eq!(policy.remote(at("10.96.0.1:443")), at("10.96.0.1:443"));
        assert!(policy.may_bind(ip("10.128.0.7")));
        for other in ["10.128.0.8", "127.0.0.1", "0.0.0.0", "::"] {
            assert!(!policy.may_bind(ip(other)), "{other}");
        }
    }

    #[test]
    fn alone_it_has_the_namespace() {
        let policy = policy(Isolation::Solo, &[]);
        let any: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert_eq!(policy.local(any), any);
        assert!(policy.may_bind(any.ip()) && policy.may_reach(ip("127.0.0.1")));
    }

    #[test]
    fn only_what_is_listed_is_reached() {
        let policy = policy(Isolation::Shared, &["10.96.0.0/16", "192.0.2.1", "Example.com"]);
        for reachable in ["10.96.255.255", "192.0.2.1", "10.128.0.7", "::ffff:10.96.0.1"] {
            assert!(policy.may_reach(ip(reachable)), "{reachable}");
        }
        for not in ["10.97.0.0", "192.0.2.2", "127.0.0.1", "::1", "198.51.100.1", "0.0.0.0"] {
            assert!(!policy.may_reach(ip(not)), "{not}");
        }
        policy.resolved("other.org", &[ip("203.0.113.9")]);
        assert!(!policy.may_reach(ip("203.0.113.9")));
        policy.resolved("example.COM.", &[ip("198.51.100.1")]);
        assert!(policy.may_reach(ip("198.51.100.1")));
    }

    #[test]
    fn nobody_and_anybody() {
        let nobody = NetworkPolicy::new(Isolation::Shared, POD, &Outbound::None).unwrap();
        assert!(
            !nobody.may_reach(ip("10.96.0.1")) && nobody.may_reach(ip("10.128.0.7")) && !nobody.may_look_up()
        );
        let anybody = NetworkPolicy::new(Isolation::Shared, POD, &Outbound::All).unwrap();
        assert!(anybody.may_reach(ip("8.8.8.8")) && !anybody.may_reach(ip("127.0.0.1")));
    }

    #[test]
    fn nonsense_is_refused() {
        for entry in ["10.0.0.0/33", "", "http://x", "a b"] {
            assert!(
                NetworkPolicy::new(Isolation::Shared, POD, &Outbound::Hosts(vec![entry.into()])).is_err(),
                "{entry}"
            );
        }
    }
}
