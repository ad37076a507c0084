//! Which address a name in the path of a `proxy` request means. Pure.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use catamaran_api::status::Status;

use crate::upstream::Scheme;

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) scheme: Scheme,
    pub(super) name: &'a str,
    /// Number or name of a port, or empty.
    port: &'a str,
}

/// An address behind a Service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    pub(super) address: SocketAddr,
    /// The pod it is said to be.
    pub(super) pod: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// `None` for anything else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Name { scheme, name, port })
    }

    /// The port, where one is named.
    ///
    /// # Errors
    /// 400 when it is no number.
    pub(super) fn port(&self) -> Result<Option<u16>, Status> {
        if self.port.is_empty() {
            return Ok(None);
        }
        let port = self.port.parse().ok().filter(|port| *port > 0);
        port.map(Some).ok_or_else(|| Status::bad_request(format!("invalid port {:?}", self.port)))
    }

    fn default_port(&self) -> u16 {
        match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// The address, unless it is one that the server alone may speak to.
///
/// # Errors
/// 400 as in Kubernetes.
pub(super) fn allowed(ip: IpAddr) -> Result<IpAddr, Status> {
    let of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || of_link {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(ip)
}

/// The address of a pod; without a port that of its first container that declares one.
pub(super) fn pod(name: &Name<'_>, pod: &Value) -> Result<SocketAddr, Status> {
    let declared = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
        ports.next().and_then(|port| u16::try_from(port).ok())
    };
    let port = name.port()?.or_else(declared).unwrap_or(name.default_port());
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    Ok(SocketAddr::new(allowed(ip)?, port))
}

/// The name of the Service's port that is meant; a number is looked up among its ports.
pub(super) fn port_name<'a>(name: &Name<'a>, service: &'a Value) -> Result<&'a str, Status> {
    let Ok(number) = name.port.parse::<u64>() else { return Ok(name.port) };
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|port| port["port"].as_u64() == Some(number));
    let found = found.ok_or_else(|| {
        let text = format!("no service port {number} found for service {:?}", name.name);
        Status::service_unavailable(text)
    })?;
    Ok(found["name"].as_str().unwrap_or_default())
}

/// The ready addresses of an Endpoints object with the port of that name; `start` says with which to begin.
pub(super) fn candidates<'a>(endpoints: &'a Value, port: &str, start: u32) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let mut ports = subset["ports"].as_array().into_iter().flatten();
        let wanted = ports.find(|found| found["name"].as_str().unwrap_or_default() == port);
        let number =
            wanted.and_then(|found| found["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let Some(number) = number else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            if let Some(ip) = address["ip"].as_str().and_then(|ip| ip.parse().ok()) {
                let reference = &address["targetRef"];
                let pod = reference["name"].as_str().filter(|_| reference["kind"] == "Pod");
                all.push(Candidate { address: SocketAddr::new(ip, number), pod });
            }
        }
    }
    if !all.is_empty() {
        let middle = start as usize % all.len();
        all.rotate_left(middle);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> Name<'_> {
        Name::parse(text).unwrap()
    }

    #[test]
    fn names() {
        let of = |scheme, name, port| Some(Name { scheme, name, port });
        let table = [
            ("web", of(Scheme::Http, "web", "")),
            ("web:80", of(Scheme::Http, "web", "80")),
            ("web:", of(Scheme::Http, "web", "")),
            ("https:web:", of(Scheme::Https, "web", "")),
            ("https:web:admin", of(Scheme::Https, "web", "admin")),
            ("http:web:1", of(Scheme::Http, "web", "1")),
            ("ftp:web:21", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ];
        for (text, expected) in table {
            assert_eq!(Name::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_of_pods() {
        let of = |ip: &str| {
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
                "status": {"podIP": ip}})
        };
        let web = of("10.128.0.9");
        let text = |target: &str| pod(&name(target), &web).map(|address| address.to_string());
        assert_eq!(text("p").unwrap(), "10.128.0.9:8080");
        assert_eq!(text("p:81").unwrap(), "10.128.0.9:81");
        assert_eq!(text("p:http").unwrap_err().code, 400);
        let bare = json!({"spec": {"containers": [{}]}, "status": {"podIP": "10.128.0.9"}});
        assert_eq!(pod(&name("p"), &bare).unwrap().port(), 80);
        assert_eq!(pod(&name("https:p:"), &bare).unwrap().port(), 443);
        for ip in
            ["", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1"]
        {
            assert_eq!(pod(&name("p"), &of(ip)).unwrap_err().message, "address not allowed", "{ip}");
        }
    }

    #[test]
    fn ports_of_services() {
        let service = json!({"spec": {"ports": [{"port": 80}, {"port": 443, "name": "tls"}]}});
        assert_eq!(port_name(&name("s"), &service), Ok(""));
        assert_eq!(port_name(&name("s:80"), &service), Ok(""));
        assert_eq!(port_name(&name("s:443"), &service), Ok("tls"));
        assert_eq!(port_name(&name("s:tls"), &service), Ok("tls"));
        let missing = port_name(&name("s:81"), &service).unwrap_err();
        assert_eq!((missing.code, &*missing.message), (503, "no service port 81 found for service \"s\""));
    }

    #[test]
    fn behind_services() {
        let reference = json!({"kind": "Pod", "name": "p"});
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.1.0.1", "targetRef": reference}, {"ip": "10.1.0.2"}],
             "notReadyAddresses": [{"ip": "10.1.0.3"}],
             "ports": [{"port": 8080}, {"port": 8443, "name": "tls"}]},
            {"addresses": [{"ip": "10.1.0.4"}], "ports": [{"port": 9090}]},
        ]});
        let texts = |port, start| -> Vec<String> {
            let all = candidates(&endpoints, port, start);
            all.iter().map(|found| format!("{} {:?}", found.address, found.pod)).collect()
        };
        assert_eq!(texts("", 0), ["10.1.0.1:8080 Some(\"p\")", "10.1.0.2:8080 None", "10.1.0.4:9090 None"]);
        assert_eq!(texts("tls", 5), ["10.1.0.2:8443 None", "10.1.0.1:8443 Some(\"p\")"]);
        assert!(texts("other", 0).is_empty());
        assert!(candidates(&json!({}), "", 3).is_empty());
    }
}
