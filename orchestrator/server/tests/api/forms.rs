//! Forms of an answer: media types, shapes, compression, tags, warnings; forms of a body.

use catamaran_api::protobuf;
use http::{Method, header};
use serde_json::{Value, json};

use crate::support::{Api, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn the_best_form_that_is_asked_for() {
    let api = Api::new().await;
    api.post(MAPS, &map("a")).await.ok();
    let uri = format!("{MAPS}/a");
    let table = [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/vnd.kubernetes.protobuf,application/json", PROTOBUF),
        ("application/vnd.kubernetes.protobuf, */*", PROTOBUF),
        ("application/json, */*;q=0.8", "application/json"),
        ("application/json;q=0.1,application/vnd.kubernetes.protobuf;q=0.2", PROTOBUF),
        ("application/cbor,application/json", "application/json"),
        ("text/html,application/yaml;q=0.9,*/*;q=0.8", "application/yaml"),
    ];
    for (accept, expected) in table {
        let reply = if accept.is_empty() { api.get(&uri).await } else { api.get_as(&uri, accept).await };
        assert_eq!(
            (reply.code, reply.headers[header::CONTENT_TYPE].to_str().unwrap()),
            (200, expected),
            "{accept}"
        );
    }
    for accept in ["text/html", "application/cbor", "application/json;as=Table;v=v3;g=meta.k8s.io"] {
        let refused = api.get_as(&uri, accept).await;
        assert_eq!(
            refused.failure(),
            (406, "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf".into())
        );
    }
    let pretty = api.get(&format!("{uri}?pretty=true")).await;
    assert!(pretty.bytes.starts_with(b"{\n  \"apiVersion\""), "{:?}", pretty.bytes);
    let curl = api.send(Method::GET, &uri, &[("user-agent", "curl/8.0")], Vec::new()).await;
    assert_eq!(curl.bytes, pretty.bytes);
}

#[tokio::test]
async fn failures_and_deletions_speak_protobuf_too() {
    let api = Api::new().await;
    let missing = api.get_as(&format!("{MAPS}/a"), PROTOBUF).await;
    assert_eq!((missing.code, missing.headers[header::CONTENT_TYPE].to_str().unwrap()), (404, PROTOBUF));
    let status = protobuf::decode(&missing.bytes).unwrap();
    assert_eq!((&status["kind"], &status["reason"]), (&"Status".into(), &"NotFound".into()));
    assert_eq!((&status["code"], &status["details"]["name"]), (&404.into(), &"a".into()));
    api.post(MAPS, &map("a")).await.ok();
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    let headers =
        [("accept", "application/vnd.kubernetes.protobuf,application/json"), ("content-type", PROTOBUF)];
    let body = protobuf::encode(&options).unwrap();
    let gone = api.send(Method::DELETE, &format!("{MAPS}/a"), &headers, body).await;
    assert_eq!(gone.code, 200);
    assert_eq!(protobuf::decode(&gone.bytes).unwrap()["status"], "Success");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let refused = api.send(Method::POST, uri, &table, review.to_string().into()).await;
    assert_eq!(refused.code, 406, "a review is no Table");
}

#[tokio::test]
async fn lists_in_protobuf() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.post(MAPS, &map(name)).await.ok();
    }
    let reply = api.get_as(&format!("{MAPS}?limit=2"), PROTOBUF).await;
    let list = protobuf::decode(&reply.bytes).unwrap();
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["metadata"]["remainingItemCount"], 1);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let token = list["metadata"]["continue"].as_str().unwrap();
    let rest = api.get_as(&format!("{MAPS}?limit=2&continue={token}"), PROTOBUF).await;
    assert_eq!(protobuf::decode(&rest.bytes).unwrap()["items"][0]["metadata"]["name"], "c");
    let bare = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let reply = api.get_as(MAPS, &bare).await;
    let kind = b"PartialObjectMetadataList";
    assert!(reply.bytes.windows(kind.len()).any(|window| window == kind));
    let gone = api.send(Method::DELETE, MAPS, &[("accept", PROTOBUF)], Vec::new()).await;
    assert_eq!(protobuf::decode(&gone.bytes).unwrap()["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn watches_in_protobuf() {
    let api = Api::new().await;
    let from = version(&api.get(MAPS).await.ok()).to_owned();
    let uri = format!("{MAPS}?watch=true&resourceVersion={from}");
    let response = api.open(Method::GET, &uri, &[("accept", PROTOBUF)], Vec::new()).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    drop(response);
    let mut all = api.watch_as(&uri, &format!("{PROTOBUF};stream=watch")).await;
    let mut chosen = api.watch_as(&format!("{uri}&labelSelector=on%3Dyes"), PROTOBUF).await;
    let made = api.post(MAPS, &map("a")).await.ok();
    let label = json!({"metadata": {"labels": {"on": "yes"}}});
    let changed = api.patch("merge-patch+json", &format!("{MAPS}/a"), &label).await.ok();
    api.delete(&format!("{MAPS}/a"), &Value::Null).await.ok();
    let next = async |watch: &mut crate::support::Watch| {
        let (kind, object) = watch.next_message().await.unwrap();
        (kind, protobuf::decode(&object).unwrap())
    };
    assert_eq!(next(&mut all).await, ("ADDED".into(), made));
    assert_eq!(next(&mut all).await, ("MODIFIED".into(), changed.clone()));
    assert_eq!(next(&mut all).await.0, "DELETED");
    assert_eq!(next(&mut chosen).await, ("ADDED".into(), changed));
    assert_eq!(next(&mut chosen).await.0, "DELETED");
    api.store_forgets().await;
    let mut late = api.watch_as(&format!("{MAPS}?watch=true&resourceVersion=1"), PROTOBUF).await;
    let (kind, status) = next(&mut late).await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &410.into()));
    let yaml = api.get_as(&uri, "application/yaml").await;
    assert_eq!(yaml.code, 406);
    let told = String::from_utf8(yaml.bytes.to_vec()).unwrap();
    let served = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(told.contains(&format!("only the following media types are accepted: {served}")), "{told}");
}

const INITIAL: &str =
    "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

#[tokio::test]
async fn initial_events_in_every_form() {
    let api = Api::new().await;
    api.post(MAPS, &map("a")).await.ok();
    let uri = format!("{MAPS}?{INITIAL}");
    let end = "k8s.io/initial-events-end";

    let mut bare = api.watch_as(&uri, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await;
    let first = bare.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"]),
        (&"ADDED".into(), &"PartialObjectMetadata".into())
    );
    let mark = bare.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(mark["object"]["metadata"]["annotations"][end], "true");

    for include in ["", "&includeObject=None"] {
        let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
        let mut rows = api.watch_as(&format!("{uri}{include}"), table).await;
        let first = rows.next().await.unwrap();
        assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
        assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
        let mark = rows.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(mark["object"]["kind"], "Table");
        assert_eq!(mark["object"]["rows"][0]["object"]["metadata"]["annotations"][end], "true", "{mark}");
        assert!(version(&mark["object"]).parse::<u64>().unwrap() > 0);
    }

    let mut messages = api.watch_as(&uri, PROTOBUF).await;
    assert_eq!(messages.next_message().await.unwrap().0, "ADDED");
    let (kind, object) = messages.next_message().await.unwrap();
    let mark = protobuf::decode(&object).unwrap();
    assert_eq!((kind.as_str(), &mark["kind"]), ("BOOKMARK", &"ConfigMap".into()));
    assert_eq!(mark["metadata"]["annotations"][end], "true");
    api.post(MAPS, &map("b")).await.ok();
    assert_eq!(messages.next_message().await.unwrap().0, "ADDED", "and goes on live");
}

#[tokio::test]
async fn initial_events_are_asked_for_in_full() {
    let api = Api::new().await;
    let refuses = async |query: &str, code: u16, causes: &[&str]| {
        let refused = api.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(refused.code, code, "{query} {:?}", refused.bytes);
        let status = refused.json();
        let told: Vec<String> = status["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|cause| {
                let text = |name: &str| cause[name].as_str().unwrap_or_default();
                format!("{}: {}", text("field"), text("message"))
            })
            .collect();
        assert_eq!(told, causes, "{query}");
        if code == 422 {
            let start = "ListOptions.meta.k8s.io \"\" is invalid: ";
            assert!(status["message"].as_str().unwrap().starts_with(start), "{status}");
        }
    };
    let requires = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    refuses("watch=true&sendInitialEvents=true", 422, &[requires]).await;
    refuses("watch=true&sendInitialEvents=false", 422, &[requires]).await;
    refuses(
        "watch=true&sendInitialEvents=true&resourceVersionMatch=Exact",
        422,
        &[requires, "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\""],
    )
    .await;
    refuses(
        "watch=true&resourceVersionMatch=NotOlderThan",
        422,
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"],
    )
    .await;
    refuses(
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
        422,
        &["resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"],
    )
    .await;
    refuses(
        "sendInitialEvents=true",
        422,
        &["sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"],
    )
    .await;
    let future = format!("{INITIAL}&resourceVersion=99999");
    refuses(&future, 504, &[": Too large resource version"]).await;
}

#[tokio::test]
async fn long_answers_are_compressed_and_known_ones_not_sent() {
    let api = Api::new().await;
    for name in ["a", "b"] {
        let mut long = map(name);
        long["data"]["k"] = "x".repeat(70 * 1024).into();
        api.post(MAPS, &long).await.ok();
    }
    let gzip = [("accept-encoding", "gzip")];
    let long = api.send(Method::GET, MAPS, &gzip, Vec::new()).await;
    assert_eq!(long.headers[header::CONTENT_ENCODING], "gzip");
    assert!(long.bytes.len() < 16 * 1024);
    let short = api.send(Method::GET, &format!("{MAPS}/a"), &gzip, Vec::new()).await;
    assert!(!short.headers.contains_key(header::CONTENT_ENCODING), "less than 128 KiB");
    assert!(!api.get(MAPS).await.headers.contains_key(header::CONTENT_ENCODING), "nobody asked");
    let both = [("accept-encoding", "gzip"), ("accept", PROTOBUF)];
    let message = api.send(Method::GET, MAPS, &both, Vec::new()).await;
    assert_eq!(message.headers[header::CONTENT_ENCODING], "gzip");

    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for (uri, accept) in [
        ("/api", v2),
        ("/apis", v2),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/apis/apps/v1", "application/json"),
        ("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),
    ] {
        let first = api.get_as(uri, accept).await;
        let tag = first.headers[header::ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{uri} {tag}");
        let vary: Vec<_> = first.headers.get_all(header::VARY).iter().collect();
        assert!(vary.iter().any(|value| *value == "Accept"), "{uri} {vary:?}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let headers = [("accept", accept), ("if-none-match", known.as_str())];
            let again = api.send(Method::GET, uri, &headers, Vec::new()).await;
            assert_eq!((again.code, again.bytes.len()), (304, 0), "{uri} {known}");
            assert_eq!(again.headers[header::ETAG], tag.as_str());
        }
    }
}

fn warnings(reply: &crate::support::Reply) -> Vec<String> {
    let all = reply.headers.get_all(header::WARNING).iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn warnings_go_along() {
    let api = Api::new().await;
    let body =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"foo":1,"data":{"k":"1","k":"2"}}"#;
    let warned = api.send(Method::POST, MAPS, &[], body.to_vec()).await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warnings(&warned),
        [r#"299 - "unknown field \"foo\"""#, r#"299 - "duplicate field \"data.k\"""#]
    );
    assert_eq!(warned.json()["data"]["k"], "2", "the last one counts");
    let ignored =
        api.send(Method::PUT, &format!("{MAPS}/a?fieldValidation=Ignore"), &[], body.to_vec()).await;
    assert_eq!((ignored.code, warnings(&ignored).len()), (200, 0));
    let strict = api.send(Method::PUT, &format!("{MAPS}/a?fieldValidation=Strict"), &[], body.to_vec()).await;
    assert_eq!(
        strict.failure(),
        (400, r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "foo", duplicate field "data.k""#.into())
    );

    let endpoints = api.get("/api/v1/namespaces/default/endpoints").await;
    assert_eq!(
        warnings(&endpoints),
        [r#"299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice""#]
    );
    let missing = api.get("/api/v1/namespaces/default/endpoints/none").await;
    assert_eq!((missing.code, warnings(&missing).len()), (404, 1), "a failure carries them as well");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{"name": "c", "image": "i"}]}});
    let warned = api.post(PODS, &pod).await;
    assert_eq!(
        warnings(&warned),
        [
            r#"299 - "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead""#
        ]
    );
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let changed = api.patch("merge-patch+json", &format!("{PODS}/p"), &label).await;
    assert_eq!((changed.code, warnings(&changed).len()), (200, 0), "what was there is not told again");
}

#[tokio::test]
async fn bodies_of_other_forms() {
    let api = Api::new().await;
    let yaml = b"# a comment\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: 'yes'\n  b: |\n    two\n    lines\n".to_vec();
    let made = api.send(Method::POST, MAPS, &[("content-type", "application/yaml")], yaml).await.ok();
    assert_eq!(made["data"], json!({"a": "yes", "b": "two\nlines\n"}));
    let known = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for media in ["text/plain", "application/cbor", "application/x-www-form-urlencoded"] {
        let refused = api.send(Method::POST, MAPS, &[("content-type", media)], b"{}".to_vec()).await;
        assert_eq!(refused.failure(), (415, known.into()), "{media}");
        assert_eq!(refused.json()["reason"], "UnsupportedMediaType");
    }
    let refused = api.patch("json", &format!("{MAPS}/yaml"), &json!({})).await;
    assert_eq!(
        refused.failure(),
        (415, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml".into())
    );
    let untyped = api
        .send(
            Method::POST,
            MAPS,
            &[("content-type", "application/json; charset=utf-8")],
            map("j").to_string().into(),
        )
        .await;
    assert_eq!(untyped.code, 201);

    let long = api.send(Method::POST, MAPS, &[], vec![b' '; 3 * 1024 * 1024 + 1]).await;
    assert_eq!(long.failure(), (413, "Request entity too large: limit is 3145728".into()));
    assert_eq!(long.json()["reason"], "RequestEntityTooLarge");
    let steps: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/data/k", "value": "v"})).collect();
    let many = api.patch("json-patch+json", &format!("{MAPS}/j"), &steps.into()).await;
    assert_eq!(
        many.failure(),
        (
            413,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
                .into()
        )
    );
    let broken = api.send(Method::POST, MAPS, &[("content-type", PROTOBUF)], b"k8s\0\xff".to_vec()).await;
    assert_eq!(broken.code, 400);
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(api.post(MAPS, &other).await.code, 400);
    let old = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let (code, message) = api.post(MAPS, &old).await.failure();
    assert_eq!(
        (code, message.as_str()),
        (400, "the API version in the data (v2) does not match the expected API version (v1)")
    );
}
