//! The life of definitions: status, discovery, OpenAPI, names, deletion, restart.

use serde_json::{Value, json};

use super::api::{Api, DEFINITIONS};
use super::manifests::{certificate, certificates, classes, route, routes};

const CERTIFICATES: &str = "/apis/certs.example.com/v1/namespaces/default/certificates";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

fn status_of<'a>(definition: &'a Value, kind: &str) -> &'a str {
    let conditions = definition["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

#[tokio::test]
async fn a_definition_is_served_at_once() {
    let api = Api::new().await;
    assert_eq!(api.get(CERTIFICATES).await.code, 404);
    let made = api.post(DEFINITIONS, &certificates()).await.ok();
    assert_eq!((status_of(&made, "NamesAccepted"), status_of(&made, "Established")), ("True", "True"));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["status"]["acceptedNames"]["singular"], "certificate");
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "CertificateList");
    assert_eq!(made["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(made["metadata"]["generation"], 1);
    let list = api.get(CERTIFICATES).await.ok();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&"CertificateList".into(), &"certs.example.com/v1".into())
    );
    assert_eq!(list["items"], json!([]));
    assert_eq!(api.get("/apis/certs.example.com/v2/certificates").await.code, 404);
}

#[tokio::test]
async fn discovery_shows_them_in_every_form() {
    let api = Api::new().await;
    api.define(&[certificates(), routes()]).await;
    let groups = api.get("/apis").await.ok();
    let group = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["name"] == "gateway.networking.k8s.io");
    let group = group.unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/apis/certs.example.com").await.ok()["kind"], "APIGroup");
    let legacy = api.get("/apis/certs.example.com/v1").await.ok();
    let resource = &legacy["resources"][0];
    assert_eq!((&resource["name"], &resource["kind"]), (&"certificates".into(), &"Certificate".into()));
    assert_eq!((&resource["shortNames"], &resource["categories"]), (&json!(["cert"]), &json!(["security"])));
    assert_eq!(legacy["resources"][1]["name"], "certificates/status");
    for version in ["v2", "v2beta1"] {
        let accept = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let all = api.get_as("/apis", &accept).await.ok();
        let items = all["items"].as_array().unwrap();
        let group =
            items.iter().find(|item| item["metadata"]["name"] == "gateway.networking.k8s.io").unwrap();
        let resource = &group["versions"][0]["resources"][0];
        assert_eq!(resource["responseKind"]["kind"], "HTTPRoute");
        let subresources: Vec<&Value> =
            resource["subresources"].as_array().unwrap().iter().map(|sub| &sub["subresource"]).collect();
        assert_eq!(subresources, ["scale", "status"]);
    }
}

#[tokio::test]
async fn openapi_describes_them() {
    let api = Api::new().await;
    api.define(&[certificates()]).await;
    let index = api.get("/openapi/v3").await.ok();
    let address =
        index["paths"]["apis/certs.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = api.get(&address).await.ok();
    let schema = &document["components"]["schemas"]["com.example.certs.v1.Certificate"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["secretName"]["description"],
        "Where the certificate is kept."
    );
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Certificate");
    let metadata = schema["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap();
    let metadata = metadata.trim_start_matches("#/components/schemas/");
    assert!(document["components"]["schemas"][metadata].is_object());
    let path = &document["paths"]["/apis/certs.example.com/v1/namespaces/{namespace}/certificates/{name}"];
    let patches = path["patch"]["requestBody"]["content"].as_object().unwrap();
    assert!(patches.contains_key("application/merge-patch+json"));
    assert!(!patches.contains_key("application/strategic-merge-patch+json"));
    let own = "#/components/schemas/com.example.certs.v1.Certificate";
    assert_eq!(path["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"], own);
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"]["kind"], "Certificate");

    let current = api.get(&format!("{DEFINITIONS}/certificates.certs.example.com")).await.ok();
    let mut changed = current.clone();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["secretName"]
        ["description"] = "Changed.".into();
    api.put(&format!("{DEFINITIONS}/certificates.certs.example.com"), &changed).await.ok();
    let index = api.get("/openapi/v3").await.ok();
    assert_ne!(index["paths"]["apis/certs.example.com/v1"]["serverRelativeURL"], address.as_str());
}

#[tokio::test]
async fn bad_definitions_are_refused_with_causes() {
    let api = Api::new().await;
    let mut bad = certificates();
    bad["spec"]["versions"][0]["storage"] = false.into();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["secretName"] =
        json!({"minLength": 1});
    let causes = api.post(DEFINITIONS, &bad).await.causes();
    let fields: Vec<&str> = causes.iter().map(|cause| cause[0].as_str()).collect();
    let schema = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[secretName].type";
    assert!(fields.contains(&schema) && fields.contains(&"spec.versions"), "{causes:?}");
    let mut unapproved = routes();
    unapproved["metadata"]["annotations"] = Value::Null;
    let causes = api.post(DEFINITIONS, &unapproved).await.causes();
    assert_eq!(causes[0][0], "metadata.annotations[api-approved.kubernetes.io]");
    let mut built_in = classes();
    built_in["spec"]["group"] = "policy".into();
    assert_eq!(api.post(DEFINITIONS, &built_in).await.code, 422);
}

#[tokio::test]
async fn names_belong_to_the_first_and_become_free() {
    let api = Api::new().await;
    api.define(&[classes()]).await;
    let mut other = classes();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] =
        json!({"plural": "others", "kind": "Class", "listKind": "OtherList", "singular": "other"});
    let made = api.post(DEFINITIONS, &other).await.ok();
    assert_eq!((status_of(&made, "NamesAccepted"), status_of(&made, "Established")), ("False", "False"));
    assert_eq!(api.get("/apis/example.com/v1alpha1/others").await.code, 404);
    api.delete(&format!("{DEFINITIONS}/classes.example.com")).await.ok();
    api.until("/apis/example.com/v1alpha1/others", 200).await;
    let now = api.get(&format!("{DEFINITIONS}/others.example.com")).await.ok();
    assert_eq!((status_of(&now, "NamesAccepted"), status_of(&now, "Established")), ("True", "True"));
    assert_eq!(api.get("/apis/example.com/v1alpha1/classes").await.code, 404);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let api = Api::new().await;
    api.define(&[certificates()]).await;
    let mut held = certificate("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CERTIFICATES, &held).await.ok();
    api.post(CERTIFICATES, &certificate("free")).await.ok();
    let mut watch = api.watch(&format!("{CERTIFICATES}?watch=true")).await;
    let mut first = watch.kinds(2).await;
    first.sort();
    assert_eq!(first, ["ADDED free", "ADDED held"]);
    let definition = format!("{DEFINITIONS}/certificates.certs.example.com");
    let answer = api.delete(&definition).await.ok();
    assert!(answer["metadata"]["deletionTimestamp"].is_string());
    let mut seen = watch.kinds(2).await;
    seen.sort();
    assert_eq!(seen, ["DELETED free", "MODIFIED held"]);
    let there = api.get(&definition).await.ok();
    assert_eq!(status_of(&there, "Terminating"), "True");
    let (code, message) = api.post(CERTIFICATES, &certificate("late")).await.failure();
    assert_eq!(code, 405, "{message}");
    assert!(message.contains("terminating"), "{message}");
    api.patch(
        "merge-patch+json",
        &format!("{CERTIFICATES}/held"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.until(&definition, 404).await;
    assert_eq!(watch.kinds(1).await, ["DELETED held"]);
    assert!(watch.next().await.is_none(), "the watch ends with the definition");
    assert_eq!(api.get(CERTIFICATES).await.code, 404);
    assert_eq!(api.get("/apis/certs.example.com").await.code, 404);
    // The same definition again begins empty.
    api.define(&[certificates()]).await;
    assert_eq!(api.get(CERTIFICATES).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let api = Api::new().await;
    api.define(&[certificates(), routes()]).await;
    let made = api.post(CERTIFICATES, &certificate("a")).await.ok();
    api.post(ROUTES, &route("r")).await.ok();
    let mut held = certificate("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CERTIFICATES, &held).await.ok();
    let api = api.restart().await;
    assert_eq!(api.get(&format!("{CERTIFICATES}/a")).await.ok(), made);
    assert_eq!(api.get(&format!("{ROUTES}/r")).await.ok()["spec"]["rules"][0]["backendRefs"][0]["weight"], 1);
    let bad = json!({"apiVersion": "certs.example.com/v1", "kind": "Certificate", "metadata": {"name": "b"}, "spec": {}});
    assert_eq!(api.post(CERTIFICATES, &bad).await.causes().len(), 2);
    // A deletion that was under way goes on.
    let definition = format!("{DEFINITIONS}/certificates.certs.example.com");
    api.delete(&definition).await.ok();
    api.until(&format!("{CERTIFICATES}/a"), 404).await;
    let api = api.restart().await;
    assert_eq!(status_of(&api.get(&definition).await.ok(), "Terminating"), "True");
    api.patch(
        "merge-patch+json",
        &format!("{CERTIFICATES}/held"),
        &json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    api.until(&definition, 404).await;
    assert_eq!(api.get(ROUTES).await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_may_not_change() {
    let api = Api::new().await;
    api.define(&[routes()]).await;
    let uri = format!("{DEFINITIONS}/httproutes.gateway.networking.k8s.io");
    let current = api.get(&uri).await.ok();
    let change = |edit: fn(&mut Value)| {
        let mut changed = current.clone();
        edit(&mut changed);
        changed
    };
    let scope = change(|it| it["spec"]["scope"] = "Cluster".into());
    assert_eq!(api.put(&uri, &scope).await.causes()[0][0], "spec.scope");
    let kind = change(|it| it["spec"]["names"]["kind"] = "Other".into());
    assert_eq!(api.put(&uri, &kind).await.causes()[0][0], "spec.names.kind");
    let gone = change(|it| {
        it["spec"]["versions"].as_array_mut().unwrap().truncate(1);
        it["spec"]["versions"][0]["storage"] = true.into();
    });
    assert_eq!(api.put(&uri, &gone).await.causes()[0][0], "status.storedVersions[0]");
    let moved = change(|it| {
        it["spec"]["versions"][0]["storage"] = true.into();
        it["spec"]["versions"][1]["storage"] = false.into();
    });
    let moved = api.put(&uri, &moved).await.ok();
    assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    assert_eq!(moved["metadata"]["generation"], 2);
}
