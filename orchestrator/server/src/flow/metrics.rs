//! Figures of priority and fairness, under the names that Kubernetes gives them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::live::Flow;

/// A figure from a level's load and its nominal seats.
type Gauge = fn((u32, u32, u32), u32) -> u32;

impl Flow {
    /// Prometheus' text.
    pub(crate) fn metrics(&self) -> String {
        let Some(table) = self.known() else { return String::new() };
        let gauges: [(&str, Gauge); 4] = [
            ("current_executing_seats", |(used, _, _), _| used),
            ("current_inqueue_requests", |(_, waiting, _), _| waiting),
            ("current_limit_seats", |(_, _, limit), _| limit),
            ("nominal_limit_seats", |_, nominal| nominal),
        ];
        let mut out = String::new();
        for (name, value) in gauges {
            head(&mut out, name, "gauge");
            for (level, found, nominal) in table.levels() {
                line(&mut out, name, (level, ""), u64::from(value(found.load(), nominal)));
            }
        }
        head(&mut out, "dispatched_requests_total", "counter");
        for (level, found, _) in table.levels() {
            line(&mut out, "dispatched_requests_total", (level, ""), read(&found.counts.dispatched));
        }
        head(&mut out, "rejected_requests_total", "counter");
        for (level, found, _) in table.levels() {
            let counts = &found.counts;
            let reasons = [
                ("queue-full", &counts.queue_full),
                ("concurrency-limit", &counts.concurrency_limit),
                ("time-out", &counts.time_out),
            ];
            for (reason, count) in reasons {
                line(&mut out, "rejected_requests_total", (level, reason), read(count));
            }
        }
        out
    }
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn head(out: &mut String, name: &str, kind: &str) {
    writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}").expect("a string takes everything");
}

fn line(out: &mut String, name: &str, (level, reason): (&str, &str), value: u64) {
    let reason = if reason.is_empty() { String::new() } else { format!(",reason=\"{reason}\"") };
    writeln!(out, "apiserver_flowcontrol_{name}{{priority_level=\"{level}\"{reason}}} {value}")
        .expect("a string takes everything");
}
