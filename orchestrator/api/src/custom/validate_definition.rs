//! What is wrong with a CustomResourceDefinition (`apiextensions/validation`).

use serde_json::{Value, json};

use super::{status, structural};
use crate::field_error::{FieldError, Path};
use crate::{kind, meta, name};

type Errors = Vec<FieldError>;

const SPEC: Path<'static> = Path::root("spec");
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const SELECTABLE_FIELDS: usize = 8;
const APPROVAL: &str = "api-approved.kubernetes.io";
const ROOT_FIELDS: [&str; 23] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "additionalProperties",
];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What is wrong with a definition.
pub(crate) fn create(definition: &Value, errors: &mut Errors) {
    let spec = &definition["spec"];
    let group = text(spec, "group");
    let wanted = format!("{}.{group}", text(&spec["names"], "plural"));
    if meta::name(definition) != wanted {
        let detail = format!("must be spec.names.plural+\".\"+spec.group, expected {wanted}");
        errors.push(FieldError::invalid(&Path::root("metadata.name"), meta::name(definition), detail));
    }
    check_group(group, errors);
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid(&SPEC.child("preserveUnknownFields"), true, detail));
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required(&SPEC.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => {
            errors.push(FieldError::not_supported(&SPEC.child("scope"), other, &["Cluster", "Namespaced"]));
        }
    }
    names(&spec["names"], errors);
    versions(spec, errors);
    conversion(&spec["conversion"], errors);
    approval(definition, None, errors);
}

/// What is wrong with a change of a definition.
pub(crate) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let immutable = |place: &str| new["spec"].pointer(place) != old["spec"].pointer(place);
    let mut fixed = vec![("/group", "group"), ("/names/plural", "names.plural")];
    if status::is_established(old) {
        fixed.extend([("/scope", "scope"), ("/names/kind", "names.kind")]);
    }
    for (place, field) in fixed.into_iter().filter(|(place, _)| immutable(place)) {
        let value = new["spec"].pointer(place).cloned().unwrap_or_default();
        errors.push(FieldError::invalid(&SPEC.child(field), value, "field is immutable"));
    }
    stored_versions(new, errors);
    approval(new, Some(old), errors);
}

/// Objects may still lie in a version that was stored once; it stays until its name is taken off the status.
fn stored_versions(new: &Value, errors: &mut Errors) {
    let at = Path::root("status.storedVersions");
    let versions = list(&new["spec"], "versions");
    for (index, stored) in list(&new["status"], "storedVersions").iter().enumerate() {
        if versions.iter().all(|version| version["name"] != *stored) {
            let name = stored.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&at.index(index), stored.clone(), detail));
        }
    }
}

/// What is wrong with a change of a definition's status.
pub(crate) fn update_status(new: &Value, errors: &mut Errors) {
    let at = Path::root("status.storedVersions");
    let stored = list(&new["status"], "storedVersions");
    if stored.is_empty() {
        errors.push(FieldError::invalid(&at, json!(stored), "must have at least one stored version"));
        return;
    }
    for version in list(&new["spec"], "versions").iter().filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            let detail = format!("must have the storage version {}", text(version, "name"));
            errors.push(FieldError::invalid(&at, json!(stored), detail));
        }
    }
    stored_versions(new, errors);
}

fn check_group(group: &str, errors: &mut Errors) {
    let at = SPEC.child("group");
    let wrong = name::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(&at, group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(&at, group, "should be a domain with at least one dot"));
    } else if kind::groups().iter().any(|built_in| built_in.name == group) {
        let detail = "the server itself serves this group: custom resources need one of their own";
        errors.push(FieldError::invalid(&at, group, detail));
    }
}

fn names(names: &Value, errors: &mut Errors) {
    let path = SPEC.child("names");
    let mut check = |field: &str, value: &str, lower: bool| {
        let at = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&at, ""));
            return;
        }
        let wrong = name::dns1035_label(&if lower { value.to_lowercase() } else { value.to_owned() });
        if !wrong.is_empty() {
            let mixed = if lower { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(FieldError::invalid(&at, value, format!("{mixed}{}", wrong.join(","))));
        }
    };
    check("plural", text(names, "plural"), false);
    check("singular", text(names, "singular"), false);
    check("kind", text(names, "kind"), true);
    check("listKind", text(names, "listKind"), true);
    if text(names, "kind") == text(names, "listKind") && !text(names, "kind").is_empty() {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), text(names, "listKind"), detail));
    }
    for field in ["shortNames", "categories"] {
        let at = path.child(field);
        for (index, one) in list(names, field).iter().filter_map(Value::as_str).enumerate() {
            let wrong = name::dns1035_label(one);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&at.index(index), one, wrong.join(",")));
            }
        }
    }
}

fn versions(spec: &Value, errors: &mut Errors) {
    let path = SPEC.child("versions");
    let all = list(spec, "versions");
    for (index, version) in all.iter().enumerate() {
        let at = path.index(index);
        let name = text(version, "name");
        let wrong = name::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at.child("name"), name, wrong.join(",")));
        }
        if all[..index].iter().any(|other| other["name"] == version["name"]) {
            errors.push(FieldError::invalid(&path, name, "must contain unique version names"));
        }
        self::version(version, &at, errors);
    }
    let stored = all.iter().filter(|version| version["storage"] == true).count();
    if stored != 1 {
        let names: Vec<&str> = all.iter().map(|version| text(version, "name")).collect();
        errors.push(FieldError::invalid(
            &path,
            names,
            "must have exactly one version marked as storage version",
        ));
    }
}

fn version(version: &Value, path: &Path<'_>, errors: &mut Errors) {
    let warning = version.get("deprecationWarning").and_then(Value::as_str);
    if let Some(warning) = warning {
        let at = path.child("deprecationWarning");
        if version["deprecated"] != true {
            let detail = "can only be set for deprecated versions";
            errors.push(FieldError::invalid(&at, warning, detail));
        }
        if warning.len() > 256 {
            errors.push(FieldError::invalid(&at, warning, "must be <= 256 characters long"));
        }
        if warning.is_empty() || warning.chars().any(char::is_control) {
            let detail = "must only contain printable UTF-8 characters and may not be empty";
            errors.push(FieldError::invalid(&at, warning, detail));
        }
    }
    let (schema_at, open_api) = (path.child("schema"), &version["schema"]["openAPIV3Schema"]);
    let at = schema_at.child("openAPIV3Schema");
    if open_api.is_object() {
        errors.extend(structural::check(open_api, &at));
        root(open_api, version["subresources"]["status"].is_object(), &at, errors);
    } else {
        errors.push(FieldError::required(&at, ""));
    }
    columns(list(version, "additionalPrinterColumns"), &path.child("additionalPrinterColumns"), errors);
    selectable(list(version, "selectableFields"), open_api, &path.child("selectableFields"), errors);
    if version["subresources"]["scale"].is_object() {
        let subresources = path.child("subresources");
        scale(&version["subresources"]["scale"], &subresources.child("scale"), errors);
    }
}

fn root(schema: &Value, has_status: bool, path: &Path<'_>, errors: &mut Errors) {
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let fields = schema.as_object().into_iter().flatten();
    let mut others = fields.map(|(name, _)| name.as_str()).filter(|name| !ROOT_FIELDS.contains(name));
    if let (true, Some(name)) = (has_status, others.next()) {
        let detail = format!(
            "{name} is not allowed at the root of the schema if the status subresource is enabled; only {} are",
            ROOT_FIELDS.join(", ")
        );
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn columns(columns: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (index, column) in columns.iter().enumerate() {
        let at = path.index(index);
        if text(column, "name").is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        let words = format!("must be one of {}", COLUMN_TYPES.join(","));
        match text(column, "type") {
            "" => errors.push(FieldError::required(&at.child("type"), words)),
            ty if !COLUMN_TYPES.contains(&ty) => {
                errors.push(FieldError::invalid(&at.child("type"), ty, words));
            }
            _ => {}
        }
        let format = text(column, "format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let words = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(FieldError::invalid(&at.child("format"), format, words));
        }
        match text(column, "jsonPath") {
            "" => errors.push(FieldError::required(&at.child("JSONPath"), "")),
            json_path => {
                simple_path(json_path, &at.child("JSONPath"), errors);
                if let Err(why) = super::jsonpath::JsonPath::parse(json_path) {
                    errors.push(FieldError::invalid(&at.child("JSONPath"), json_path, why));
                }
            }
        }
    }
}

fn simple_path(json_path: &str, at: &Path<'_>, errors: &mut Errors) -> bool {
    if !json_path.starts_with('.') {
        errors.push(FieldError::invalid(at, json_path, "must be a simple json path starting with ."));
        return false;
    }
    true
}

fn selectable(selectable: &[Value], schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, field) in selectable.iter().enumerate() {
        let place = path.index(index);
        let at = place.child("jsonPath");
        let json_path = text(field, "jsonPath");
        if json_path.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let parts: Vec<&str> = json_path.trim_start_matches('.').split('.').collect();
        let found = parts.iter().try_fold(schema, |schema, part| schema.get("properties")?.get(*part));
        if !json_path.starts_with('.') || parts.iter().any(|part| part.is_empty()) {
            errors.push(FieldError::invalid(
                &at,
                json_path,
                "is an invalid path: must be dot separated fields",
            ));
        } else if parts[0] == "metadata" {
            errors.push(FieldError::invalid(&at, json_path, "must not point to fields in metadata"));
        } else {
            match found.map(|schema| text(schema, "type")) {
                None => {
                    let detail = "is an invalid path: does not refer to a valid field";
                    errors.push(FieldError::invalid(&at, json_path, detail));
                }
                Some("string" | "boolean" | "integer") => {}
                Some(_) => {
                    let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                    errors.push(FieldError::invalid(&at, json_path, detail));
                }
            }
        }
        if selectable[..index].iter().any(|other| text(other, "jsonPath") == json_path) {
            errors.push(FieldError::duplicate(&at, json_path));
        }
    }
    if selectable.len() > SELECTABLE_FIELDS {
        errors.push(FieldError::too_many(path, selectable.len(), SELECTABLE_FIELDS));
    }
}

fn scale(scale: &Value, path: &Path<'_>, errors: &mut Errors) {
    let table: [(&str, bool, &[&str], &str); 3] = [
        ("specReplicasPath", true, &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", true, &[".status."], "should be a json path under .status"),
        (
            "labelSelectorPath",
            false,
            &[".spec.", ".status."],
            "should be a json path under either .spec or .status",
        ),
    ];
    for (field, required, prefixes, detail) in table {
        let (at, value) = (path.child(field), text(scale, field));
        if value.is_empty() {
            if required {
                errors.push(FieldError::required(&at, ""));
            }
        } else if simple_path(value, &at, errors) && !prefixes.iter().any(|prefix| value.starts_with(prefix))
        {
            errors.push(FieldError::invalid(&at, value, detail));
        }
    }
}

fn conversion(conversion: &Value, errors: &mut Errors) {
    let path = SPEC.child("conversion");
    let (client_at, versions_at) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let webhook = &conversion["webhook"];
    let reviews = list(webhook, "conversionReviewVersions");
    match text(conversion, "strategy") {
        "" => errors.push(FieldError::required(&path.child("strategy"), "")),
        "None" if webhook.is_object() => {
            let detail = "should not be set when strategy is not set to Webhook";
            errors.push(FieldError::forbidden(&client_at, detail));
        }
        "None" => {}
        "Webhook" => {
            let client = &webhook["clientConfig"];
            let service = client["service"].is_object();
            if !client.is_object() {
                errors.push(FieldError::required(&client_at, "required when strategy is set to Webhook"));
            } else if service == client["url"].is_string() {
                errors.push(FieldError::required(&client_at, "exactly one of url or service is required"));
            } else if !service && !text(client, "url").starts_with("https://") {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(FieldError::invalid(&client_at.child("url"), text(client, "url"), detail));
            } else if service {
                for field in
                    ["name", "namespace"].into_iter().filter(|f| text(&client["service"], f).is_empty())
                {
                    errors.push(FieldError::required(&client_at.child("service").child(field), ""));
                }
            }
            if reviews.is_empty() {
                errors.push(FieldError::required(&versions_at, ""));
            } else if !reviews.iter().any(|version| version == "v1" || version == "v1beta1") {
                let detail = "must include at least one of v1, v1beta1";
                errors.push(FieldError::invalid(&versions_at, json!(reviews), detail));
            }
        }
        other => {
            let allowed = ["None", "Webhook"];
            errors.push(FieldError::not_supported(&path.child("strategy"), other, &allowed));
        }
    }
}

/// Groups of the Kubernetes community say where they were approved (KEP-1111).
fn approval(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let group = text(&new["spec"], "group");
    let protected = |suffix: &str| group == suffix.trim_start_matches('.') || group.ends_with(suffix);
    if ![".k8s.io", ".kubernetes.io"].iter().any(|suffix| protected(suffix)) {
        return;
    }
    let state = |definition: &Value| meta::annotation(definition, APPROVAL).map(str::to_owned);
    let said = state(new);
    if old.is_some_and(|old| state(old) == said) {
        return;
    }
    let metadata = Path::root("metadata");
    let annotations = metadata.child("annotations");
    let at = annotations.key(APPROVAL);
    match said.as_deref() {
        None => {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            errors.push(FieldError::required(&at, detail));
        }
        Some(text) if text.starts_with("unapproved") || text.contains("://") => {}
        Some(other) => {
            let detail = format!(
                "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111: {other:?}"
            );
            errors.push(FieldError::invalid(&at, other, detail));
        }
    }
}
