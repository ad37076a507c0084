//! The matrix: every resource of the table × every verb × every subresource. The cells follow from the table; a cell
//! that nothing drives fails, and so does one whose answer is not what a client expects.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use catamaran_api::decode::{ContentType, Strictness, untyped};
use catamaran_api::kind::{self, Resource, Storage, Verb};
use catamaran_api::{protobuf, yaml};
use futures::FutureExt;
use http::Method;
use serde_json::{Value, json};

use crate::samples::{self, NAMESPACE};
use crate::support::{Api, Reply, version};

mod subresources;
mod transient;

/// Why a cell fails.
type Outcome = Result<(), String>;

/// Ends a cell when something does not hold.
macro_rules! ensure {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}
use ensure;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";

/// The four kinds of patches.
const PATCHES: [&str; 4] =
    ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"];

/// What is driven for a verb.
fn actions(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Create => &["create", "create as protobuf", "create as yaml", "create dry run"],
        Verb::Get => &["get", "get in every form"],
        Verb::List => &["list", "list in every form"],
        Verb::Watch => &["watch", "watch in every form"],
        Verb::Update => &["update", "update dry run"],
        Verb::Patch => &[
            "patch json-patch+json",
            "patch merge-patch+json",
            "patch strategic-merge-patch+json",
            "patch apply-patch+yaml",
            "patch dry run",
        ],
        Verb::Delete => &["delete", "delete dry run"],
        Verb::DeleteCollection => &["deletecollection", "deletecollection dry run"],
    }
}

/// One cell and what it is about.
struct Cell<'a> {
    api: &'a Api,
    resource: &'static Resource,
    subresource: &'static str,
    action: &'static str,
    /// The name and label of the objects of this cell.
    name: String,
}

#[tokio::test]
async fn every_resource_answers_every_verb() {
    let api = Api::new().await;
    prepare(&api).await;
    let mut failures = BTreeMap::new();
    let mut count = 0;
    for resource in kind::resources() {
        let main = resource.verbs.iter().map(|verb| ("", *verb));
        let below =
            resource.subresources.iter().flat_map(|sub| sub.verbs.iter().map(|verb| (sub.name, *verb)));
        for (subresource, verb) in main.chain(below) {
            for action in actions(verb) {
                count += 1;
                let cell = Cell { api: &api, resource, subresource, action, name: format!("cell-{count}") };
                // One bad cell is not to hide the others.
                let driven = AssertUnwindSafe(cell.drive()).catch_unwind().await;
                if let Err(why) = driven.unwrap_or_else(|_| Err("it panics, see above".into())) {
                    let gvr =
                        format!("{} {}/{subresource}: {action}", resource.api_version(), resource.plural);
                    failures.insert(gvr, why);
                }
            }
        }
    }
    assert!(count > 1000, "the table has shrunk to {count} cells");
    assert!(failures.is_empty(), "{} of {count} cells fail: {failures:#?}", failures.len());
}

async fn prepare(api: &Api) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.post("/api/v1/namespaces", &namespace).await.ok();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    api.post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await.ok();
}

impl Cell<'_> {
    async fn drive(&self) -> Outcome {
        let outcome = match (self.subresource, self.resource.storage) {
            (_, Storage::Transient) => transient::drive(self).await,
            ("", Storage::At { .. }) => self.drive_main().await,
            (_, Storage::At { .. }) => subresources::drive(self).await,
        };
        if matches!(self.resource.storage, Storage::At { .. }) {
            let grace = json!({"gracePeriodSeconds": 0});
            self.api.delete(&self.uri(), &grace).await;
        }
        outcome
    }

    async fn drive_main(&self) -> Outcome {
        match self.action {
            "create" => self.create().await,
            "create as protobuf" => self.create_as_protobuf().await,
            "create as yaml" => self.create_as_yaml().await,
            "create dry run" => self.create_dry_run().await,
            "get" => self.get().await,
            "get in every form" => self.get_forms().await,
            "list" => self.list().await,
            "list in every form" => self.list_forms().await,
            "watch" => self.watch().await,
            "watch in every form" => self.watch_forms().await,
            "update" => self.update().await,
            "update dry run" => self.update_dry_run().await,
            "patch dry run" => self.patch_dry_run().await,
            "delete" => self.delete().await,
            "delete dry run" => self.delete_dry_run().await,
            "deletecollection" => self.delete_collection().await,
            "deletecollection dry run" => self.delete_collection_dry_run().await,
            action => match PATCHES.iter().find(|kind| action.strip_prefix("patch ") == Some(**kind)) {
                Some(kind) => self.patch(kind).await,
                None => Err("no test drives this cell".into()),
            },
        }
    }

    /// The collection.
    fn collection(&self) -> String {
        collection(self.resource)
    }

    /// The object of this cell.
    fn uri(&self) -> String {
        format!("{}/{}", self.collection(), self.object_name())
    }

    fn object_name(&self) -> String {
        samples::object_name(self.resource, &self.name)
    }

    fn sample(&self) -> Value {
        samples::object(self.resource, &self.name, &self.name)
    }

    /// Makes the object of this cell.
    async fn made(&self) -> Result<Value, String> {
        expect(self.api.post(&self.collection(), &self.sample()).await, 201)
    }

    fn check_made(&self, made: &Value) -> Outcome {
        let metadata = &made["metadata"];
        ensure!(made["kind"] == self.resource.kind, "it is a {}", made["kind"]);
        ensure!(made["apiVersion"] == self.resource.api_version(), "it is of {}", made["apiVersion"]);
        ensure!(metadata["name"] == self.object_name(), "its name is {}", metadata["name"]);
        for field in ["uid", "creationTimestamp"] {
            ensure!(metadata[field].is_string(), "there is no {field}");
        }
        ensure!(metadata["managedFields"].is_array(), "nobody owns the fields");
        ensure!(!self.resource.status || made["status"].is_object(), "there is no status");
        ensure!(
            metadata["namespace"].is_string() == self.resource.namespaced(),
            "its namespace is {}",
            metadata["namespace"]
        );
        Ok(())
    }

    async fn create(&self) -> Outcome {
        let made = self.made().await?;
        self.check_made(&made)?;
        ensure!(made["metadata"]["resourceVersion"].is_string(), "there is no revision");
        let again = self.api.post(&self.collection(), &self.sample()).await;
        let status = expect(again, 409)?;
        ensure!(status["reason"] == "AlreadyExists", "a second one: {status}");
        ensure!(status["details"]["kind"] == self.resource.plural, "{status}");
        Ok(())
    }

    async fn create_as_protobuf(&self) -> Outcome {
        let body = protobuf::encode(&self.sample()).map_err(|error| error.to_string())?;
        let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
        let reply = self.api.send(Method::POST, &self.collection(), &headers, body).await;
        let made = decoded(&reply, 201)?;
        self.check_made(&made)?;
        let plain = expect(self.api.get(&self.uri()).await, 200)?;
        ensure!(plain == made, "as protobuf {made}, as JSON {plain}");
        Ok(())
    }

    async fn create_as_yaml(&self) -> Outcome {
        let headers = [("content-type", YAML)];
        let body = yaml::text(&self.sample()).into_bytes();
        let made = expect(self.api.send(Method::POST, &self.collection(), &headers, body).await, 201)?;
        self.check_made(&made)
    }

    async fn create_dry_run(&self) -> Outcome {
        let uri = format!("{}?dryRun=All", self.collection());
        let made = expect(self.api.post(&uri, &self.sample()).await, 201)?;
        self.check_made(&made)?;
        ensure!(made["metadata"]["resourceVersion"].is_null(), "it has a revision");
        expect(self.api.get(&self.uri()).await, 404).map(drop)
    }

    async fn get(&self) -> Outcome {
        let made = self.made().await?;
        let got = expect(self.api.get(&self.uri()).await, 200)?;
        ensure!(got == made, "made {made}, got {got}");
        let missing = expect(self.api.get(&format!("{}/missing", self.collection())).await, 404)?;
        let words = format!("{} \"missing\" not found", self.resource.group_resource());
        ensure!(missing["message"] == words, "{missing}");
        Ok(())
    }

    async fn get_forms(&self) -> Outcome {
        let made = self.made().await?;
        let uri = self.uri();
        let table = expect(self.api.get_as(&uri, TABLE).await, 200)?;
        check_table(&table, &[self.object_name()])?;
        let bare = expect(self.api.get_as(&uri, METADATA).await, 200)?;
        ensure!(bare["kind"] == "PartialObjectMetadata" && bare["metadata"] == made["metadata"], "{bare}");
        let message = decoded(&self.api.get_as(&uri, PROTOBUF).await, 200)?;
        ensure!(message == made, "as protobuf {message}, as JSON {made}");
        let text = read_yaml(&self.api.get_as(&uri, YAML).await)?;
        ensure!(text == made, "as YAML {text}, as JSON {made}");
        Ok(())
    }

    async fn list(&self) -> Outcome {
        let made = self.made().await?;
        let all = expect(self.api.get(&self.collection()).await, 200)?;
        ensure!(all["kind"] == self.resource.list_kind, "it is a {}", all["kind"]);
        ensure!(all["metadata"]["resourceVersion"].is_string(), "the list has no revision");
        for selector in [
            format!("labelSelector=matrix%3D{}", self.name),
            format!("fieldSelector=metadata.name%3D{}", self.object_name()),
        ] {
            let list = expect(self.api.get(&format!("{}?{selector}", self.collection())).await, 200)?;
            let items = list["items"].as_array().ok_or("no items")?;
            ensure!(items.len() == 1, "{selector} selects {}", items.len());
            ensure!(items[0]["metadata"] == made["metadata"], "{}", items[0]);
            ensure!(
                items[0].get("kind").is_none() && items[0].get("apiVersion").is_none(),
                "items have a kind"
            );
        }
        let unknown = self.api.get(&format!("{}?fieldSelector=spec.unknown%3D1", self.collection())).await;
        expect(unknown, 400).map(drop)
    }

    async fn list_forms(&self) -> Outcome {
        self.made().await?;
        let uri = format!("{}?labelSelector=matrix%3D{}", self.collection(), self.name);
        let plain = expect(self.api.get(&uri).await, 200)?;
        let table = expect(self.api.get_as(&uri, TABLE).await, 200)?;
        check_table(&table, &[self.object_name()])?;
        let bare = expect(self.api.get_as(&uri, METADATA).await, 200)?;
        ensure!(bare["kind"] == "PartialObjectMetadataList", "{bare}");
        ensure!(bare["items"][0]["metadata"] == plain["items"][0]["metadata"], "{bare}");
        let message = decoded(&self.api.get_as(&uri, PROTOBUF).await, 200)?;
        ensure!(message["items"] == plain["items"], "as protobuf {message}, as JSON {plain}");
        let text = read_yaml(&self.api.get_as(&uri, YAML).await)?;
        ensure!(text["items"] == plain["items"], "as YAML {text}, as JSON {plain}");
        Ok(())
    }

    async fn watch(&self) -> Outcome {
        let before = expect(self.api.get(&self.collection()).await, 200)?;
        let uri = format!(
            "{}?watch=true&labelSelector=matrix%3D{}&resourceVersion={}",
            self.collection(),
            self.name,
            version(&before)
        );
        let mut watch = self.api.watch(&uri).await;
        self.made().await?;
        let label = json!({"metadata": {"labels": {"more": "yes"}}});
        expect(self.api.patch("merge-patch+json", &self.uri(), &label).await, 200)?;
        let answer = expect(self.api.delete(&self.uri(), &json!({"gracePeriodSeconds": 0})).await, 200)?;
        let kinds = watch.kinds(3).await;
        let name = self.object_name();
        // What has finalizers is only changed by the deletion, even if it goes soon after.
        let held = answer["metadata"]["finalizers"].is_array() || self.api.get(&self.uri()).await.code != 404;
        let last = if held { "MODIFIED" } else { "DELETED" };
        let expected = [format!("ADDED {name}"), format!("MODIFIED {name}"), format!("{last} {name}")];
        ensure!(kinds == expected, "{kinds:?}");
        Ok(())
    }

    async fn watch_forms(&self) -> Outcome {
        let before = expect(self.api.get(&self.collection()).await, 200)?;
        let made = self.made().await?;
        let name = self.object_name();
        let uri = format!(
            "{}?watch=true&labelSelector=matrix%3D{}&resourceVersion={}",
            self.collection(),
            self.name,
            version(&before)
        );
        let event = self.api.watch_as(&uri, TABLE).await.next().await.ok_or("no Table")?;
        ensure!(event["type"] == "ADDED", "{event}");
        check_table(&event["object"], &[name])?;
        let event = self.api.watch_as(&uri, METADATA).await.next().await.ok_or("no metadata")?;
        ensure!(event["object"]["kind"] == "PartialObjectMetadata", "{event}");
        let (kind, object) =
            self.api.watch_as(&uri, PROTOBUF).await.next_message().await.ok_or("no message")?;
        let object = protobuf::decode(&object).map_err(|error| error.to_string())?;
        ensure!(kind == "ADDED" && object == made, "{kind} {object}");
        let code = self.api.get_as(&uri, YAML).await.code;
        ensure!(code == 406, "YAML has no stream: {code}");
        Ok(())
    }

    async fn update(&self) -> Outcome {
        let made = self.made().await?;
        let mut new = made.clone();
        new["metadata"]["labels"]["more"] = "yes".into();
        let updated = expect(self.api.put(&self.uri(), &new).await, 200)?;
        ensure!(updated["metadata"]["labels"]["more"] == "yes", "{updated}");
        ensure!(version(&updated) != version(&made), "nothing was written");
        ensure!(
            updated["metadata"]["generation"] == made["metadata"]["generation"],
            "labels are no desired state"
        );
        let same = expect(self.api.put(&self.uri(), &updated).await, 200)?;
        ensure!(version(&same) == version(&updated), "what changes nothing is written: {same}");
        let stale = expect(self.api.put(&self.uri(), &new).await, 409)?;
        ensure!(stale["reason"] == "Conflict", "{stale}");
        let mut blind = updated.clone();
        blind["metadata"]["resourceVersion"] = Value::Null;
        blind["metadata"]["labels"]["more"] = "no".into();
        let code = if self.resource.unconditional_update { 200 } else { 422 };
        expect(self.api.put(&self.uri(), &blind).await, code)?;
        let mut other = self.sample();
        other["metadata"]["name"] = "other".into();
        expect(self.api.put(&self.uri(), &other).await, 400).map(drop)
    }

    async fn update_dry_run(&self) -> Outcome {
        let made = self.made().await?;
        let mut new = made.clone();
        new["metadata"]["labels"]["more"] = "yes".into();
        let tried = expect(self.api.put(&format!("{}?dryRun=All", self.uri()), &new).await, 200)?;
        ensure!(tried["metadata"]["labels"]["more"] == "yes", "{tried}");
        self.unchanged(&made).await
    }

    /// Nothing was written since.
    async fn unchanged(&self, made: &Value) -> Outcome {
        let now = expect(self.api.get(&self.uri()).await, 200)?;
        ensure!(now == *made, "it was {made}, it is {now}");
        Ok(())
    }

    /// A patch that sets a label.
    fn labelling(&self, kind: &str) -> Value {
        match kind {
            "json-patch+json" => json!([{"op": "add", "path": "/metadata/labels/more", "value": "yes"}]),
            "apply-patch+yaml" => json!({
                "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
                "metadata": {"name": self.object_name(), "labels": {"more": "yes"}},
            }),
            _ => json!({"metadata": {"labels": {"more": "yes"}}}),
        }
    }

    async fn patch(&self, kind: &str) -> Outcome {
        let made = self.made().await?;
        let query = if kind == "apply-patch+yaml" { "?fieldManager=matrix" } else { "" };
        let uri = format!("{}{query}", self.uri());
        let patched = expect(self.api.patch(kind, &uri, &self.labelling(kind)).await, 200)?;
        ensure!(patched["metadata"]["labels"]["more"] == "yes", "{patched}");
        ensure!(patched["metadata"]["labels"]["matrix"] == self.name, "{patched}");
        ensure!(version(&patched) != version(&made), "nothing was written");
        let again = expect(self.api.patch(kind, &uri, &self.labelling(kind)).await, 200)?;
        ensure!(version(&again) == version(&patched), "a second time something was written: {again}");
        if kind != "apply-patch+yaml" {
            let missing = format!("{}/missing", self.collection());
            expect(self.api.patch(kind, &missing, &self.labelling(kind)).await, 404)?;
        }
        Ok(())
    }

    async fn patch_dry_run(&self) -> Outcome {
        let made = self.made().await?;
        for kind in PATCHES {
            let query = if kind == "apply-patch+yaml" { "&fieldManager=matrix" } else { "" };
            let uri = format!("{}?dryRun=All{query}", self.uri());
            let tried = expect(self.api.patch(kind, &uri, &self.labelling(kind)).await, 200)?;
            ensure!(tried["metadata"]["labels"]["more"] == "yes", "{kind}: {tried}");
        }
        self.unchanged(&made).await
    }

    async fn delete(&self) -> Outcome {
        let made = self.made().await?;
        let wrong = json!({"preconditions": {"uid": "another"}});
        expect(self.api.delete(&self.uri(), &wrong).await, 409)?;
        let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
        expect(self.api.delete(&self.uri(), &right).await, 200)?;
        self.is_going().await?;
        let missing = self.api.delete(&format!("{}/missing", self.collection()), &Value::Null).await;
        expect(missing, 404).map(drop)
    }

    /// Gone, or waiting for somebody's finalizer.
    async fn is_going(&self) -> Outcome {
        let left = self.api.get(&self.uri()).await;
        if left.code == 404 {
            return Ok(());
        }
        let left = expect(left, 200)?;
        ensure!(left["metadata"]["deletionTimestamp"].is_string(), "it is still there: {left}");
        Ok(())
    }

    async fn delete_dry_run(&self) -> Outcome {
        let made = self.made().await?;
        expect(self.api.delete(&self.uri(), &json!({"dryRun": ["All"]})).await, 200)?;
        expect(self.api.delete(&format!("{}?dryRun=All", self.uri()), &Value::Null).await, 200)?;
        self.unchanged(&made).await
    }

    async fn delete_collection(&self) -> Outcome {
        self.made().await?;
        let uri = format!("{}?labelSelector=matrix%3D{}", self.collection(), self.name);
        let gone = expect(self.api.delete(&uri, &Value::Null).await, 200)?;
        ensure!(gone["kind"] == self.resource.list_kind, "it is a {}", gone["kind"]);
        ensure!(gone["items"].as_array().is_some_and(|items| items.len() == 1), "{gone}");
        self.is_going().await
    }

    async fn delete_collection_dry_run(&self) -> Outcome {
        let made = self.made().await?;
        let uri = format!("{}?labelSelector=matrix%3D{}&dryRun=All", self.collection(), self.name);
        expect(self.api.delete(&uri, &Value::Null).await, 200)?;
        self.unchanged(&made).await
    }
}

fn collection(resource: &Resource) -> String {
    let root = resource.root_path();
    if resource.namespaced() {
        format!("{root}/namespaces/{NAMESPACE}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    }
}

/// The JSON of an answer of that code.
fn expect(reply: Reply, code: u16) -> Result<Value, String> {
    let text = String::from_utf8_lossy(&reply.bytes).into_owned();
    ensure!(reply.code == code, "{} instead of {code}: {text}", reply.code);
    serde_json::from_slice(&reply.bytes).map_err(|error| format!("no JSON ({error}): {text}"))
}

/// The object in a protobuf answer of that code.
fn decoded(reply: &Reply, code: u16) -> Result<Value, String> {
    ensure!(reply.code == code, "{} instead of {code}: {:?}", reply.code, reply.bytes);
    ensure!(reply.headers["content-type"] == PROTOBUF, "it is {:?}", reply.headers["content-type"]);
    protobuf::decode(&reply.bytes).map_err(|error| error.to_string())
}

fn read_yaml(reply: &Reply) -> Result<Value, String> {
    ensure!(reply.code == 200, "{}: {:?}", reply.code, reply.bytes);
    let read = untyped(&reply.bytes, ContentType::Yaml, Strictness::Strict);
    Ok(read.map_err(|error| format!("{error}: {:?}", reply.bytes))?.object)
}

/// A Table with these rows, and as many cells as columns in each.
fn check_table(table: &Value, names: &[String]) -> Outcome {
    ensure!(table["kind"] == "Table" && table["apiVersion"] == "meta.k8s.io/v1", "{table}");
    let columns = table["columnDefinitions"].as_array().ok_or("no columns")?;
    let rows = table["rows"].as_array().ok_or("no rows")?;
    ensure!(rows.len() == names.len(), "{} rows", rows.len());
    for (row, name) in rows.iter().zip(names) {
        let cells = row["cells"].as_array().ok_or("no cells")?;
        ensure!(cells.len() == columns.len(), "{} cells, {} columns", cells.len(), columns.len());
        ensure!(row["object"]["metadata"]["name"] == *name, "{row}");
        ensure!(row["object"]["kind"] == "PartialObjectMetadata", "{row}");
    }
    Ok(())
}
