//! Writes the name of every span that opens as one JSON line, when asked to: how a test follows a pod
//! through all processes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Names a file that spans are appended to.
pub(crate) const VARIABLE: &str = "CATAMARAN_SPANS";

/// Appends to one file that all processes share.
pub(crate) struct SpanLog {
    file: Mutex<File>,
}

impl SpanLog {
    /// The log that the environment asks for.
    pub(crate) fn from_environment() -> Option<Self> {
        let path = std::env::var_os(VARIABLE)?;
        let file = OpenOptions::new().create(true).append(true).open(Path::new(&path)).ok()?;
        Some(SpanLog { file: Mutex::new(file) })
    }
}

impl<S: tracing::Subscriber> Layer<S> for SpanLog {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = json!({
            "span": attributes.metadata().name(),
            "at_us": u64::try_from(now.as_micros()).unwrap_or_default(),
            "fields": fields.0,
        });
        let mut file = self.file.lock().expect("writing a line does not panic");
        // One write a line, so that lines of several processes do not mix; a full disk loses spans only.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}
