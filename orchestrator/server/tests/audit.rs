//! The audit log: what is noted of which request, at which stages.

#![allow(clippy::unwrap_used)]

mod world;

use std::path::PathBuf;
use std::time::Duration;

use catamaran_server::{AuditConfig, UserInfo};
use serde_json::{Value, json};
use world::World;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/metrics"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: [configmaps]}]
- level: Request
  resources: [{group: "rbac.authorization.k8s.io"}]
- level: Metadata
"#;

struct Audited {
    world: World,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Audited {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
        std::fs::write(&policy, POLICY).unwrap();
        let world = World::with(|config| config.audit = Some(AuditConfig::new(&policy, &log))).await;
        Audited { world, log, _dir: dir }
    }

    /// The lines so far that are about a path.
    async fn lines(&self, path: &str, least: usize) -> Vec<Value> {
        for _ in 0..200 {
            let text = std::fs::read_to_string(&self.log).unwrap();
            let lines: Vec<Value> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter(|line: &Value| line["requestURI"].as_str().unwrap().starts_with(path))
                .collect();
            if lines.len() >= least {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the log has no {least} lines about {path}: {}", std::fs::read_to_string(&self.log).unwrap());
    }
}

#[tokio::test]
async fn levels() {
    let audited = Audited::new().await;
    let world = &audited.world;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let reply = world
        .send(
            &World::admin(),
            "POST /api/v1/namespaces/default/configmaps",
            &[
                ("content-type", "application/json"),
                ("user-agent", "me/1"),
                ("audit-id", "my-own"),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            map.to_string().into(),
        )
        .await;
    assert_eq!(reply.header("audit-id"), "my-own");
    reply.ok();
    let line = audited.lines("/api/v1/namespaces/default/configmaps", 1).await.remove(0);
    assert_eq!(line["kind"], "Event");
    assert_eq!(line["apiVersion"], "audit.k8s.io/v1");
    assert_eq!((&line["level"], &line["stage"]), (&json!("RequestResponse"), &json!("ResponseComplete")));
    assert_eq!(
        (&line["auditID"], &line["verb"], &line["userAgent"]),
        (&json!("my-own"), &json!("create"), &json!("me/1"))
    );
    assert_eq!(line["sourceIPs"], json!(["1.2.3.4"]));
    assert_eq!(line["user"]["username"], "admin");
    let reference =
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"});
    assert_eq!(line["objectRef"], reference);
    assert_eq!(line["responseStatus"]["code"], 201);
    assert_eq!(line["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(line["responseObject"]["data"], json!({"a": "b"}));
    assert!(line["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(line["annotations"]["authorization.k8s.io/decision"], "allow");

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "hidden-word"}});
    world.must("POST /api/v1/namespaces/default/secrets", secret).await;
    world.must("GET /api/v1/namespaces/default/secrets/s", Value::Null).await;
    let lines = audited.lines("/api/v1/namespaces/default/secrets", 2).await;
    assert!(lines.iter().all(|line| line["requestObject"].is_null() && line["responseObject"].is_null()));
    assert_eq!(lines[0]["objectRef"]["name"], "s");
    let text = std::fs::read_to_string(&audited.log).unwrap();
    assert!(!text.contains("hidden-word") && !text.contains("aGlkZGVuLXdvcmQ"));

    world.trust("joe").await;
    let line = audited.lines("/apis/rbac.authorization.k8s.io", 1).await.remove(0);
    assert_eq!(line["requestObject"]["roleRef"]["name"], "cluster-admin");
    assert!(line["responseObject"].is_null());
    world.ask(&World::admin(), "GET /healthz", &Value::Null).await;
    world.must("GET /version", Value::Null).await;
    audited.lines("/version", 1).await;
    assert!(!std::fs::read_to_string(&audited.log).unwrap().contains("/healthz"));
}

#[tokio::test]
async fn refusals_impersonation_and_watches() {
    let audited = Audited::new().await;
    let world = &audited.world;
    let jane = UserInfo::new("jane", &[]);
    world.ask(&jane, "GET /api/v1/nodes", &Value::Null).await.refused(403);
    let line = audited.lines("/api/v1/nodes", 1).await.remove(0);
    assert_eq!(line["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&line["responseStatus"]["code"], &line["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );

    let headers = [("impersonate-user", "joe")];
    world.send(&World::admin(), "GET /api/v1/services", &headers, Vec::new()).await;
    let line = audited.lines("/api/v1/services", 1).await.remove(0);
    assert_eq!(
        (&line["user"]["username"], &line["impersonatedUser"]["username"]),
        (&json!("admin"), &json!("joe"))
    );

    let open = world.open(&World::admin(), "GET /api/v1/events?watch=true", &[], Vec::new()).await;
    let line = audited.lines("/api/v1/events", 1).await.remove(0);
    assert_eq!((&line["stage"], &line["verb"]), (&json!("ResponseStarted"), &json!("watch")));
    drop(open);
    let lines = audited.lines("/api/v1/events", 2).await;
    assert_eq!(lines[1]["stage"], "ResponseComplete");
    assert_eq!(lines[0]["auditID"], lines[1]["auditID"]);
}

/// What cannot be used is said at the start.
#[tokio::test]
async fn a_bad_policy_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Loud}]").unwrap();
    let mut config = catamaran_server::ServerConfig::new(dir.path());
    config.audit = Some(AuditConfig::new(&policy, dir.path().join("log")));
    let store = std::sync::Arc::new(catamaran_store::MemoryStore::new());
    let error = catamaran_server::Server::new(config, store).err().unwrap();
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(text.contains("policy.yaml") && text.contains("Loud"), "{text}");
}
