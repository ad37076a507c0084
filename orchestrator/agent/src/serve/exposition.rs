//! Figures in Prometheus' text form (version 0.0.4), under the kubelet's names. Pure.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use catamaran_task::status::ContainerStats;

use super::machine;

/// One container with its figures.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) image: String,
    /// When it began to run, seconds since 1970.
    pub(super) started: Option<i64>,
    pub(super) stats: ContainerStats,
}

impl Measured {
    fn labels(&self) -> String {
        let (container, namespace, pod) =
            (quoted(&self.container), quoted(&self.namespace), quoted(&self.pod));
        format!("container={container},namespace={namespace},pod={pod}")
    }

    fn cadvisor_labels(&self) -> String {
        format!("{},id={},image={}", self.labels(), quoted(&self.stats.id), quoted(&self.image))
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Nanoseconds as seconds with all digits.
fn seconds(nanos: u64) -> String {
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:09}").trim_end_matches('0').to_owned() }
}

/// One metric: its head and its samples.
fn metric<L: Display, V: Display>(
    out: &mut String,
    (name, kind, help): (&str, &str, &str),
    samples: impl Iterator<Item = (L, V)>,
) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = labels.to_string();
        let braces = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{braces} {value}");
    }
}

/// CPU, memory and start of containers, of pods, and of the node where it is given.
pub(super) fn resource(containers: &[Measured], node: Option<&machine::Usage>) -> String {
    let mut out = String::new();
    let cpu = containers.iter().map(|one| (one.labels(), seconds(one.stats.cpu_ns)));
    let help = "CPU time used by the container, in seconds of one core.";
    metric(&mut out, ("container_cpu_usage_seconds_total", "counter", help), cpu);
    let memory = containers.iter().map(|one| (one.labels(), one.stats.working_set_bytes));
    let help = "Memory of the container in use that cannot be dropped.";
    metric(&mut out, ("container_memory_working_set_bytes", "gauge", help), memory);
    let starts = containers.iter().filter_map(|one| Some((one.labels(), one.started?)));
    let help = "When the container began to run, seconds since 1970.";
    metric(&mut out, ("container_start_time_seconds", "gauge", help), starts);
    if let Some(node) = node {
        let help = "CPU time used by the node, in seconds of one core.";
        let cpu = [("", seconds(node.cpu_ns))];
        metric(&mut out, ("node_cpu_usage_seconds_total", "counter", help), cpu.into_iter());
        let help = "Memory of the node in use that cannot be dropped.";
        let memory = [("", node.memory_bytes)];
        metric(&mut out, ("node_memory_working_set_bytes", "gauge", help), memory.into_iter());
    }
    pods(&mut out, containers);
    let help = "1 if there was an error while getting the figures, else 0.";
    metric(&mut out, ("resource_scrape_error", "gauge", help), [("", 0)].into_iter());
    out
}

fn pods(out: &mut String, containers: &[Measured]) {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for one in containers {
        let labels = format!("namespace={},pod={}", quoted(&one.namespace), quoted(&one.pod));
        let sum = sums.entry(labels).or_default();
        sum.0 += one.stats.cpu_ns;
        sum.1 += one.stats.working_set_bytes;
    }
    let help = "CPU time used by the pod, in seconds of one core.";
    let cpu = sums.iter().map(|(labels, sum)| (labels, seconds(sum.0)));
    metric(out, ("pod_cpu_usage_seconds_total", "counter", help), cpu);
    let help = "Memory of the pod in use that cannot be dropped.";
    let memory = sums.iter().map(|(labels, sum)| (labels, sum.1));
    metric(out, ("pod_memory_working_set_bytes", "gauge", help), memory);
}

/// The names and labels of cAdvisor.
pub(super) fn cadvisor(containers: &[Measured], machine: Option<&machine::Size>) -> String {
    let mut out = String::new();
    let cpu = containers
        .iter()
        .map(|one| (format!("{},cpu=\"total\"", one.cadvisor_labels()), seconds(one.stats.cpu_ns)));
    let help = "Cumulative cpu time consumed in seconds.";
    metric(&mut out, ("container_cpu_usage_seconds_total", "counter", help), cpu);
    let memory = containers.iter().map(|one| (one.cadvisor_labels(), one.stats.working_set_bytes));
    let help = "Current working set in bytes.";
    metric(&mut out, ("container_memory_working_set_bytes", "gauge", help), memory);
    let processes = containers.iter().map(|one| (one.cadvisor_labels(), one.stats.pids));
    let help = "Number of processes running inside the container.";
    metric(&mut out, ("container_processes", "gauge", help), processes);
    let starts = containers.iter().filter_map(|one| Some((one.cadvisor_labels(), one.started?)));
    let help = "Start time of the container since unix epoch in seconds.";
    metric(&mut out, ("container_start_time_seconds", "gauge", help), starts);
    if let Some(machine) = machine {
        let help = "Number of logical CPU cores.";
        metric(&mut out, ("machine_cpu_cores", "gauge", help), [("", machine.cpus)].into_iter());
        let help = "Amount of memory installed on the machine.";
        metric(&mut out, ("machine_memory_bytes", "gauge", help), [("", machine.memory_bytes)].into_iter());
    }
    out
}

/// What the agent tells of itself.
pub(super) fn kubelet(out: &mut String, pods: usize) {
    metric(out, ("kubelet_running_pods", "gauge", "Pods of this node."), [("", pods)].into_iter());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(container: &str, cpu_ns: u64) -> Measured {
        Measured {
            namespace: "n".into(),
            pod: "p".into(),
            container: container.into(),
            image: "i:1".into(),
            started: Some(7),
            stats: ContainerStats { id: "x".into(), cpu_ns, working_set_bytes: 10, pids: 2 },
        }
    }

    #[test]
    fn containers_add_up_to_pods() {
        let node = machine::Usage { cpu_ns: 3_000_000_000, memory_bytes: 99 };
        let text = resource(&[measured("a", 1_500_000_000), measured("b", 1)], Some(&node));
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.5",
            "container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"p\"} 0.000000001",
            "container_start_time_seconds{container=\"a\",namespace=\"n\",pod=\"p\"} 7",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 1.500000001",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 20",
            "node_cpu_usage_seconds_total 3",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in {text}");
        }
    }

    #[test]
    fn dashboards_find_their_labels() {
        let text = cadvisor(&[measured("a\"b", 0)], Some(&machine::Size { cpus: 4, memory_bytes: 8 }));
        let line =
            "container_processes{container=\"a\\\"b\",namespace=\"n\",pod=\"p\",id=\"x\",image=\"i:1\"} 2";
        assert!(text.lines().any(|have| have == line), "{text}");
        assert!(text.contains("machine_cpu_cores 4\n"));
    }
}
