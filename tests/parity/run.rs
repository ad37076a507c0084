//! Runs a row for one kind: the images are put in, the pod is made, looked at and removed.

use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::images;
use catamaran_tests::kubectl::Kubectl;
use catamaran_tests::wait::until;
use serde_json::{Value, json};

use crate::program;
use crate::row::{Check, Kind, Row};

const PROBE_WASM: &str = "localhost:5000/probe:wasm";
const PROBE_CONTAINER: &str = "localhost:5000/probe:container";
const HELLO_WASM: &str = "localhost:5000/hello-wasm:1";
const HELLO_CONTAINER: &str = "localhost:5000/hello-container:1";
/// How long a pod may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster with the programs.
pub(crate) struct Stage {
    cluster: Cluster,
}

/// A pod that is looked at.
pub(crate) struct Look<'a> {
    pub(crate) kubectl: &'a Kubectl,
    pub(crate) name: &'a str,
    /// The Pod object as it is now.
    pub(crate) pod: Value,
}

impl Look<'_> {
    /// Its container `c` as the status tells it.
    pub(crate) fn container(&self) -> &Value {
        &self.pod["status"]["containerStatuses"][0]
    }

    pub(crate) fn phase(&self) -> &str {
        self.pod["status"]["phase"].as_str().unwrap_or_default()
    }

    pub(crate) fn ip(&self) -> Result<std::net::Ipv4Addr, String> {
        let ip = self.pod["status"]["podIP"].as_str().unwrap_or_default();
        ip.parse().map_err(|_| "it has no address".to_owned())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready")["status"] == "True"
    }

    pub(crate) fn condition(&self, kind: &str) -> Value {
        let all = self.pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    }

    /// What it said, with further arguments for `kubectl logs`.
    pub(crate) fn log(&self, more: &[&str]) -> String {
        let all: Vec<_> = ["logs", self.name, "-c", "c"].iter().chain(more).copied().collect();
        let output = self.kubectl.run(&all);
        output.stdout + &output.stderr
    }

    pub(crate) fn events(&self) -> String {
        self.kubectl.ok(&["events", "--for", &format!("pod/{}", self.name)])
    }

    /// That the events say this.
    pub(crate) fn told(&self, text: &str) -> Result<(), String> {
        let events = self.events();
        if events.contains(text) { Ok(()) } else { Err(format!("no event says {text:?}:\n{events}")) }
    }
}

/// `Err` with what was found instead.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let cluster = Cluster::up(Demo::With);
        let wasm = bytes::Bytes::from_static(include_bytes!("../guests/prebuilt/probe-p2.wasm"));
        images::push_wasm(PROBE_WASM, wasm);
        program::image().push(PROBE_CONTAINER);
        let kubectl = &cluster.kubectl;
        kubectl.ok(&["create", "configmap", "conf", "--from-literal=colour=blue", "--from-literal=size=7"]);
        kubectl.ok(&["create", "secret", "generic", "pass", "--from-literal=word=hidden"]);
        kubectl.ok(&["label", "node", "node-1", "disk=fast"]);
        Stage { cluster }
    }

    pub(crate) fn run(&self, row: &Row, number: usize, kind: Kind) {
        let name = format!("row-{number}-{}", kind.word());
        let (probe, hello) = match kind {
            Kind::Wasm => (PROBE_WASM, HELLO_WASM),
            Kind::Container => (PROBE_CONTAINER, HELLO_CONTAINER),
        };
        let fill = |text: String| {
            let port = (20_000 + 2 * number + usize::from(kind == Kind::Wasm)).to_string();
            text.replace("$PROBE", probe)
                .replace("$HELLO", hello)
                .replace("$POD", &name)
                .replace("$DATA", self.cluster.data().to_str().expect("a plain path"))
                .replace("\"$PORT\"", &port)
        };
        let kubectl = &self.cluster.kubectl;
        let before: Vec<String> = row.before.iter().map(|object| fill(object.to_string())).collect();
        before.iter().for_each(|object| drop(kubectl.apply(object)));
        let mut pod = row.pod.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!("$POD");
        pod["metadata"]["labels"]["row"] = json!("one");
        kubectl.apply(&fill(pod.to_string()));
        let refused = row.forbidden.filter(|_| kind == Kind::Wasm);
        match (refused, &row.check) {
            (Some(error), _) => self.refused(&name, error),
            (None, Check::Log(text)) => self.says(&name, |log| same(log, &fill((*text).to_owned()))),
            (None, Check::Lines(lines)) => self.says(&name, |log| {
                let missing = lines.iter().map(|line| fill((*line).to_owned()));
                match missing.into_iter().find(|line| !log.lines().any(|found| found == line)) {
                    Some(line) => Err(format!("{line:?} is not in\n{log}")),
                    None => Ok(()),
                }
            }),
            (None, Check::Phase(phase)) => self.until(&name, |look| same(look.phase(), phase)),
            (None, Check::Shows(check)) => self.until(&name, check),
        }
        kubectl.ok(&["delete", "pod", &name, "--now", "--wait=false", "--ignore-not-found"]);
        for object in &before {
            let removed =
                kubectl.run_with(&["delete", "-f", "-", "--wait=false", "--ignore-not-found"], object);
            assert_eq!(removed.code, 0, "{}", removed.stderr);
        }
    }

    #[track_caller]
    fn until(&self, name: &str, check: impl Fn(&Look<'_>) -> Result<(), String>) {
        let kubectl = &self.cluster.kubectl;
        until("what must be seen", PATIENCE, || {
            let found = kubectl.run(&["get", "pod", name, "-o", "json"]);
            let pod: Value = serde_json::from_str(&found.stdout).unwrap_or_default();
            let look = Look { kubectl, name, pod };
            check(&look).map_err(|why| format!("{why}\n{}\n{}", look.pod["status"], look.events()))
        });
    }

    /// Waits for the end, then looks at the log of `c`.
    #[track_caller]
    fn says(&self, name: &str, check: impl Fn(&str) -> Result<(), String>) {
        self.until(name, |look| {
            if !matches!(look.phase(), "Succeeded" | "Failed") {
                return Err("it has not ended".into());
            }
            // A last line that was not ended is ended in the log.
            check(look.log(&[]).trim_end_matches('\n'))
        });
    }

    /// The error is told where a user looks: in the status or in the events.
    #[track_caller]
    fn refused(&self, name: &str, error: &str) {
        self.until(name, |look| {
            let status = look.pod["status"].to_string();
            if status.contains(error) { Ok(()) } else { look.told(error) }
        });
    }
}
