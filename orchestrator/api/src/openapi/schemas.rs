//! `components/schemas`: the types that a group version's paths reach, with Kubernetes' extensions.

use std::collections::BTreeMap;

use super::writer::Writer;
use crate::kind::{GroupVersionKind, Resource};
use crate::schema::{self, Descriptions, Field, JSON_SCHEMA, ListType, MapType, Struct, Type};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Bodies that every group version has.
const COMMON: [&str; 4] = ["APIResourceList", "DeleteOptions", "Status", "WatchEvent"];

/// Types by name: structs, and the others by what makes them.
#[derive(Default)]
struct Reached {
    structs: BTreeMap<&'static str, &'static Struct>,
    others: BTreeMap<String, Type>,
}

pub(super) fn write(w: &mut Writer, group: &str, version: &str, resources: &[&Resource]) {
    let mut reached = Reached::default();
    for name in COMMON {
        reached.add(schema::named(&format!("{META}{name}")));
    }
    for resource in resources {
        if resource.custom {
            reached.add(schema::named(&format!("{META}ObjectMeta")));
            reached.add(schema::named(&format!("{META}ListMeta")));
        } else {
            reached.add(Some(schema::of(resource)));
            reached.add(schema::of_kind(resource.group, resource.version, resource.list_kind));
        }
        for sub in resource.subresources {
            reached.add(schema::of_kind(sub.kind.group, sub.kind.version, sub.kind.kind));
        }
    }
    let descriptions = Descriptions::read();
    for (name, of) in &reached.structs {
        w.field(name).object(|w| object(w, of, &descriptions, (group, version)));
    }
    for (name, ty) in &reached.others {
        let special = schema::specials().iter().find(|special| special.name == name);
        let text = special.map_or("", |special| descriptions.of_special(special));
        w.field(name).object(|w| other(w, *ty, text));
    }
    w.field(&format!("{META}Patch")).raw(
        r#"{"description":"Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.","type":"object"}"#,
    );
}

impl Reached {
    fn add(&mut self, of: Option<&'static Struct>) {
        let Some(of) = of else { return };
        if self.structs.insert(of.name, of).is_some() {
            return;
        }
        for field in of.fields {
            self.add_type(field.ty);
        }
    }

    fn add_type(&mut self, ty: Type) {
        match ty {
            Type::Struct(_) => self.add(ty.as_struct()),
            Type::List(_) | Type::Map(_) => ty.item().into_iter().for_each(|item| self.add_type(item)),
            _ => {
                let Some(name) = name_of(ty) else { return };
                self.others.insert(name, ty);
                if let Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings = ty {
                    self.add(schema::named(JSON_SCHEMA));
                }
            }
        }
    }
}

/// The published name of a type that is neither a struct nor written in place.
fn name_of(ty: Type) -> Option<String> {
    let name = match ty {
        Type::Struct(_) => return ty.as_struct().map(|of| of.name.to_owned()),
        Type::Time => [META, "Time"],
        Type::MicroTime => [META, "MicroTime"],
        Type::Duration => [META, "Duration"],
        Type::Fields => [META, "FieldsV1"],
        Type::Quantity => ["io.k8s.apimachinery.pkg.api.resource.", "Quantity"],
        Type::IntOrString => ["io.k8s.apimachinery.pkg.util.intstr.", "IntOrString"],
        Type::Raw => ["io.k8s.apimachinery.pkg.runtime.", "RawExtension"],
        Type::Json => [CRD, "JSON"],
        Type::SchemaOrArray => [CRD, "JSONSchemaPropsOrArray"],
        Type::SchemaOrBool => [CRD, "JSONSchemaPropsOrBool"],
        Type::SchemaOrStrings => [CRD, "JSONSchemaPropsOrStringArray"],
        _ => return None,
    };
    Some(name.concat())
}

fn other(w: &mut Writer, ty: Type, description: &str) {
    if !description.is_empty() {
        w.field("description").text(description);
    }
    match ty {
        Type::Time | Type::MicroTime => w.raw_fields(&[("type", "\"string\""), ("format", "\"date-time\"")]),
        Type::Duration => w.raw_fields(&[("type", "\"string\"")]),
        Type::Quantity => w.raw_fields(&[("oneOf", r#"[{"type":"string"},{"type":"number"}]"#)]),
        Type::IntOrString => {
            w.raw_fields(&[
                ("format", "\"int-or-string\""),
                ("oneOf", r#"[{"type":"integer"},{"type":"string"}]"#),
            ]);
        }
        Type::Raw | Type::Fields => w.raw_fields(&[("type", "\"object\"")]),
        _ => {}
    }
}

fn object(w: &mut Writer, of: &Struct, descriptions: &Descriptions, here: (&str, &str)) {
    let description = descriptions.of_struct(of);
    if !description.is_empty() {
        w.field("description").text(description);
    }
    w.field("type").text("object");
    if !of.fields.is_empty() {
        w.field("properties").object(|w| {
            for (index, field) in of.fields.iter().enumerate() {
                w.field(field.name).object(|w| property(w, field, descriptions.of_field(of, index)));
            }
        });
    }
    if of.fields.iter().any(|field| field.required) {
        w.field("required").texts(of.fields.iter().filter(|field| field.required).map(|field| field.name));
    }
    if let Some(gvk) = of.gvk {
        w.field("x-kubernetes-group-version-kind").array(|w| {
            kind(w, gvk.group, gvk.version, gvk.kind);
            if matches!(gvk.kind, "DeleteOptions" | "WatchEvent") && here != ("", "v1") {
                kind(w, here.0, here.1, gvk.kind);
            }
        });
    }
    if of.map_type == MapType::Atomic {
        w.field("x-kubernetes-map-type").text("atomic");
    }
}

/// `{"group": …, "kind": …, "version": …}`
pub(super) fn kind(w: &mut Writer, group: &str, version: &str, kind: &str) {
    w.object(|w| {
        w.field("group").text(group);
        w.field("kind").text(kind);
        w.field("version").text(version);
    });
}

/// The kind of a type reference in paths.
pub(super) fn reference(resource: &Resource, gvk: GroupVersionKind) -> Option<String> {
    let own = resource.custom && (gvk.group, gvk.version) == (resource.group, resource.version);
    let name = match schema::of_kind(gvk.group, gvk.version, gvk.kind) {
        _ if own => super::custom::name(gvk.group, gvk.version, gvk.kind),
        of => of?.name.to_owned(),
    };
    Some(format!("#/components/schemas/{name}"))
}

fn property(w: &mut Writer, field: &Field, description: &str) {
    if !description.is_empty() {
        w.field("description").text(description);
    }
    shape(w, field.ty);
    if let Some(default) = field.default_json().or_else(|| default_of(field)) {
        w.field("default").raw(default);
    }
    if !field.values().is_empty() && field.ty == Type::String {
        w.field("enum").texts(field.values().iter().map(String::as_str));
    }
    if let Some(list_type) = field.list_type() {
        if !field.list_map_keys().is_empty() {
            w.field("x-kubernetes-list-map-keys").texts(field.list_map_keys().iter().copied());
        }
        w.field("x-kubernetes-list-type").text(match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        });
    }
    if field.own_map_type() == Some(MapType::Atomic) {
        w.field("x-kubernetes-map-type").text("atomic");
    }
    if let Some(key) = field.patch_merge_key() {
        w.field("x-kubernetes-patch-merge-key").text(key);
    }
    if let Some(strategy) = field.patch_strategy() {
        w.field("x-kubernetes-patch-strategy").text(strategy);
    }
}

/// Go's zero value, published where the field is never left out.
fn default_of(field: &Field) -> Option<&'static str> {
    match field.ty {
        Type::Struct(_) if field.always => Some("{}"),
        ty if field.required => zero(ty),
        _ => None,
    }
}

fn zero(ty: Type) -> Option<&'static str> {
    match ty {
        Type::String => Some("\"\""),
        Type::Bool => Some("false"),
        Type::Int32 | Type::Int64 | Type::Double => Some("0"),
        Type::Struct(_) => Some("{}"),
        _ => None,
    }
}

fn shape(w: &mut Writer, ty: Type) {
    match ty {
        Type::String => w.raw_fields(&[("type", "\"string\"")]),
        Type::Bytes => w.raw_fields(&[("type", "\"string\""), ("format", "\"byte\"")]),
        Type::Bool => w.raw_fields(&[("type", "\"boolean\"")]),
        Type::Int32 => w.raw_fields(&[("type", "\"integer\""), ("format", "\"int32\"")]),
        Type::Int64 => w.raw_fields(&[("type", "\"integer\""), ("format", "\"int64\"")]),
        Type::Double => w.raw_fields(&[("type", "\"number\""), ("format", "\"double\"")]),
        Type::List(_) => {
            w.field("type").text("array");
            w.field("items").object(|w| element(w, ty.item()));
        }
        Type::Map(_) => {
            w.field("type").text("object");
            w.field("additionalProperties").object(|w| element(w, ty.item()));
        }
        // A reference beside other keywords must stand in `allOf`.
        _ => {
            let name = name_of(ty).unwrap_or_default();
            w.field("allOf")
                .array(|w| w.object(|w| w.field("$ref").text(&format!("#/components/schemas/{name}"))));
        }
    }
}

fn element(w: &mut Writer, ty: Option<Type>) {
    let Some(ty) = ty else { return };
    match (zero(ty), name_of(ty)) {
        (Some(zero), _) => {
            shape(w, ty);
            w.field("default").raw(zero);
        }
        (None, Some(name)) => w.field("$ref").text(&format!("#/components/schemas/{name}")),
        (None, None) => shape(w, ty),
    }
}

impl Writer {
    fn raw_fields(&mut self, fields: &[(&str, &str)]) {
        for (name, json) in fields {
            self.field(name).raw(json);
        }
    }
}
