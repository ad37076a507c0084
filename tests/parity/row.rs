//! What a row is: a pod whose image is a placeholder, and what must be seen of it.

use serde_json::{Value, json};

use crate::run::Look;

/// A kind of container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Container,
    Wasm,
}

pub(crate) const BOTH: [Kind; 2] = [Kind::Container, Kind::Wasm];

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Wasm => "wasm",
        }
    }
}

/// What must be seen. `$POD` is the pod's name.
pub(crate) enum Check {
    /// The pod ends, and its container `c` has said exactly this.
    Log(&'static str),
    /// The pod ends, and its container `c` has said these lines among others.
    Lines(&'static [&'static str]),
    /// The pod ends in this phase.
    Phase(&'static str),
    /// This comes to hold.
    Shows(fn(&Look<'_>) -> Result<(), String>),
}

/// One behaviour.
pub(crate) struct Row {
    pub(crate) area: &'static str,
    pub(crate) name: &'static str,
    /// Objects that must be there before.
    pub(crate) before: Vec<Value>,
    pub(crate) pod: Value,
    pub(crate) check: Check,
    /// What the nature of wasm forbids, by the words of the error that a user meets.
    pub(crate) forbidden: Option<&'static str>,
}

/// A container `c` of the program that does what its words say.
pub(crate) fn run(words: &[&str]) -> Value {
    json!({"name": "c", "image": "$PROBE", "args": words})
}

/// A container `c` that answers on port 8080.
pub(crate) fn web() -> Value {
    json!({"name": "c", "image": "$HELLO", "ports": [{"name": "http", "containerPort": 8080}]})
}

/// The fields of `more` in `base`, at any depth.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    merge(&mut base, more);
    base
}

fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

/// A pod that runs its container once.
pub(crate) fn once(container: Value) -> Value {
    json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}})
}

/// A pod that goes on.
pub(crate) fn always(container: Value) -> Value {
    json!({"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}})
}

pub(crate) fn row(area: &'static str, name: &'static str, pod: Value, check: Check) -> Row {
    Row { area, name, before: Vec::new(), pod, check, forbidden: None }
}

impl Row {
    pub(crate) fn after(mut self, object: Value) -> Self {
        self.before.push(object);
        self
    }

    pub(crate) fn forbidden(mut self, error: &'static str) -> Self {
        self.forbidden = Some(error);
        self
    }
}
