//! URLs, IP addresses and networks.

use std::net::IpAddr;
use std::rc::Rc;

use super::eval::{EvalError, Result};
use super::value::Val;

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// An absolute URL, or an absolute path.
    fn parse(text: &str) -> Option<Url> {
        let clean = !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ');
        let text = text.split_once('#').map_or(text, |(text, _)| text);
        let (text, query) = text.split_once('?').unwrap_or((text, ""));
        let query = query.to_owned();
        if text.starts_with('/') && clean {
            return Some(Url { scheme: String::new(), host: String::new(), path: text.to_owned(), query });
        }
        let (scheme, rest) = text.split_once("://").filter(|_| clean)?;
        let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let at = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        good.then(|| Url { scheme: scheme.to_owned(), host: host.to_owned(), path: path.to_owned(), query })
    }

    fn name_and_port(&self) -> (&str, &str) {
        let end = self.host.rfind(']').map_or(0, |end| end + 1);
        match self.host[end..].rfind(':') {
            Some(at) => (&self.host[..end + at], &self.host[end + at + 1..]),
            None => (&self.host, ""),
        }
    }

    fn query<'a>(&self) -> Val<'a> {
        let mut map: Vec<(String, Vec<Val<'a>>)> = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = Val::Text(unescape(value).into());
            let name = unescape(name);
            match map.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => map.push((name, vec![value])),
            }
        }
        let entries = map.into_iter().map(|(name, values)| (Val::Text(name.into()), Val::list(values)));
        Val::Map(Rc::new(entries.collect()))
    }
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Addresses without a zone; those of version 4 in the form of version 6 are refused, as in Kubernetes.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (text, prefix) = text.split_once('/')?;
    let address = address(text)?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= bits(address)).then_some((address, prefix))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

fn holds((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && masked(address, prefix) == masked(network, prefix)
}

/// A function by name; none when there is no such.
pub(super) fn call<'a>(name: &str, value: &Val<'a>) -> Option<Result<Val<'a>>> {
    let Val::Text(text) = value else { return None };
    let failed = |what: &str| EvalError::Failed(format!("{what} parse error: {text:?}"));
    Some(match name {
        "url" => Url::parse(text).map(|url| Val::Url(Rc::new(url))).ok_or_else(|| failed("URL")),
        "isURL" => Ok(Val::Bool(Url::parse(text).is_some())),
        "ip" => address(text).map(Val::Ip).ok_or_else(|| failed("IP Address")),
        "isIP" => Ok(Val::Bool(address(text).is_some())),
        "ip.isCanonical" => match address(text) {
            Some(address) => Ok(Val::Bool(address.to_string() == **text)),
            None => Err(failed("IP Address")),
        },
        "cidr" => {
            network(text).map(|(at, prefix)| Val::Cidr(at, prefix)).ok_or_else(|| failed("network address"))
        }
        "isCIDR" => Ok(Val::Bool(network(text).is_some())),
        _ => return None,
    })
}

/// A method of a URL, an address or a network; none when there is no such.
pub(super) fn method<'a>(of: &Val<'a>, name: &str, arguments: &[Val<'a>]) -> Option<Val<'a>> {
    let owned = |text: &str| Some(Val::Text(text.to_owned().into()));
    match of {
        Val::Url(url) => match name {
            "getScheme" => owned(&url.scheme),
            "getHost" => owned(&url.host),
            "getHostname" => owned(url.name_and_port().0.trim_matches(['[', ']'])),
            "getPort" => owned(url.name_and_port().1),
            "getEscapedPath" => owned(&url.path),
            "getQuery" => Some(url.query()),
            _ => None,
        },
        Val::Ip(address) => Some(match name {
            "family" => Val::Int(if address.is_ipv4() { 4 } else { 6 }),
            "isUnspecified" => Val::Bool(address.is_unspecified()),
            "isLoopback" => Val::Bool(address.is_loopback()),
            "isLinkLocalMulticast" => Val::Bool(link_local_multicast(*address)),
            "isLinkLocalUnicast" => Val::Bool(link_local(*address)),
            "isGlobalUnicast" => Val::Bool(global(*address)),
            _ => return None,
        }),
        Val::Cidr(address, prefix) => {
            let inside = match (name, arguments) {
                ("containsIP", [Val::Ip(address)]) => Some((*address, bits(*address))),
                ("containsIP", [Val::Text(text)]) => {
                    self::address(text).map(|address| (address, bits(address)))
                }
                ("containsCIDR", [Val::Cidr(address, prefix)]) => Some((*address, *prefix)),
                ("containsCIDR", [Val::Text(text)]) => network(text),
                _ => None,
            };
            match (name, inside) {
                (_, Some((other, other_prefix))) => {
                    Some(Val::Bool(other_prefix >= *prefix && holds((*address, *prefix), other)))
                }
                ("ip", None) => Some(Val::Ip(*address)),
                ("prefixLength", None) => Some(Val::Int(i64::from(*prefix))),
                ("masked", None) => Some(Val::Cidr(masked(*address, *prefix), *prefix)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

fn global(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !broadcast
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !link_local(address)
}
