//! Figures of one node at one moment, and what two of them say about the time in between. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::Value;

/// Counters of a node or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    /// CPU time used so far, nanoseconds.
    cpu_ns: u64,
    /// Memory in use that cannot be dropped, bytes.
    memory: u64,
}

impl Figures {
    /// From the part of the kubelet's summary about one thing.
    fn read(part: &Value) -> Option<Figures> {
        Some(Figures {
            cpu_ns: part["cpu"]["usageCoreNanoSeconds"].as_u64()?,
            memory: part["memory"]["workingSetBytes"].as_u64()?,
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pod {
    uid: String,
    containers: BTreeMap<String, Figures>,
}

/// What an agent tells of its node at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    at: Timestamp,
    node: Option<Figures>,
    /// By namespace and name.
    pods: HashMap<(String, String), Pod>,
}

impl Sample {
    /// From the answer to `/stats/summary` that came at `at`.
    pub(super) fn read(summary: &Value, at: Timestamp) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = summary["pods"].as_array().into_iter().flatten().map(|pod| {
            let reference = &pod["podRef"];
            let containers = pod["containers"].as_array().into_iter().flatten();
            let containers = containers.filter_map(|one| Some((text(&one["name"]), Figures::read(one)?)));
            let figures = Pod { uid: text(&reference["uid"]), containers: containers.collect() };
            ((text(&reference["namespace"]), text(&reference["name"])), figures)
        });
        Sample { at, node: Figures::read(&summary["node"]), pods: pods.collect() }
    }
}

/// What was used in a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Used {
    /// The end of the span.
    pub(super) at: Timestamp,
    /// Its length, nanoseconds.
    pub(super) window_ns: i64,
    /// By container; a node has one entry without a name.
    pub(super) parts: Vec<Part>,
}

/// What one container, or a node, used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Billionths of a CPU, on average.
    pub(super) nanocores: u64,
    /// Bytes, at the end.
    pub(super) memory: u64,
}

/// The last two samples of a node.
#[derive(Debug, Default)]
pub(super) struct History {
    old: Option<Sample>,
    new: Option<Sample>,
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        self.old = self.new.take();
        self.new = Some(sample);
    }

    /// Drops what was seen before `moment`.
    pub(super) fn forget(&mut self, moment: Timestamp) {
        self.old.take_if(|sample| sample.at < moment);
        if self.new.take_if(|sample| sample.at < moment).is_some() {
            self.old = None;
        }
    }

    /// When the last sample was taken; the beginning of time when there is none.
    pub(super) fn newest(&self) -> Timestamp {
        self.new.as_ref().map_or(Timestamp::MIN, |sample| sample.at)
    }

    /// Whether there are two samples, or none: one alone says nothing yet.
    pub(super) fn has_window(&self) -> bool {
        self.new.is_none() || self.old.is_some()
    }

    /// What the node used.
    pub(super) fn node(&self) -> Option<Used> {
        let (old, new) = (self.old.as_ref()?, self.new.as_ref()?);
        let window_ns = span(old, new)?;
        let part = part("", (old.node?, new.node?), window_ns)?;
        Some(Used { at: new.at, window_ns, parts: vec![part] })
    }

    /// What a pod used; none until every container that runs was seen twice.
    pub(super) fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<Used> {
        let (old, new) = (self.old.as_ref()?, self.new.as_ref()?);
        let window_ns = span(old, new)?;
        let key = (namespace.to_owned(), name.to_owned());
        let (before, now) = (old.pods.get(&key)?, new.pods.get(&key)?);
        if before.uid != uid || now.uid != uid || now.containers.is_empty() {
            return None;
        }
        let parts = now.containers.iter().map(|(container, figures)| {
            part(container, (*before.containers.get(container)?, *figures), window_ns)
        });
        Some(Used { at: new.at, window_ns, parts: parts.collect::<Option<_>>()? })
    }
}

fn span(old: &Sample, new: &Sample) -> Option<i64> {
    let window = i64::try_from(new.at.duration_since(old.at).as_nanos()).ok()?;
    (window > 0).then_some(window)
}

/// None where the counter began anew: the container was restarted.
fn part(name: &str, (old, new): (Figures, Figures), window_ns: i64) -> Option<Part> {
    let used = u128::from(new.cpu_ns.checked_sub(old.cpu_ns)?) * 1_000_000_000;
    let nanocores = u64::try_from(used / u128::from(window_ns.unsigned_abs())).ok()?;
    Some(Part { name: name.to_owned(), nanocores, memory: new.memory })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn sample(second: i64, cpu: u64) -> Sample {
        let figures = |cpu: u64| json!({"name": "c", "cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": 4096}});
        let summary = json!({
            "node": figures(cpu * 4),
            "pods": [{"podRef": {"name": "p", "namespace": "n", "uid": "u"}, "containers": [figures(cpu)]}],
        });
        Sample::read(&summary, at(second))
    }

    #[test]
    fn two_samples_make_a_rate() {
        let mut history = History::default();
        assert!(history.has_window() && history.node().is_none());
        history.push(sample(0, 1_000_000_000));
        assert!(!history.has_window() && history.pod("n", "p", "u").is_none());
        history.push(sample(10, 6_000_000_000));
        let used = history.pod("n", "p", "u").unwrap();
        assert_eq!((used.at, used.window_ns), (at(10), 10_000_000_000));
        let half = Part { name: "c".into(), nanocores: 500_000_000, memory: 4096 };
        assert_eq!(used.parts, [half]);
        assert_eq!(history.node().unwrap().parts[0].nanocores, 2_000_000_000);
        assert!(history.pod("n", "p", "another").is_none());
        history.push(sample(20, 5));
        assert!(history.pod("n", "p", "u").is_none(), "it was restarted");
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut history = History::default();
        history.push(sample(0, 1));
        history.push(sample(10, 2));
        history.forget(at(5));
        assert!(!history.has_window());
        assert_eq!(history.newest(), at(10));
        history.forget(at(11));
        assert_eq!(history.newest(), Timestamp::MIN);
    }
}
