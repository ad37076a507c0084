//! Whether the schema of a version is structural, and only says what a definition may say (KEP-1111;
//! `apiextensions/validation`, `apiserver/schema/validation.go`).

use serde_json::{Map, Value};

mod alternatives;

use alternatives::{complete, values};

use super::rules;
use super::schema::Schema;
use crate::field_error::{FieldError, Path};

type Errors = Vec<FieldError>;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Where in the schema a node is.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What holds for a node because of those above it.
#[derive(Clone, Copy)]
struct Around<'a> {
    level: Level,
    /// Why there may be no default.
    no_default: Option<&'a str>,
    inside_meta: bool,
    /// The place where the old value of a node is lost, if it is.
    uncorrelated: Option<&'a str>,
}

/// Everything that is wrong with the schema at `path`.
pub(super) fn check(schema: &Value, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let around = Around { level: Level::Root, no_default: None, inside_meta: false, uncorrelated: None };
    node(schema, path, around, &mut errors);
    complete(schema, schema, path, &mut errors);
    if errors.is_empty() {
        defaults(schema, path, &mut errors);
    }
    errors.sort_by_key(ToString::to_string);
    errors.dedup();
    errors
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn fields<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn object<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|value| value.is_object())
}

fn node(schema: &Value, path: &Path<'_>, around: Around<'_>, errors: &mut Errors) {
    unsupported(schema, path, around, errors);
    own_type(schema, path, around.level, errors);
    extensions(schema, path, errors);
    lists(schema, path, errors);
    if around.level == Level::Root || flag(schema, "x-kubernetes-embedded-resource") {
        type_meta(schema, path, around.level, errors);
    }
    rules::check_definition(schema, path, around.uncorrelated, errors);
    values(schema, path, &mut |nested, path, errors| unsupported(nested, path, around, errors), errors);
    below(schema, path, around, errors);
}

fn below(schema: &Value, path: &Path<'_>, around: Around<'_>, errors: &mut Errors) {
    let here = path.to_string();
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let map_is_atomic = text(schema, "x-kubernetes-map-type") == "atomic";
    let properties = path.child("properties");
    for (name, property) in fields(schema, "properties") {
        let in_root = around.level == Level::Root;
        let meta = (in_root || embedded) && META.contains(&name.as_str());
        let why = format!("in top-level {name}");
        let around = Around {
            level: Level::Field,
            no_default: around.no_default.or((meta && in_root).then_some(why.as_str())),
            inside_meta: around.inside_meta || meta,
            uncorrelated: around.uncorrelated.or(map_is_atomic.then_some(here.as_str())),
        };
        if !(in_root && name == "metadata") {
            node(property, &properties.key(name), around, errors);
        }
    }
    if let Some(additional) = object(schema, "additionalProperties") {
        let why = "inside additionalProperties applying to object metadata";
        let around = Around {
            level: Level::Field,
            no_default: around.no_default.or(around.inside_meta.then_some(why)),
            ..around
        };
        node(additional, &path.child("additionalProperties"), around, errors);
    }
    if let Some(items) = object(schema, "items") {
        let keyed = text(schema, "x-kubernetes-list-type") == "map";
        let uncorrelated = around.uncorrelated.or((!keyed).then_some(here.as_str()));
        node(items, &path.child("items"), Around { level: Level::Item, uncorrelated, ..around }, errors);
    }
}

/// What a definition may not say at all.
fn unsupported(schema: &Value, path: &Path<'_>, around: Around<'_>, errors: &mut Errors) {
    let ty = text(schema, "type");
    if ty == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), detail));
    } else if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
    }
    if let (Some(why), Some(_)) = (around.no_default, schema.get("default")) {
        errors.push(FieldError::forbidden(&path.child("default"), format!("must not be set {why}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if schema.get(name).is_some_and(|value| !value.is_null()) {
            errors.push(FieldError::forbidden(&path.child(name), format!("{name} is not supported")));
        }
    }
    if schema.get("items").is_some_and(Value::is_array) {
        errors.push(FieldError::forbidden(
            &path.child("items"),
            "items must be a schema object and not an array",
        ));
    }
    if around.inside_meta && flag(schema, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        errors.push(FieldError::forbidden(&path.child("x-kubernetes-embedded-resource"), detail));
    }
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), detail));
    }
    let additional = schema.get("additionalProperties").filter(|value| !value.is_null() && **value != true);
    if additional.is_some() && fields(schema, "properties").next().is_some() {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), detail));
    }
}

fn own_type(schema: &Value, path: &Path<'_>, level: Level, errors: &mut Errors) {
    let ty = text(schema, "type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let free =
        flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
    let at = path.child("type");
    if ty == "array" && schema.get("items").is_none_or(Value::is_null) {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(&at, detail),
            ty => FieldError::invalid(&at, ty, detail),
        });
    } else if ty.is_empty() && !free {
        errors.push(FieldError::required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(&at, ty, "must be object at the root"));
    }
    if schema.get("additionalProperties").is_some_and(|value| !value.is_null()) {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        if embedded {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
}

fn extensions(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
    const EMBEDDED: &str = "x-kubernetes-embedded-resource";
    if flag(schema, "x-kubernetes-int-or-string") {
        for name in [PRESERVE, EMBEDDED].into_iter().filter(|name| flag(schema, name)) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(name), true, detail));
        }
    }
    if schema.get(PRESERVE).and_then(Value::as_bool) == Some(false) {
        errors.push(FieldError::invalid(&path.child(PRESERVE), false, "must be true or undefined"));
    }
    if flag(schema, EMBEDDED) && !flag(schema, PRESERVE) && fields(schema, "properties").next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), detail));
    }
    let (ty, map_type) = (text(schema, "type"), text(schema, "x-kubernetes-map-type"));
    if !map_type.is_empty() {
        type_must_be("object", ty, "x-kubernetes-map-type", path, errors);
        if !["atomic", "granular"].contains(&map_type) {
            let at = path.child("x-kubernetes-map-type");
            errors.push(FieldError::not_supported(&at, map_type, &["atomic", "granular"]));
        }
    }
}

fn type_must_be(wanted: &str, ty: &str, because: &str, path: &Path<'_>, errors: &mut Errors) {
    let detail = format!("must be {wanted} if {because} is specified");
    match ty {
        "" => errors.push(FieldError::required(&path.child("type"), detail)),
        ty if ty != wanted => errors.push(FieldError::invalid(&path.child("type"), ty, detail)),
        _ => {}
    }
}

fn lists(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list_type = text(schema, "x-kubernetes-list-type");
    let keys: Vec<&str> =
        list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    let (type_at, keys_at) = (path.child("x-kubernetes-list-type"), path.child("x-kubernetes-list-map-keys"));
    let items_at = path.child("items");
    if !keys.is_empty() && list_type != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            "" => FieldError::required(&type_at, detail),
            other => FieldError::invalid(&type_at, other, detail),
        });
    }
    if list_type.is_empty() {
        return;
    }
    type_must_be("array", text(schema, "type"), "x-kubernetes-list-type", path, errors);
    let items = object(schema, "items");
    match list_type {
        "atomic" => return,
        "set" => {
            if let Some(items) = items {
                set_items(items, &items_at, errors);
            }
        }
        "map" => {
            if keys.is_empty() {
                let detail = "must not be empty if x-kubernetes-list-type is map";
                errors.push(FieldError::required(&keys_at, detail));
            }
            match items {
                None => errors.push(FieldError::required(
                    &items_at,
                    "must have a schema if x-kubernetes-list-type is map",
                )),
                Some(items) => map_items(items, &keys, (&items_at, &keys_at), errors),
            }
        }
        other => errors.push(FieldError::not_supported(&type_at, other, &["atomic", "map", "set"])),
    }
    if items.is_some_and(|items| flag(items, "nullable")) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&items_at.child("nullable"), detail));
    }
}

fn set_items(items: &Value, path: &Path<'_>, errors: &mut Errors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = text(items, "x-kubernetes-list-type");
    if text(items, "type") == "array" && !matches!(list_type, "" | "atomic") {
        errors.push(FieldError::invalid(&path.child("x-kubernetes-list-type"), list_type, detail));
    }
    let map_type = text(items, "x-kubernetes-map-type");
    if text(items, "type") == "object" && map_type != "atomic" {
        errors.push(FieldError::invalid(&path.child("x-kubernetes-map-type"), map_type, detail));
    }
}

fn map_items(items: &Value, keys: &[&str], (path, keys_at): (&Path<'_>, &Path<'_>), errors: &mut Errors) {
    let ty = text(items, "type");
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&path.child("type"), ty, detail));
    }
    let properties = path.child("properties");
    for (index, key) in keys.iter().enumerate() {
        if keys[..index].contains(key) {
            errors.push(FieldError::invalid(keys_at, keys.to_vec(), "must not contain duplicate entries"));
        }
        let Some(property) = items.get("properties").and_then(|all| all.get(*key)) else {
            errors.push(FieldError::invalid(
                keys_at,
                keys.to_vec(),
                "entries must all be names of item properties",
            ));
            continue;
        };
        let at = properties.key(key);
        if matches!(text(property, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&at.child("type"), text(property, "type"), detail));
        }
        let required = list(items, "required").iter().any(|name| name == key);
        if !required && property.get("default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&at.child("default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(&at.child("nullable"), detail));
        }
    }
}

/// Kind, version and metadata of an object are what they are; a schema may only restrict the name.
fn type_meta(schema: &Value, path: &Path<'_>, level: Level, errors: &mut Errors) {
    let properties = path.child("properties");
    let of = |name: &str| schema.get("properties").and_then(|all| all.get(name));
    for name in ["kind", "apiVersion"] {
        if let Some(property) = of(name).filter(|property| text(property, "type") != "string") {
            let at = properties.key(name);
            errors.push(FieldError::invalid(&at.child("type"), text(property, "type"), "must be string"));
        }
    }
    let Some(metadata) = of("metadata") else { return };
    let at = properties.key("metadata");
    if text(metadata, "type") != "object" {
        errors.push(FieldError::invalid(&at.child("type"), text(metadata, "type"), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let nothing = Map::new();
    let said = metadata.as_object().unwrap_or(&nothing);
    let more = said.keys().any(|name| !matches!(name.as_str(), "type" | "properties" | "description"));
    let names = ["name", "generateName"];
    if more || fields(metadata, "properties").any(|(name, _)| !names.contains(&name.as_str())) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(&at, detail));
    }
}

/// Defaults satisfy the schema that they stand in.
fn defaults(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let at = path.child("default");
        let place = at.to_string();
        match Schema::compile(schema) {
            Ok(compiled) => one_default(&compiled, default, &at, &place, errors),
            Err(why) => errors.push(FieldError::invalid(path, "", why)),
        }
    }
    let properties = path.child("properties");
    for (name, property) in fields(schema, "properties") {
        defaults(property, &properties.key(name), errors);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = object(schema, name) {
            defaults(below, &path.child(name), errors);
        }
    }
}

fn one_default(schema: &Schema, default: &Value, at: &Path<'_>, place: &str, errors: &mut Errors) {
    let mut pruned = default.clone();
    if !super::prune::prune_below(schema, &mut pruned).is_empty() {
        errors.push(FieldError::invalid(at, default.clone(), "must not have unknown fields"));
    }
    let mut filled = default.clone();
    super::default(schema, &mut filled);
    for mut error in super::validate(schema, &filled, None) {
        let detail = std::mem::take(&mut error.detail);
        error.detail = detail.replace(&format!("{} in body", error.field), &format!("{place} in body"));
        error.field = match error.field.as_str() {
            "" | "<nil>" => place.to_owned(),
            below if below.starts_with('[') => format!("{place}{below}"),
            below => format!("{place}.{below}"),
        };
        errors.push(error);
    }
}
