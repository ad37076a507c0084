//! `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::set::{FieldSet, FieldsError};
use crate::time;

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells managers apart. The version counts for updates only: an applier is the same one whatever it applies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

/// The fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) fields: FieldSet,
    pub(super) api_version: String,
    pub(super) time: Option<Timestamp>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managed {
    pub(super) owners: BTreeMap<ManagerId, Owned>,
}

/// Why an entry cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ManagedError {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("fieldsType must be FieldsV1")]
    FieldsType,
    #[error(transparent)]
    Fields(#[from] FieldsError),
}

const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

impl Managed {
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Reads the entries of an object.
    pub(super) fn decode(object: &Value) -> Result<Managed, ManagedError> {
        let entries = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
        let mut owners = BTreeMap::new();
        for entry in entries.into_iter().flatten() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(ManagedError::Operation),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err(ManagedError::ApiVersion);
            }
            if text("fieldsType") != "FieldsV1" {
                return Err(ManagedError::FieldsType);
            }
            let fields = match entry.get("fieldsV1") {
                Some(fields) if !fields.is_null() => FieldSet::decode(fields)?,
                _ => FieldSet::default(),
            };
            let id = ManagerId {
                manager: text("manager"),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
                subresource: text("subresource"),
            };
            owners.insert(id, Owned { fields, api_version, time: time::parse(&text("time")) });
        }
        Ok(Managed { owners })
    }

    /// The entries in Kubernetes' order: appliers first, then by time and name.
    pub(super) fn encode(&self) -> Value {
        let mut entries: Vec<(&ManagerId, &Owned)> = self.owners.iter().collect();
        let seconds = |owned: &Owned| owned.time.map_or(0, Timestamp::as_second);
        entries.sort_by(|(a, x), (b, y)| {
            (a.operation, seconds(x), &a.manager, &x.api_version, &a.subresource).cmp(&(
                b.operation,
                seconds(y),
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
        });
        entries.into_iter().map(|(id, owned)| entry(id, owned)).collect()
    }

    /// Sets the time of a manager.
    pub(super) fn touch(&mut self, id: &ManagerId, now: Timestamp) {
        if let Some(owned) = self.owners.get_mut(id) {
            owned.time = Some(now);
        }
    }

    /// Merges the oldest updaters of a version into one when there are more than ten.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(i64, ManagerId)> = self
            .owners
            .iter()
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, owned)| (owned.time.map_or(0, Timestamp::as_second), id.clone()))
            .collect();
        updaters.sort();
        let mut left = updaters.len();
        let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (_, id) in updaters {
            if left <= MAX_UPDATERS {
                return;
            }
            let version = id.api_version.clone();
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, id);
                continue;
            };
            let bucket = ManagerId {
                manager: ANCIENT.into(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
            };
            if !self.owners.contains_key(&bucket)
                && let Some(owned) = self.owners.remove(first)
            {
                self.owners.insert(bucket.clone(), owned);
            }
            if id == bucket {
                continue;
            }
            if let (Some(owned), Some(into)) = (self.owners.remove(&id), self.owners.get_mut(&bucket)) {
                into.fields = into.fields.union(&owned.fields);
                into.time = owned.time;
            }
            left -= 1;
        }
    }
}

fn entry(id: &ManagerId, owned: &Owned) -> Value {
    let mut entry = json!({
        "manager": id.manager,
        "operation": id.operation.word(),
        "apiVersion": owned.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned.fields.encode(),
    });
    if let Some(time) = owned.time {
        entry["time"] = time::format(time).into();
    }
    if !id.subresource.is_empty() {
        entry["subresource"] = id.subresource.as_str().into();
    }
    if id.manager.is_empty()
        && let Some(fields) = entry.as_object_mut()
    {
        fields.remove("manager");
    }
    entry
}
