//! What there is: aggregated discovery (v2 and v2beta1), the legacy lists, groups and versions. Pure but for the
//! documents, which are made once.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use catamaran_api::kind::{self, Group, Resource, Verb};
use catamaran_api::status::Status;

use crate::body::{self, Body};
use crate::custom::Catalog;
use crate::error;
use crate::negotiate::{self, MediaRange};

/// The resources of a group version.
pub(crate) fn resources(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    kind::resources().iter().filter(move |r| r.group == group && r.version == version)
}

/// The groups but for core, in order: those of custom resources come last.
fn groups(catalog: &Catalog) -> impl Iterator<Item = &Group> {
    let built_in: &[Group] = kind::groups();
    built_in.iter().filter(|group| !group.name.is_empty()).chain(&catalog.groups)
}

/// The resources of a group version, custom ones included.
fn all_resources(catalog: &Catalog, group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    resources(group, version).chain(catalog.of(group, version))
}

/// A form of the discovery of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    V2,
    V2Beta1,
    Legacy,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Form::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Form::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            Form::Legacy => "application/json",
        }
    }
}

struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// The documents of `/api` and `/apis` in every form.
pub(crate) struct Discovery(HashMap<(Form, bool), Document>);

impl Discovery {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        let mut documents = HashMap::new();
        for core in [true, false] {
            for form in [Form::V2, Form::V2Beta1, Form::Legacy] {
                let value = match (form, core) {
                    (Form::V2, core) => aggregated("v2", core, catalog),
                    (Form::V2Beta1, core) => aggregated("v2beta1", core, catalog),
                    (Form::Legacy, true) => json!({
                        "kind": "APIVersions", "versions": ["v1"],
                        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
                    }),
                    (Form::Legacy, false) => json!({
                        "kind": "APIGroupList", "apiVersion": "v1", "groups": groups(catalog).map(group).collect::<Vec<_>>(),
                    }),
                };
                let bytes = Bytes::from(value.to_string());
                documents.insert((form, core), Document { etag: etag(&bytes), bytes });
            }
        }
        Discovery(documents)
    }

    /// `/api` (`core`) or `/apis`, in the first form that the caller accepts.
    pub(crate) fn everything(&self, core: bool, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let entries = negotiate::accept_entries(headers);
        let form = if entries.is_empty() { Some(Form::Legacy) } else { entries.iter().find_map(form) };
        let form = form.ok_or_else(|| Status::not_acceptable(&["application/json"]))?;
        let document = &self.0[&(form, core)];
        let mut response = body::typed(200, form.content_type(), "");
        let known = body::is_known(headers, document.etag.to_str().unwrap_or_default());
        if known {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        } else {
            body::compress(&mut response, document.bytes.clone(), body::takes_gzip(headers));
        }
        let out = response.headers_mut();
        out.insert(header::ETAG, document.etag.clone());
        out.append(header::VARY, HeaderValue::from_static("Accept"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        Ok(response)
    }

    /// `/apis/GROUP`.
    pub(crate) fn group(catalog: &Catalog, name: &str) -> Response<Body> {
        match groups(catalog).find(|group| group.name == name) {
            Some(found) => {
                let mut value = group(found);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                body::json(200, value.to_string())
            }
            None => error::page_not_found(),
        }
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub(crate) fn group_version(catalog: &Catalog, group: &str, version: &str) -> Response<Body> {
        let list: Vec<Value> = all_resources(catalog, group, version).flat_map(legacy).collect();
        if list.is_empty() {
            return error::page_not_found();
        }
        let value = json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": kind::api_version(group, version), "resources": list,
        });
        body::json(200, value.to_string())
    }
}

/// Asks exactly: a form is only served to those who name it.
fn form(entry: &MediaRange<'_>) -> Option<Form> {
    let all = entry.name == "*/*" || entry.name == "application/*";
    if all {
        return Some(Form::Legacy);
    }
    if entry.name != "application/json" {
        return None;
    }
    match (entry.parameter("g"), entry.parameter("v"), entry.parameter("as")) {
        (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => Some(Form::V2),
        (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => Some(Form::V2Beta1),
        (None, _, None) => Some(Form::Legacy),
        _ => None,
    }
}

fn etag(bytes: &[u8]) -> HeaderValue {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).expect("hexadecimal digits in quotes")
}

fn group(group: &Group) -> Value {
    let version =
        |version: &&str| json!({"groupVersion": kind::api_version(group.name, version), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

/// Entries of an `APIResourceList`: the resource and its subresources.
fn legacy(resource: &'static Resource) -> impl Iterator<Item = Value> {
    let mut entry = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced(),
        "kind": resource.kind, "verbs": verbs(resource.verbs),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.into();
    }
    if matches!(resource.storage, kind::Storage::At { .. }) {
        // Clients compare it; any text that changes with the resource's form will do.
        let hash = Sha256::digest(format!("{}/{}/{}", resource.group, resource.version, resource.kind));
        entry["storageVersionHash"] =
            base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &hash[..8]).into();
    }
    let subresources = resource.subresources.iter().map(move |sub| {
        let mut entry = json!({
            "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
            "namespaced": resource.namespaced(), "kind": sub.kind.kind, "verbs": verbs(sub.verbs),
        });
        if (sub.kind.group, sub.kind.version) != (resource.group, resource.version) {
            entry["group"] = sub.kind.group.into();
            entry["version"] = sub.kind.version.into();
        }
        entry
    });
    std::iter::once(entry).chain(subresources)
}

fn aggregated(version: &str, core: bool, catalog: &Catalog) -> Value {
    let chosen: Vec<&Group> = if core {
        kind::groups().iter().filter(|group| group.name.is_empty()).collect()
    } else {
        groups(catalog).collect()
    };
    let items: Vec<Value> = chosen
        .into_iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| aggregated_version(group.name, version, catalog))
                .collect();
            let metadata = if group.name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group.name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_version(group: &str, version: &str, catalog: &Catalog) -> Value {
    let entries: Vec<Value> = all_resources(catalog, group, version)
        .map(|resource| {
            let mut entry = json!({
                "resource": resource.plural, "singularResource": resource.singular,
                "responseKind": response_kind(resource.group, resource.version, resource.kind),
                "scope": if resource.namespaced() { "Namespaced" } else { "Cluster" },
                "verbs": verbs(resource.verbs),
            });
            if !resource.short_names.is_empty() {
                entry["shortNames"] = resource.short_names.into();
            }
            if !resource.categories.is_empty() {
                entry["categories"] = resource.categories.into();
            }
            let subs: Vec<Value> = resource
                .subresources
                .iter()
                .map(|sub| {
                    json!({
                        "subresource": sub.name, "verbs": verbs(sub.verbs),
                        "responseKind": response_kind(sub.kind.group, sub.kind.version, sub.kind.kind),
                    })
                })
                .collect();
            if !subs.is_empty() {
                entry["subresources"] = subs.into();
            }
            entry
        })
        .collect();
    json!({"version": version, "resources": entries, "freshness": "Current"})
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())])
    }

    #[test]
    fn each_client_gets_the_form_it_names() {
        let discovery = Discovery::new(&Catalog::default());
        let v2 = Form::V2.content_type();
        let beta = Form::V2Beta1.content_type();
        let table = [
            (format!("{v2},{beta},application/json"), v2),
            (format!("{beta},application/json"), beta),
            ("application/json".to_owned(), "application/json"),
            ("*/*".to_owned(), "application/json"),
            ("application/json, */*".to_owned(), "application/json"),
        ];
        for (value, expected) in table {
            for core in [true, false] {
                let response = discovery.everything(core, &accept(&value)).unwrap();
                assert_eq!(response.headers()[header::CONTENT_TYPE], expected, "{value}");
            }
        }
        assert_eq!(discovery.everything(true, &accept("text/html")).unwrap_err().code, 406);
    }

    #[test]
    fn known_documents_are_not_sent_again() {
        let discovery = Discovery::new(&Catalog::default());
        let first = discovery.everything(false, &HeaderMap::new()).unwrap();
        let known = HeaderMap::from_iter([(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone())]);
        assert_eq!(discovery.everything(false, &known).unwrap().status(), 304);
    }

    #[test]
    fn subresources_say_what_they_are() {
        let entries: Vec<Value> = resources("apps", "v1").flat_map(legacy).collect();
        let scale = entries.iter().find(|entry| entry["name"] == "deployments/scale").unwrap();
        assert_eq!((&scale["group"], &scale["kind"]), (&"autoscaling".into(), &"Scale".into()));
        let pods: Vec<Value> = resources("", "v1").flat_map(legacy).collect();
        let eviction = pods.iter().find(|entry| entry["name"] == "pods/eviction").unwrap();
        assert_eq!(eviction["group"], "policy");
        assert!(groups(&Catalog::default()).any(|group| group.name == "metrics.k8s.io"));
    }
}
