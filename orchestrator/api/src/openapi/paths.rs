//! `paths`: an item for each collection, object and subresource, with its operations.

use super::schemas::{kind, reference};
use super::writer::Writer;
use crate::kind::{self as kinds, GroupVersionKind, Resource, Subresource, Verb};

const STATUS: GroupVersionKind = GroupVersionKind { group: "", version: "v1", kind: "Status" };
const DELETE_OPTIONS: GroupVersionKind = GroupVersionKind { group: "", version: "v1", kind: "DeleteOptions" };

/// What a path addresses.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    /// `/pods`: over all namespaces.
    All,
    /// `/namespaces/{namespace}/pods`, or a cluster-wide collection.
    Collection,
    /// One object.
    Object,
    /// Something below an object.
    Below(&'static Subresource),
}

pub(super) fn write(w: &mut Writer, group: &str, version: &str, resources: &[&Resource]) {
    let root = kinds::root_path(group, version);
    w.field(&format!("{root}/")).object(|w| discovery(w, group, version));
    for resource in resources {
        let scope = if resource.namespaced() { "/namespaces/{namespace}" } else { "" };
        let plural = resource.plural;
        let collection = format!("{root}{scope}/{plural}");
        if resource.namespaced() && resource.allows(Verb::List) {
            item(w, &format!("{root}/{plural}"), resource, Level::All);
        }
        item(w, &collection, resource, Level::Collection);
        if resource.allows(Verb::Get) {
            item(w, &format!("{collection}/{{name}}"), resource, Level::Object);
        }
        for sub in resource.subresources {
            let path = format!("{collection}/{{name}}/{}", sub.name);
            item(w, &path, resource, Level::Below(sub));
            if sub.name == "proxy" {
                item(w, &format!("{path}/{{path}}"), resource, Level::Below(sub));
            }
        }
    }
}

fn discovery(w: &mut Writer, group: &str, version: &str) {
    w.field("get").object(|w| {
        w.field("tags").texts([tag(group, version).as_str()]);
        w.field("description").text("get available resources");
        w.field("operationId").text(&format!("get{}APIResources", camel(group, version)));
        w.field("responses").object(|w| {
            w.field("200").object(|w| {
                w.field("description").text("OK");
                let list = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";
                w.field("content")
                    .object(|w| content(w, &["application/json", "application/yaml"], Some(list)));
            });
            w.field("401").raw(r#"{"description":"Unauthorized"}"#);
        });
    });
}

/// HTTP method, verb in operation ids, `x-kubernetes-action`.
type Operation = (&'static str, &'static str, &'static str);

fn operations(resource: &Resource, level: Level) -> Vec<Operation> {
    let all: &[(Verb, Operation)] = match level {
        Level::All => &[(Verb::List, ("get", "list", "list"))],
        Level::Collection => &[
            (Verb::List, ("get", "list", "list")),
            (Verb::Create, ("post", "create", "post")),
            (Verb::DeleteCollection, ("delete", "deleteCollection", "deletecollection")),
        ],
        Level::Object => &[
            (Verb::Get, ("get", "read", "get")),
            (Verb::Update, ("put", "replace", "put")),
            (Verb::Patch, ("patch", "patch", "patch")),
            (Verb::Delete, ("delete", "delete", "delete")),
        ],
        Level::Below(sub) if is_connect(sub) => &[
            (Verb::Get, ("get", "connectGet", "connect")),
            (Verb::Create, ("post", "connectPost", "connect")),
            (Verb::Update, ("put", "connectPut", "connect")),
            (Verb::Patch, ("patch", "connectPatch", "connect")),
            (Verb::Delete, ("delete", "connectDelete", "connect")),
        ],
        Level::Below(_) => &[
            (Verb::Get, ("get", "read", "get")),
            (Verb::Create, ("post", "create", "post")),
            (Verb::Update, ("put", "replace", "put")),
            (Verb::Patch, ("patch", "patch", "patch")),
        ],
    };
    let verbs = if let Level::Below(sub) = level { sub.verbs } else { resource.verbs };
    all.iter().filter(|(verb, _)| verbs.contains(verb)).map(|(_, operation)| *operation).collect()
}

/// Streams and proxies: no body of the API goes through them.
fn is_connect(sub: &Subresource) -> bool {
    sub.kind.kind.ends_with("Options")
}

fn item(w: &mut Writer, path: &str, resource: &Resource, level: Level) {
    w.field(path).object(|w| {
        for operation in operations(resource, level) {
            w.field(operation.0).object(|w| write_operation(w, operation, path, resource, level));
        }
        w.field("parameters").array(|w| {
            for name in ["name", "namespace", "path"] {
                if path.contains(&format!("{{{name}}}")) {
                    path_parameter(w, name, resource);
                }
            }
            if !matches!(level, Level::Below(sub) if is_connect(sub)) {
                query(w, "pretty", "string", "If 'true', then the output is pretty printed.");
            }
        });
    });
}

fn write_operation(w: &mut Writer, operation: Operation, path: &str, resource: &Resource, level: Level) {
    let (method, verb, action) = operation;
    let body = match level {
        Level::Below(sub) => sub.kind,
        _ => resource.gvk(),
    };
    w.field("tags").texts([tag(resource.group, resource.version).as_str()]);
    w.field("description").text(&sentence(operation, resource, level));
    w.field("operationId").text(&operation_id(verb, path, resource, level));
    w.field("parameters").array(|w| parameters(w, operation, resource));
    match (action, method) {
        ("post" | "put", _) => request(w, body_types(resource), reference(resource, body), true),
        ("delete" | "deletecollection", _) => {
            request(w, body_types(resource), reference(resource, DELETE_OPTIONS), false);
        }
        ("patch", _) => {
            let patch = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned();
            // Lists of custom resources have no merge keys.
            let types = if resource.custom { &PATCH_TYPES[..3] } else { &PATCH_TYPES };
            request(w, types, Some(patch), true);
        }
        _ => {}
    }
    w.field("responses").object(|w| responses(w, operation, resource, body, level));
    w.field("x-kubernetes-action").text(action);
    w.field("x-kubernetes-group-version-kind");
    kind(w, body.group, body.version, body.kind);
}

fn body_types(resource: &Resource) -> &'static [&'static str] {
    if resource.custom { &["application/json", "application/yaml"] } else { &["*/*"] }
}

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const LIST_TYPES: [&str; 5] = [
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];

fn content(w: &mut Writer, types: &[&str], schema: Option<&str>) {
    for media in types {
        w.field(media).object(|w| {
            w.field("schema").object(|w| match schema {
                Some(schema) => w.field("$ref").text(schema),
                None => w.field("type").text("string"),
            });
        });
    }
}

fn request(w: &mut Writer, types: &[&str], schema: Option<String>, required: bool) {
    w.field("requestBody").object(|w| {
        w.field("content").object(|w| content(w, types, schema.as_deref()));
        if required {
            w.field("required").raw("true");
        }
    });
}

fn responses(
    w: &mut Writer,
    operation: Operation,
    resource: &Resource,
    body: GroupVersionKind,
    level: Level,
) {
    let (method, _, action) = operation;
    let is_log = matches!(level, Level::Below(sub) if sub.name == "log");
    let result = match action {
        "list" => GroupVersionKind { kind: resource.list_kind, ..body },
        // Only pods and few others come back from a deletion.
        "delete"
            if !matches!(
                resource.plural,
                "pods" | "services" | "serviceaccounts" | "persistentvolumeclaims"
            ) =>
        {
            STATUS
        }
        "deletecollection" => STATUS,
        _ => body,
    };
    let schema = if action == "connect" || is_log { None } else { reference(resource, result) };
    let types: &[&str] = match action {
        "connect" => &["*/*"],
        "get" if is_log => &["text/plain"],
        _ if resource.custom => &["application/json", "application/yaml"],
        "list" => &LIST_TYPES,
        _ => &TYPES,
    };
    let codes: &[(&str, &str)] = match method {
        _ if action == "connect" => &[("200", "OK")],
        "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("200", "OK"), ("201", "Created")],
        "delete" if action == "delete" => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    };
    for (code, text) in codes {
        w.field(code).object(|w| {
            w.field("description").text(text);
            w.field("content").object(|w| content(w, types, schema.as_deref()));
        });
    }
    w.field("401").raw(r#"{"description":"Unauthorized"}"#);
}

fn sentence((_, _, action): Operation, resource: &Resource, level: Level) -> String {
    let what = match level {
        Level::Below(sub) => format!("{} of the specified {}", sub.name, resource.kind),
        _ => format!("the specified {}", resource.kind),
    };
    match action {
        "list" => format!("list or watch objects of kind {}", resource.kind),
        "post" if level == Level::Collection => format!("create a {}", resource.kind),
        "post" => format!("create {what}"),
        "deletecollection" => format!("delete collection of {}", resource.kind),
        "delete" => format!("delete a {}", resource.kind),
        "get" => format!("read {what}"),
        "put" => format!("replace {what}"),
        "patch" => format!("partially update {what}"),
        _ => format!("connect requests to {what}"),
    }
}

fn operation_id(verb: &str, path: &str, resource: &Resource, level: Level) -> String {
    let scope = if path.contains("{namespace}") { "Namespaced" } else { "" };
    let (below, end) = match level {
        Level::All => (String::new(), "ForAllNamespaces"),
        Level::Below(sub) => (capital(sub.name), if path.ends_with("{path}") { "WithPath" } else { "" }),
        _ => (String::new(), ""),
    };
    format!("{verb}{}{scope}{}{below}{end}", camel(resource.group, resource.version), resource.kind)
}

fn parameters(w: &mut Writer, (_, _, action): Operation, resource: &Resource) {
    let list = |w: &mut Writer| {
        query(
            w,
            "labelSelector",
            "string",
            "A selector to restrict the list of returned objects by their labels.",
        );
        query(
            w,
            "fieldSelector",
            "string",
            "A selector to restrict the list of returned objects by their fields.",
        );
        query(w, "limit", "integer", "The maximum number of objects in one response.");
        query(w, "continue", "string", "The token with which a list of limited length goes on.");
        query(w, "resourceVersion", "string", "Which state of the cluster the response has to show.");
        query(w, "resourceVersionMatch", "string", "How resourceVersion is applied: Exact or NotOlderThan.");
        query(w, "timeoutSeconds", "integer", "How long a list or watch may take.");
    };
    let write = |w: &mut Writer| {
        query(w, "dryRun", "string", "When 'All', everything is done but the storing.");
        query(w, "fieldManager", "string", "The name of the actor that is making the change.");
        query(
            w,
            "fieldValidation",
            "string",
            "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        );
    };
    let delete = |w: &mut Writer| {
        query(w, "dryRun", "string", "When 'All', everything is done but the storing.");
        query(w, "gracePeriodSeconds", "integer", "The time that the object has to end; zero means at once.");
        query(w, "orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
        query(
            w,
            "propagationPolicy",
            "string",
            "What becomes of dependents: Orphan, Background or Foreground.",
        );
    };
    match action {
        "list" => {
            list(w);
            if resource.allows(Verb::Watch) {
                query(w, "watch", "boolean", "Stream changes instead of a list.");
                query(w, "allowWatchBookmarks", "boolean", "The client understands events of type BOOKMARK.");
                query(w, "sendInitialEvents", "boolean", "Begin a watch with the objects that there are.");
            }
        }
        "deletecollection" => {
            list(w);
            delete(w);
        }
        "delete" => delete(w),
        "post" | "put" => write(w),
        "patch" => {
            write(w);
            query(w, "force", "boolean", "Take fields of an apply request from other managers.");
        }
        _ => {}
    }
}

fn query(w: &mut Writer, name: &str, ty: &str, description: &str) {
    w.object(|w| {
        w.field("name").text(name);
        w.field("in").text("query");
        w.field("description").text(description);
        w.field("schema").object(|w| {
            w.field("type").text(ty);
            w.field("uniqueItems").raw("true");
        });
    });
}

fn path_parameter(w: &mut Writer, name: &str, resource: &Resource) {
    w.object(|w| {
        w.field("name").text(name);
        w.field("in").text("path");
        w.field("description").text(&match name {
            "name" => format!("name of the {}", resource.kind),
            "namespace" => "object name and auth scope, such as for teams and projects".to_owned(),
            _ => "path to the resource".to_owned(),
        });
        w.field("required").raw("true");
        w.field("schema").raw(r#"{"type":"string","uniqueItems":true}"#);
    });
}

/// `networking_v1`, `rbacAuthorization_v1`, `core_v1`.
fn tag(group: &str, version: &str) -> String {
    let name = camel_group(group);
    let mut chars = name.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    format!("{}{}_{version}", first.map(String::from).unwrap_or_default(), chars.as_str())
}

/// `NetworkingV1`, `RbacAuthorizationV1`, `CoreV1`.
fn camel(group: &str, version: &str) -> String {
    format!("{}{}", camel_group(group), capital(version))
}

fn camel_group(group: &str) -> String {
    match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "Core".to_owned(),
        name => name.split('.').map(capital).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
