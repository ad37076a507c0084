//! A CustomResourceDefinition as the server uses it: names, versions, compiled schemas. The object has been
//! validated when it was stored.

use serde_json::Value;

use super::columns::Columns;
use super::schema::Schema;
use super::status::{self, Names};
use crate::kind::{self, Row, Scope};
use crate::meta;

/// What a definition says.
#[derive(Debug)]
pub struct Definition {
    /// API group of its resources.
    pub group: String,
    /// The names under which they are served: those that were accepted.
    pub names: Names,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Every version, served or not.
    pub versions: Vec<Version>,
    /// How one version becomes another.
    pub conversion: Conversion,
    /// Nothing is created any more: the definition is being deleted.
    pub terminating: bool,
    /// Counts changes of the definition; 1 means that no object was stored under another one.
    pub generation: i64,
}

/// How one version becomes another.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// Somebody else does it: the `webhook` part of the definition.
    Webhook(Value),
}

/// One version of a definition.
#[derive(Debug)]
pub struct Version {
    /// Such as `v1beta1`.
    pub name: String,
    /// Whether clients get it.
    pub served: bool,
    /// Whether objects are kept in it.
    pub storage: bool,
    /// Clients are told so.
    pub deprecation: Option<String>,
    /// The schema as it was written.
    pub json: Value,
    /// The schema, compiled.
    pub schema: Schema,
    /// What `kubectl get` shows.
    pub columns: Columns,
    /// Whether there is a `/status`.
    pub status: bool,
    /// Where `/scale` finds its numbers.
    pub scale: Option<ScalePaths>,
    selectable_fields: Vec<String>,
}

/// Where the scale subresource finds its numbers, as paths with dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub replicas: String,
    /// Present replicas.
    pub status_replicas: String,
    /// The selector as text.
    pub selector: Option<String>,
}

impl ScalePaths {
    fn read(scale: &Value) -> Option<Self> {
        let text = |name: &str| scale.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        Some(ScalePaths {
            replicas: text("specReplicasPath")?.to_owned(),
            status_replicas: text("statusReplicasPath")?.to_owned(),
            selector: text("labelSelectorPath").map(str::to_owned),
        })
    }
}

impl Definition {
    /// Reads a stored definition.
    ///
    /// # Errors
    /// A schema that cannot be compiled.
    pub fn read(object: &Value) -> Result<Definition, String> {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let group = text(&spec["group"]);
        let names = Names::read(&object["status"]["acceptedNames"]);
        let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let versions = versions.iter().map(|version| Version::read(version, &group, &names));
        let webhook = spec["conversion"]["strategy"] == "Webhook";
        Ok(Definition {
            versions: versions.collect::<Result<_, _>>()?,
            scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
            conversion: match webhook {
                true => Conversion::Webhook(spec["conversion"]["webhook"].clone()),
                false => Conversion::None,
            },
            terminating: meta::is_being_deleted(object) || status::is_terminating(object),
            generation: meta::generation(object),
            group,
            names,
        })
    }

    /// The version in which objects are kept.
    pub fn storage(&self) -> Option<&Version> {
        self.versions.iter().find(|version| version.storage)
    }

    /// The `apiVersion` of each served version.
    pub fn served(&self) -> Vec<String> {
        let served = self.versions.iter().filter(|version| version.served);
        served.map(|version| kind::api_version(&self.group, &version.name)).collect()
    }

    /// The row of a version in the resource table.
    pub fn row(&self, version: &Version) -> Row {
        Row {
            group: self.group.clone(),
            version: version.name.clone(),
            kind: self.names.kind.clone(),
            list_kind: self.names.list_kind.clone(),
            plural: self.names.plural.clone(),
            singular: self.names.singular.clone(),
            short_names: self.names.short_names.clone(),
            categories: self.names.categories.clone(),
            scope: self.scope,
            status: version.status,
            scale: version.scale.is_some(),
            selectable_fields: version.selectable_fields.clone(),
        }
    }
}

impl Version {
    fn read(version: &Value, group: &str, names: &Names) -> Result<Version, String> {
        let name = version["name"].as_str().unwrap_or_default().to_owned();
        let flag = |field: &str| version[field].as_bool().unwrap_or(false);
        let list = |field: &str| version[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let json = version["schema"]["openAPIV3Schema"].clone();
        let schema = if json.is_object() { Schema::compile(&json)? } else { Schema::anything() };
        let deprecation = flag("deprecated").then(|| match version["deprecationWarning"].as_str() {
            Some(said) => said.to_owned(),
            None => format!("{group}/{name} {} is deprecated", names.kind),
        });
        let selectable = list("selectableFields").iter().filter_map(|field| field["jsonPath"].as_str());
        Ok(Version {
            served: flag("served"),
            storage: flag("storage"),
            deprecation,
            schema,
            columns: Columns::read(list("additionalPrinterColumns")),
            status: version["subresources"].get("status").is_some_and(|status| !status.is_null()),
            scale: ScalePaths::read(&version["subresources"]["scale"]),
            selectable_fields: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect(),
            json,
            name,
        })
    }
}
