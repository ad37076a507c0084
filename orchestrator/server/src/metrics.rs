//! Figures of the server in Prometheus' text form.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::route::Verb;

const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "other"];
/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

#[derive(Default)]
struct ByVerb {
    /// Answers by class of status code: 1xx to 5xx.
    codes: [AtomicU64; 5],
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// Counters and gauges.
#[derive(Default)]
pub(crate) struct Metrics {
    verbs: [ByVerb; VERBS.len()],
    running: Arc<AtomicI64>,
    watchers: Arc<AtomicI64>,
}

/// Counts one thing while it lives.
pub(crate) struct Gauge(Arc<AtomicI64>);

impl Gauge {
    fn of(gauge: &Arc<AtomicI64>) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Gauge(gauge.clone())
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// A watch, as long as the gauge lives.
    pub(crate) fn watcher(&self) -> Gauge {
        Gauge::of(&self.watchers)
    }

    /// A request, as long as the gauge lives.
    pub(crate) fn request(&self) -> Gauge {
        Gauge::of(&self.running)
    }

    /// A request was answered.
    pub(crate) fn answered(&self, verb: Option<Verb>, code: u16, took: Duration) {
        let name = verb.map_or("other", Verb::as_str);
        let at = VERBS.iter().position(|verb| *verb == name).unwrap_or(VERBS.len() - 1);
        let verb = &self.verbs[at];
        let class = usize::from(code / 100).clamp(1, 5) - 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        verb.codes[class].fetch_add(1, Ordering::Relaxed);
        verb.count.fetch_add(1, Ordering::Relaxed);
        verb.micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(bucket) = BUCKETS.iter().position(|bound| micros <= *bound) {
            verb.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The text; `revision` is the store's.
    pub(crate) fn text(&self, revision: u64, uptime: Duration) -> String {
        let mut out = String::new();
        self.write(&mut out, revision, uptime).expect("a string takes everything");
        out
    }

    fn write(&self, out: &mut String, revision: u64, uptime: Duration) -> std::fmt::Result {
        writeln!(out, "# HELP apiserver_request_total Answers by verb and class of status code.")?;
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for (name, verb) in VERBS.iter().zip(&self.verbs) {
            for (class, count) in verb.codes.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    writeln!(
                        out,
                        "apiserver_request_total{{verb=\"{name}\",code=\"{}xx\"}} {count}",
                        class + 1
                    )?;
                }
            }
        }
        writeln!(out, "# HELP apiserver_request_duration_seconds Time until the answer began.")?;
        writeln!(out, "# TYPE apiserver_request_duration_seconds histogram")?;
        for (name, verb) in VERBS.iter().zip(&self.verbs) {
            let count = verb.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let mut below = 0;
            let metric = "apiserver_request_duration_seconds";
            for (bound, bucket) in BUCKETS.iter().zip(&verb.buckets) {
                below += bucket.load(Ordering::Relaxed);
                let bound = Duration::from_micros(*bound).as_secs_f64();
                writeln!(out, "{metric}_bucket{{verb=\"{name}\",le=\"{bound}\"}} {below}")?;
            }
            writeln!(out, "{metric}_bucket{{verb=\"{name}\",le=\"+Inf\"}} {count}")?;
            let sum = Duration::from_micros(verb.micros.load(Ordering::Relaxed)).as_secs_f64();
            writeln!(
                out,
                "{metric}_sum{{verb=\"{name}\"}} {sum}\n{metric}_count{{verb=\"{name}\"}} {count}"
            )?;
        }
        let gauges = [
            (
                "apiserver_current_inflight_requests",
                "Requests being answered.",
                self.running.load(Ordering::Relaxed),
            ),
            ("apiserver_longrunning_requests", "Open watches.", self.watchers.load(Ordering::Relaxed)),
            ("catamaran_store_revision", "The newest revision.", i64::try_from(revision).unwrap_or(i64::MAX)),
        ];
        for (name, help, value) in gauges {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}")?;
        }
        writeln!(
            out,
            "# HELP process_uptime_seconds Time since the start.\n# TYPE process_uptime_seconds gauge"
        )?;
        writeln!(out, "process_uptime_seconds {}", uptime.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_buckets() {
        let metrics = Metrics::default();
        metrics.answered(Some(Verb::Get), 200, Duration::from_micros(700));
        metrics.answered(Some(Verb::Get), 404, Duration::from_secs(60));
        metrics.answered(None, 200, Duration::ZERO);
        let open = metrics.watcher();
        let text = metrics.text(7, Duration::from_secs(3));
        for line in [
            r#"apiserver_request_total{verb="get",code="2xx"} 1"#,
            r#"apiserver_request_total{verb="get",code="4xx"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{verb="get",le="0.0005"} 0"#,
            r#"apiserver_request_duration_seconds_bucket{verb="get",le="30"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{verb="get",le="+Inf"} 2"#,
            "apiserver_longrunning_requests 1",
            "catamaran_store_revision 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        drop(open);
        assert!(metrics.text(7, Duration::ZERO).contains("apiserver_longrunning_requests 0"));
    }
}
