//! Lists and watches: revisions, pages, selectors, order.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use crate::support::{Api, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": "v"}})
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn five() -> Api {
    let api = Api::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        api.post(MAPS, &map(name)).await.ok();
    }
    api
}

#[tokio::test]
async fn revisions_of_lists() {
    let api = five().await;
    let then = version(&api.get(MAPS).await.ok()).to_owned();
    api.delete(&format!("{MAPS}/b"), &Value::Null).await.ok();
    let now = version(&api.get(MAPS).await.ok()).to_owned();
    assert!(now.parse::<u64>().unwrap() > then.parse::<u64>().unwrap());
    let all = ["a", "b", "c", "d", "e"];
    let left = ["a", "c", "d", "e"];
    let table: [(String, &[&str], &str); 8] = [
        (String::new(), &left, &now),
        ("resourceVersion=0".into(), &left, &now),
        (format!("resourceVersion={then}"), &left, &now),
        (format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"), &left, &now),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan".into(), &left, &now),
        (format!("resourceVersion={then}&resourceVersionMatch=Exact"), &all, &then),
        (format!("resourceVersion={then}&limit=10"), &all, &then),
        (format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan&limit=10"), &left, &now),
    ];
    for (query, expected, revision) in table {
        let list = api.get(&format!("{MAPS}?{query}")).await.ok();
        assert_eq!((names(&list), version(&list)), (expected.to_vec(), revision), "{query}");
    }
    for uri in [MAPS.to_owned(), format!("{MAPS}/a")] {
        let future = api.get(&format!("{uri}?resourceVersion=99999")).await;
        assert_eq!(future.code, 504);
        let status = future.json();
        assert_eq!(status["message"], format!("Timeout: Too large resource version: 99999, current: {now}"));
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(future.headers["retry-after"], "1");
    }
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=soon")).await.code, 400);
    api.store_forgets().await;
    let gone = api.get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await;
    assert_eq!(gone.failure(), (410, "The resourceVersion for the provided list is too old.".into()));
    assert_eq!(gone.json()["reason"], "Expired");
}

#[tokio::test]
async fn lists_refuse_what_contradicts_itself() {
    let api = Api::new().await;
    let forbidden = |why: &str| format!("resourceVersionMatch: Forbidden: {why}");
    let table = [
        ("resourceVersionMatch=Exact", forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=1&continue=x",
            forbidden("resourceVersionMatch is forbidden when continue is provided"),
        ),
        (
            "resourceVersionMatch=Near&resourceVersion=1",
            "resourceVersionMatch: Unsupported value: \"Near\": supported values: \"Exact\", \"NotOlderThan\", \"\"".into(),
        ),
    ];
    for (query, expected) in table {
        let (code, message) = api.get(&format!("{MAPS}?{query}")).await.failure();
        assert_eq!(code, 422, "{query}");
        assert_eq!(message, format!("ListOptions.meta.k8s.io \"\" is invalid: {expected}"), "{query}");
    }
}

#[tokio::test]
async fn pages_are_of_one_snapshot() {
    let api = five().await;
    let first = api.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &3.into()));
    api.post(MAPS, &map("bb")).await.ok();
    api.delete(&format!("{MAPS}/d"), &Value::Null).await.ok();
    let mut seen = Vec::new();
    let mut token = first["metadata"]["continue"].as_str().map(str::to_owned);
    while let Some(next) = token {
        let page = api.get(&format!("{MAPS}?limit=2&continue={next}")).await.ok();
        assert_eq!(version(&page), version(&first), "every page has the revision of the first");
        seen.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, ["c", "d", "e"]);

    let token = first["metadata"]["continue"].as_str().unwrap();
    let both = api.get(&format!("{MAPS}?continue={token}&resourceVersion=1")).await;
    assert_eq!(
        both.failure(),
        (400, "specifying resource version is not allowed when using continue".into())
    );
    let decoded: Value = serde_json::from_slice(&BASE64.decode(token).unwrap()).unwrap();
    assert_eq!(
        (&decoded["v"], decoded["start"].as_str().unwrap().ends_with('\0')),
        (&"meta.k8s.io/v1".into(), true)
    );

    api.store_forgets().await;
    let expired = api.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, &expired.json()["reason"]), (410, &"Expired".into()));
    let status = expired.json();
    let start = "The provided continue parameter is too old to display a consistent list result.";
    assert!(status["message"].as_str().unwrap().starts_with(start));
    let loose = status["metadata"]["continue"].as_str().unwrap();
    let decoded: Value = serde_json::from_slice(&BASE64.decode(loose).unwrap()).unwrap();
    assert_eq!(decoded["rv"], -1);
    let rest = api.get(&format!("{MAPS}?limit=10&continue={loose}")).await.ok();
    assert_eq!(names(&rest), ["bb", "c", "e"], "what is there now, behind the last one that was seen");
    assert_ne!(version(&rest), version(&first));
}

#[tokio::test]
async fn tokens_lead_nowhere_else() {
    let api = five().await;
    let token = |value: Value| BASE64.encode(value.to_string());
    let table = [
        ("%25%25".to_owned(), ""),
        (BASE64.encode("no json"), ""),
        (
            token(json!({"v": "v2", "rv": 1, "start": "a"})),
            ": server does not recognize this encoded version v2",
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 0, "start": "a"})),
            ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": ""})),
            ": encoded start key empty (version meta.k8s.io/v1)",
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "../../secrets/default/x"})),
            ": ../../secrets/default/x",
        ),
        (token(json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "kube-system/a"})), ""),
    ];
    for (token, why) in table {
        let (code, message) = api.get(&format!("{MAPS}?continue={token}")).await.failure();
        assert_eq!(code, 400, "{token}");
        let start = format!("invalid continue token: continue key is not valid{why}");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[tokio::test]
async fn selectors() {
    let api = five().await;
    let plain = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}});
    api.post(MAPS, &plain).await.ok();
    let table: [(&str, &[&str]); 10] = [
        ("labelSelector=app%3Da", &["a"]),
        ("labelSelector=app%3D%3Da", &["a"]),
        ("labelSelector=app%21%3Da", &["b", "c", "d", "e", "plain"]),
        ("labelSelector=app+in+(a,b)", &["a", "b"]),
        ("labelSelector=app+notin+(a,b)", &["c", "d", "e", "plain"]),
        ("labelSelector=app", &["a", "b", "c", "d", "e"]),
        ("labelSelector=%21app", &["plain"]),
        ("labelSelector=app,app%21%3Da,app+notin+(b)", &["c", "d", "e"]),
        (
            "fieldSelector=metadata.name%21%3Da,metadata.namespace%3Ddefault&labelSelector=app",
            &["b", "c", "d", "e"],
        ),
        ("fieldSelector=metadata.name%3D%3De", &["e"]),
    ];
    for (query, expected) in table {
        let list = api.get(&format!("{MAPS}?{query}")).await.ok();
        assert_eq!(names(&list), expected, "{query}");
        assert!(list["metadata"].get("remainingItemCount").is_none());
    }
    // A page may be short, or end where nothing more follows; the last one says so.
    let mut seen = Vec::new();
    let mut uri = format!("{MAPS}?limit=1&labelSelector=app+in+(b,d)");
    loop {
        let page = api.get(&uri).await.ok();
        seen.extend(names(&page).into_iter().map(str::to_owned));
        assert!(page["metadata"].get("remainingItemCount").is_none(), "nobody counted");
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        uri = format!("{MAPS}?limit=1&labelSelector=app+in+(b,d)&continue={token}");
    }
    assert_eq!(seen, ["b", "d"]);
    for (query, message) in
        [("fieldSelector=spec.x%3D1", "field label not supported: spec.x"), ("labelSelector=a+in", "")]
    {
        let refused = api.get(&format!("{MAPS}?{query}")).await;
        let (code, told) = refused.failure();
        assert_eq!((code, told.contains(message)), (400, true), "{told}");
    }
    let elsewhere =
        api.get("/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault,metadata.name%3Da").await;
    assert_eq!(names(&elsewhere.ok()), ["a"]);
}

#[tokio::test]
async fn everybody_sees_the_same_order() {
    let api = Api::new().await;
    let from = version(&api.get(MAPS).await.ok()).to_owned();
    let uri = format!("{MAPS}?watch=true&resourceVersion={from}");
    let mut watches = Vec::new();
    for _ in 0..8 {
        watches.push(api.watch(&uri).await);
    }
    for number in 0..20 {
        let name = format!("m{number}");
        api.post(MAPS, &map(&name)).await.ok();
        let change = json!({"data": {"k": "2"}});
        api.patch("merge-patch+json", &format!("{MAPS}/{name}"), &change).await.ok();
        if number % 2 == 0 {
            api.delete(&format!("{MAPS}/{name}"), &Value::Null).await.ok();
        }
    }
    let mut seen = Vec::new();
    for watch in &mut watches {
        let mut revisions = Vec::new();
        for _ in 0..50 {
            let event = watch.next().await.unwrap();
            revisions.push((event["type"].clone(), version(&event["object"]).parse::<u64>().unwrap()));
        }
        assert!(revisions.is_sorted_by(|a, b| a.1 < b.1), "each once, in order");
        seen.push(revisions);
    }
    assert!(seen.iter().all(|one| *one == seen[0]));
    // Who goes on from an event that somebody saw misses nothing and sees nothing twice.
    let middle = seen[0][24].1;
    let mut rest = api.watch(&format!("{MAPS}?watch=true&resourceVersion={middle}")).await;
    for expected in &seen[0][25..] {
        let event = rest.next().await.unwrap();
        assert_eq!(version(&event["object"]).parse::<u64>().unwrap(), expected.1);
    }
}

#[tokio::test]
async fn watches_of_one_object() {
    let api = five().await;
    for uri in [
        format!("{MAPS}/a?watch=true"),
        format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da"),
        "/api/v1/watch/namespaces/default/configmaps/a".to_owned(),
        format!("{MAPS}/a?watch=1&fieldSelector=metadata.name%3Da"),
    ] {
        let mut watch = api.watch(&uri).await;
        assert_eq!(watch.kinds(1).await, ["ADDED a"], "{uri}");
    }
    let (code, message) =
        api.get(&format!("{MAPS}/a?watch=true&fieldSelector=metadata.name%3Db")).await.failure();
    assert_eq!((code, message.as_str()), (400, "fieldSelector metadata.name doesn't match requested name"));
    let from = version(&api.get(MAPS).await.ok()).to_owned();
    let mut watch = api.watch(&format!("{MAPS}/a?watch=true&resourceVersion={from}")).await;
    api.delete(&format!("{MAPS}/b"), &Value::Null).await.ok();
    api.delete(&format!("{MAPS}/a"), &Value::Null).await.ok();
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&"DELETED".into(), &"a".into()));
    assert_eq!(
        version(&gone["object"]),
        api.store_revision().to_string(),
        "with the revision of the deletion"
    );
    assert_eq!(gone["object"]["data"]["k"], "v", "and the last state");
}

#[tokio::test]
async fn watches_end_in_time_and_begin_where_they_are_told() {
    let api = five().await;
    let mut short = api.watch(&format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion=0")).await;
    assert_eq!(short.kinds(5).await, ["ADDED a", "ADDED b", "ADDED c", "ADDED d", "ADDED e"]);
    assert!(short.next().await.is_none(), "a clean end");
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let mut live = api.watch(&format!("{MAPS}?watch=true&{none}")).await;
    api.post(MAPS, &map("f")).await.ok();
    assert_eq!(live.kinds(1).await, ["ADDED f"], "nothing of before");
    api.store_forgets().await;
    let mut late = api.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let error = late.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["reason"]), (&"ERROR".into(), &"Expired".into()));
    let message = error["object"]["message"].as_str().unwrap();
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
    assert!(late.next().await.is_none());
}
