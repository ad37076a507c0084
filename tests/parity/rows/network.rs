//! Addresses, names, ports of the node.

use std::net::{Ipv4Addr, SocketAddr};

use catamaran_tests::http;
use serde_json::{Value, json};

use crate::row::{Check, Row, always, once, row, run, web, with};
use crate::run::{Look, same};

const AREA: &str = "network";

fn answers(address: impl Into<SocketAddr>) -> Result<(), String> {
    let answer = http::get(address.into(), "/healthz").map_err(|error| error.to_string())?;
    same(answer.status, 200)
}

/// The port of the node that the row's pod asked for.
fn host_port(look: &Look<'_>) -> Result<u16, String> {
    let port = &look.pod["spec"]["containers"][0]["ports"][0]["hostPort"];
    port.as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| "it has no hostPort".into())
}

pub(crate) fn rows() -> Vec<Row> {
    [reach(), names()].into_iter().flatten().collect()
}

fn reach() -> Vec<Row> {
    let port = |more: Value| {
        let port = with(json!({"name": "http", "containerPort": 8080, "hostPort": "$PORT"}), more);
        always(with(web(), json!({"ports": [port]})))
    };
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "$POD-first"}, "spec": {"containers": [
        {"name": "c", "image": "$HELLO", "ports": [{"containerPort": 8080, "hostPort": "$PORT"}]}]}});
    let host = with(always(run(&["sleep", "600000"])), json!({"spec": {"hostNetwork": true}}));
    vec![
        row(
            AREA,
            "a pod answers on its address",
            always(web()),
            Check::Shows(|look| answers((look.ip()?, 8080))),
        ),
        row(
            AREA,
            "`hostPort`",
            port(json!({})),
            Check::Shows(|look| {
                let port = host_port(look)?;
                answers((Ipv4Addr::LOCALHOST, port))?;
                answers((Ipv4Addr::new(10, 128, 0, 1), port))
            }),
        ),
        row(
            AREA,
            "`hostPort` with `hostIP`",
            port(json!({"hostIP": "127.0.0.1"})),
            Check::Shows(|look| {
                let port = host_port(look)?;
                answers((Ipv4Addr::LOCALHOST, port))?;
                match answers((Ipv4Addr::new(10, 128, 0, 1), port)) {
                    Ok(()) => Err("it answers on another address too".into()),
                    Err(_) => Ok(()),
                }
            }),
        ),
        row(
            AREA,
            "a `hostPort` that is taken",
            port(json!({})),
            Check::Shows(|look| look.told("1 node(s) didn't have free ports for the requested pod ports")),
        )
        .after(other),
        row(
            AREA,
            "`hostNetwork`",
            host,
            Check::Shows(|look| {
                same((look.phase(), &look.pod["status"]["podIP"]), ("Running", &look.pod["status"]["hostIP"]))
            }),
        )
        .forbidden("no place in the node's own network namespace"),
    ]
}

fn names() -> Vec<Row> {
    let of = |words: &[&str], spec: Value| with(once(run(words)), json!({"spec": spec}));
    let hosts = &["cat", "/etc/hosts"][..];
    let resolv = &["cat", "/etc/resolv.conf"][..];
    let aliases = json!({"hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db", "db.example"]}]});
    let config = json!({"nameservers": ["192.0.2.9"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "3"}]});
    vec![
        row(
            AREA,
            "`/etc/hosts` names the pod",
            of(hosts, json!({})),
            Check::Shows(|look| {
                let wanted = format!("{}\t{}", look.ip()?, look.name);
                let log = look.log(&[]);
                if log.lines().any(|line| line == wanted) { Ok(()) } else { Err(log) }
            }),
        ),
        row(AREA, "`hostAliases`", of(hosts, aliases), Check::Lines(&["192.0.2.7\tdb\tdb.example"])),
        row(
            AREA,
            "`subdomain` in `/etc/hosts`",
            of(hosts, json!({"hostname": "a", "subdomain": "b"})),
            Check::Shows(|look| {
                let log = look.log(&[]);
                if log.contains("\ta.b.default.svc.cluster.local\ta\n") { Ok(()) } else { Err(log) }
            }),
        ),
        row(AREA, "`/etc/hostname`", of(&["cat", "/etc/hostname"], json!({})), Check::Log("$POD")),
        row(
            AREA,
            "`dnsPolicy: ClusterFirst`",
            of(resolv, json!({})),
            Check::Lines(&["nameserver 10.96.0.10", "options ndots:5"]),
        ),
        row(
            AREA,
            "`dnsPolicy: None` with `dnsConfig`",
            of(resolv, json!({"dnsPolicy": "None", "dnsConfig": config})),
            Check::Log("search a.example\nnameserver 192.0.2.9\noptions ndots:3"),
        ),
    ]
}
