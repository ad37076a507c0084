//! Rights as clients meet them: refusals and grants, bootstrap and aggregated roles, escalation, reviews,
//! impersonation. Through the tower service, over the store in memory.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use catamaran_server::{Server, ServerConfig, UserInfo};
use catamaran_store::sqlite::{Options, SqliteStore};
use catamaran_store::{MemoryStore, Store};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

struct Cluster {
    server: Server,
    store: Arc<dyn Store>,
    dir: tempfile::TempDir,
}

/// Somebody who sends requests.
struct Caller<'a> {
    cluster: &'a Cluster,
    user: UserInfo,
    headers: Vec<(&'static str, String)>,
}

type Answer = (u16, Value);

impl Cluster {
    async fn new() -> Self {
        Self::over(|_| Arc::new(MemoryStore::new())).await
    }

    async fn over(open: impl Fn(&Path) -> Arc<dyn Store>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let server = Server::new(ServerConfig::new(dir.path()), store.clone()).unwrap();
        server.bootstrap().await.unwrap();
        Cluster { server, store, dir }
    }

    fn user(&self, name: &str, groups: &[&str]) -> Caller<'_> {
        Caller { cluster: self, user: UserInfo::new(name, groups), headers: Vec::new() }
    }

    fn admin(&self) -> Caller<'_> {
        self.user("admin", &["system:masters"])
    }

    async fn role(&self, namespace: &str, name: &str, rules: Value) {
        let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
        let role = json!({"kind": kind, "metadata": {"name": name}, "rules": rules});
        self.admin().put(&collection("roles", namespace), role).await;
    }

    async fn bind(&self, namespace: &str, name: &str, (kind, role): (&str, &str), subject: Value) {
        let own = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let binding = json!({
            "kind": own, "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [subject],
        });
        self.admin().put(&collection("rolebindings", namespace), binding).await;
    }
}

/// The path of `roles` or `rolebindings` in a namespace, or of their cluster-wide kin.
fn collection(plural: &str, namespace: &str) -> String {
    if namespace.is_empty() {
        format!("{RBAC}/cluster{plural}")
    } else {
        format!("{RBAC}/namespaces/{namespace}/{plural}")
    }
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

fn rule(verbs: &[&str], group: &str, resource: &str) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]})
}

impl Caller<'_> {
    async fn send(&self, method: Method, uri: &str, body: &Value) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(uri);
        if method == Method::PATCH {
            request = request.header("content-type", "application/merge-patch+json");
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::<Bytes>::from(body)).unwrap();
        let mut service = self.cluster.server.service(self.user.clone());
        let response = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap();
        let (parts, body) = response.call(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, &Value::Null).await
    }

    async fn post(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::POST, uri, &body).await
    }

    /// Creates what must not be refused.
    async fn put(&self, uri: &str, body: Value) -> Value {
        let (code, answer) = self.post(uri, body).await;
        assert_eq!(code, 201, "{answer}");
        answer
    }

    async fn delete(&self, uri: &str) {
        let (code, answer) = self.send(Method::DELETE, uri, &Value::Null).await;
        assert_eq!(code, 200, "{answer}");
    }

    async fn patch(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::PATCH, uri, &body).await
    }

    async fn review(&self, kind: &str, spec: Value) -> Answer {
        let group = match kind {
            "TokenReview" | "SelfSubjectReview" => "authentication.k8s.io",
            _ => "authorization.k8s.io",
        };
        let plural = format!("{}s", kind.to_lowercase());
        self.post(&format!("/apis/{group}/v1/{plural}"), json!({"kind": kind, "spec": spec})).await
    }
}

#[track_caller]
fn refused((code, status): Answer, expected: &str) {
    assert_eq!((code, status["message"].as_str().unwrap_or_default()), (403, expected), "{status}");
    assert_eq!(status["reason"], "Forbidden");
}

#[tokio::test]
async fn refusals_are_in_kubernetes_words() {
    let cluster = Cluster::new().await;
    let jane = cluster.user("jane", &[]);
    let table = [
        (
            Method::GET,
            "/api/v1/namespaces/default/pods",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            Method::GET,
            "/api/v1/pods?watch=true",
            r#"pods is forbidden: User "jane" cannot watch resource "pods" in API group "" at the cluster scope"#,
        ),
        (
            Method::GET,
            "/api/v1/nodes/n",
            r#"nodes "n" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#,
        ),
        (
            Method::PATCH,
            "/apis/apps/v1/namespaces/d/deployments/w/scale",
            r#"deployments.apps "w" is forbidden: User "jane" cannot patch resource "deployments/scale" in API group "apps" in the namespace "d""#,
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/d",
            r#"namespaces "d" is forbidden: User "jane" cannot delete resource "namespaces" in API group "" in the namespace "d""#,
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/d/secrets",
            r#"secrets is forbidden: User "jane" cannot deletecollection resource "secrets" in API group "" in the namespace "d""#,
        ),
        (
            Method::GET,
            "/apis/example.com/v1/things",
            r#"things.example.com is forbidden: User "jane" cannot list resource "things" in API group "example.com" at the cluster scope"#,
        ),
        (Method::GET, "/metrics", r#"forbidden: User "jane" cannot get path "/metrics""#),
        (Method::POST, "/apis", r#"forbidden: User "jane" cannot post path "/apis""#),
    ];
    for (method, uri, expected) in table {
        refused(jane.send(method, uri, &Value::Null).await, expected);
    }
    for uri in ["/api", "/apis", "/apis/apps", "/api/v1", "/openapi/v3", "/version"] {
        assert_eq!(jane.get(uri).await.0, 200, "{uri}");
    }
    let nobody = Caller { user: UserInfo::anonymous(), ..cluster.admin() };
    refused(
        nobody.get("/api/v1/nodes").await,
        r#"nodes is forbidden: User "system:anonymous" cannot list resource "nodes" in API group "" at the cluster scope"#,
    );
    refused(nobody.get("/apis").await, r#"forbidden: User "system:anonymous" cannot get path "/apis""#);
    assert_eq!(nobody.get("/version").await.0, 200);
}

/// An answered write is in force: no test here waits.
#[tokio::test]
async fn grants_and_revocations_are_in_force_when_answered() {
    grants_and_revocations(Cluster::new().await).await;
    let on_disk = |dir: &Path| -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(Options::new(dir.join("store.db"))).unwrap())
    };
    grants_and_revocations(Cluster::over(on_disk).await).await;
}

async fn grants_and_revocations(cluster: Cluster) {
    let jane = cluster.user("jane", &["dev"]);
    let pods = "/api/v1/namespaces/default/pods";
    for round in 0..5 {
        assert_eq!(jane.get(pods).await.0, 403, "round {round}");
        cluster.bind("default", "b", ("Role", "r"), user("jane")).await;
        refused(
            jane.get(pods).await,
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "r" not found"#,
        );
        cluster.role("default", "r", json!([rule(&["list"], "", "pods")])).await;
        assert_eq!(jane.get(pods).await.0, 200, "round {round}");
        assert_eq!(jane.get("/api/v1/namespaces/kube-system/pods").await.0, 403);
        assert_eq!(jane.get("/api/v1/pods").await.0, 403);
        cluster.admin().delete(&format!("{}/r", collection("roles", "default"))).await;
        assert_eq!(jane.get(pods).await.0, 403);
        cluster.admin().delete(&format!("{}/b", collection("rolebindings", "default"))).await;
    }
    // A cluster role within a namespace, and everywhere.
    cluster.bind("default", "c", ("ClusterRole", "view"), json!({"kind": "Group", "name": "dev"})).await;
    assert_eq!(jane.get(pods).await.0, 200);
    assert_eq!(jane.get("/api/v1/namespaces/default").await.0, 200, "the namespace itself");
    assert_eq!(jane.get("/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(jane.get("/api/v1/pods").await.0, 403);
    cluster.bind("", "c", ("ClusterRole", "view"), json!({"kind": "Group", "name": "dev"})).await;
    assert_eq!(jane.get("/api/v1/pods").await.0, 200);
    assert_eq!(jane.get("/api/v1/nodes").await.0, 403);
}

#[tokio::test]
async fn names_of_objects() {
    let cluster = Cluster::new().await;
    let mut one = rule(&["get", "list", "watch", "update"], "", "configmaps");
    one["resourceNames"] = json!(["a"]);
    cluster.role("default", "r", json!([one])).await;
    cluster.bind("default", "b", ("Role", "r"), user("jane")).await;
    let jane = cluster.user("jane", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(jane.get(&format!("{maps}/a")).await.0, 404);
    assert_eq!(jane.get(&format!("{maps}/b")).await.0, 403);
    assert_eq!(jane.get(maps).await.0, 403);
    assert_eq!(jane.get(&format!("{maps}?fieldSelector=metadata.name%3Da")).await.0, 200);
    assert_eq!(jane.get(&format!("{maps}?fieldSelector=metadata.name%3Db")).await.0, 403);
    assert_eq!(jane.get(&format!("{maps}?fieldSelector=metadata.name!%3Da")).await.0, 403);
}

#[tokio::test]
async fn a_change_that_creates_takes_the_right_to_create() {
    let cluster = Cluster::new().await;
    cluster.role("default", "r", json!([rule(&["get", "patch", "update"], "", "configmaps")])).await;
    cluster.bind("default", "b", ("Role", "r"), user("jane")).await;
    let jane = cluster.user("jane", &[]);
    let map = "/api/v1/namespaces/default/configmaps/a";
    let apply = |uri: String| {
        let request = Request::builder().method(Method::PATCH).uri(uri);
        let request = request.header("content-type", "application/apply-patch+yaml");
        request.body(Full::<Bytes>::from(r#"{"apiVersion":"v1","kind":"ConfigMap"}"#)).unwrap()
    };
    let uri = format!("{map}?fieldManager=m");
    let answered = cluster.server.service(jane.user.clone()).oneshot(apply(uri.clone())).await.unwrap();
    let bytes = answered.into_body().collect().await.unwrap().to_bytes();
    refused(
        (403, serde_json::from_slice(&bytes).unwrap()),
        r#"configmaps "a" is forbidden: User "jane" cannot create resource "configmaps" in API group "" in the namespace "default""#,
    );
    let answered = cluster.server.service(cluster.admin().user).oneshot(apply(uri.clone())).await.unwrap();
    assert_eq!(answered.status(), 201);
    let answered = cluster.server.service(jane.user.clone()).oneshot(apply(uri)).await.unwrap();
    assert_eq!(answered.status(), 200);
}

#[tokio::test]
async fn every_cluster_has_its_roles() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let get = async |name: &str| admin.get(&format!("{RBAC}/clusterroles/{name}")).await.1;
    let view = get("view").await;
    assert_eq!(view["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    assert_eq!(view["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
    let gathered = get("system:aggregate-to-view").await;
    let figures = get("system:aggregated-metrics-reader").await;
    let mut rules = gathered["rules"].as_array().unwrap().clone();
    rules.extend(figures["rules"].as_array().unwrap().iter().cloned());
    assert_eq!(view["rules"], Value::Array(rules));
    let count = |role: &Value| role["rules"].as_array().map_or(0, Vec::len);
    let (edit, all) = (get("edit").await, get("admin").await);
    assert!(count(&view) < count(&edit) && count(&edit) < count(&all), "each gathers the one before");

    // Nothing is written when nothing is missing, but for the server's own lease.
    let before = cluster.store.revision();
    let again = Server::new(ServerConfig::new(cluster.dir.path()), cluster.store.clone()).unwrap();
    again.bootstrap().await.unwrap();
    assert_eq!(cluster.store.revision(), before + 1);

    // What somebody removed comes back, what they added stays, and what they protect is left alone.
    let own = rule(&["get"], "example.com", "things");
    admin.patch(&format!("{RBAC}/clusterroles/system:basic-user"), json!({"rules": [own]})).await;
    let protect = json!({
        "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": [own],
    });
    admin.patch(&format!("{RBAC}/clusterroles/system:auth-delegator"), protect).await;
    admin.delete(&format!("{RBAC}/clusterrolebindings/system:discovery")).await;
    assert_eq!(cluster.user("jane", &[]).get("/apis").await.0, 403);
    again.bootstrap().await.unwrap();
    assert_eq!(cluster.user("jane", &[]).get("/apis").await.0, 200);
    assert_eq!(count(&get("system:basic-user").await), 4, "one rule for each resource that was missing");
    assert_eq!(get("system:auth-delegator").await["rules"], json!([own]));
}

#[tokio::test]
async fn aggregated_roles_follow() {
    let cluster = Cluster::new().await;
    let (admin, jane) = (cluster.admin(), cluster.user("jane", &[]));
    cluster.bind("default", "b", ("ClusterRole", "admin"), user("jane")).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    assert_eq!(jane.get(things).await.0, 403);
    let labels = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let role = json!({
        "kind": "ClusterRole", "metadata": {"name": "things", "labels": labels},
        "rules": [rule(&["list"], "example.com", "things")],
    });
    admin.put(&format!("{RBAC}/clusterroles"), role).await;
    assert_eq!(jane.get(things).await.0, 404, "through view, edit and admin");
    admin.patch(&format!("{RBAC}/clusterroles/things"), json!({"rules": []})).await;
    assert_eq!(jane.get(things).await.0, 403);
    let mine = json!({"rules": [rule(&["*"], "*", "*")]});
    let (code, written) = admin.patch(&format!("{RBAC}/clusterroles/view"), mine).await;
    assert_eq!(code, 200, "{written}");
    let (_, view) = admin.get(&format!("{RBAC}/clusterroles/view")).await;
    assert_ne!(view["rules"], json!([rule(&["*"], "*", "*")]), "the rules are what is gathered");
    admin.delete(&format!("{RBAC}/clusterroles/things")).await;
    assert_eq!(jane.get(things).await.0, 403);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = Cluster::new().await;
    cluster.bind("default", "b", ("ClusterRole", "admin"), user("jane")).await;
    let jane = cluster.user("jane", &["dev"]);
    let roles = collection("roles", "default");
    let role = |rules: Value| json!({"kind": "Role", "metadata": {"name": "r"}, "rules": rules});
    refused(
        jane.post(&roles, role(json!([rule(&["get", "list"], "", "nodes"), rule(&["get"], "", "pods")])))
            .await,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}",
    );
    jane.put(&roles, role(json!([rule(&["get"], "", "pods")]))).await;
    let (code, _) = jane.patch(&format!("{roles}/r"), json!({"rules": [rule(&["*"], "", "nodes")]})).await;
    assert_eq!(code, 403);
    let (code, _) = jane.patch(&format!("{roles}/r"), json!({"metadata": {"finalizers": ["a/b"]}})).await;
    assert_eq!(code, 200);

    // Bindings: roles that one holds, and no others.
    let binding = |name: &str, kind: &str, role: &str| {
        json!({
            "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [user("joe")],
        })
    };
    let bindings = collection("rolebindings", "default");
    jane.put(&bindings, binding("held", "Role", "r")).await;
    jane.put(&bindings, binding("edit", "ClusterRole", "edit")).await;
    let (code, status) = jane.post(&bindings, binding("all", "ClusterRole", "cluster-admin")).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 403, "{message}");
    assert!(
        message.ends_with(
            "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        ),
        "{message}"
    );
    let (code, status) = jane.post(&bindings, binding("none", "ClusterRole", "gone")).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (404, r#"clusterroles.rbac.authorization.k8s.io "gone" not found"#)
    );
    let moved =
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let (code, status) = jane.patch(&format!("{bindings}/held"), moved).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("cannot change roleRef"), "{status}");

    // The verbs `bind` and `escalate` lift the checks.
    cluster
        .role(
            "default",
            "may",
            json!([
                rule(&["bind"], "rbac.authorization.k8s.io", "clusterroles"),
                rule(&["escalate"], "rbac.authorization.k8s.io", "roles")
            ]),
        )
        .await;
    cluster.bind("default", "may", ("Role", "may"), user("jane")).await;
    jane.put(&bindings, binding("all", "ClusterRole", "cluster-admin")).await;
    let (code, _) = jane.patch(&format!("{roles}/r"), json!({"rules": [rule(&["*"], "", "nodes")]})).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn gathering_rules_takes_an_administrator() {
    let cluster = Cluster::new().await;
    cluster.role("", "roles", json!([rule(&["*"], "rbac.authorization.k8s.io", "clusterroles")])).await;
    let all =
        json!([rule(&["create"], "rbac.authorization.k8s.io", "clusterroles"), rule(&["get"], "", "pods")]);
    cluster.role("", "creator", all).await;
    cluster.bind("", "creator", ("ClusterRole", "creator"), user("jane")).await;
    let jane = cluster.user("jane", &[]);
    let gathers = json!({
        "kind": "ClusterRole", "metadata": {"name": "g"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
    });
    let roles = format!("{RBAC}/clusterroles");
    refused(
        jane.post(&roles, gathers).await,
        r#"clusterroles.rbac.authorization.k8s.io "g" is forbidden: must have cluster-admin privileges to use an aggregationRule"#,
    );
    let plain =
        json!({"kind": "ClusterRole", "metadata": {"name": "g"}, "rules": [rule(&["get"], "", "pods")]});
    jane.put(&roles, plain).await;
}

#[tokio::test]
async fn reviews_ask_the_authorizer() {
    let cluster = Cluster::new().await;
    cluster
        .bind(
            "default",
            "v",
            ("ClusterRole", "view"),
            json!({"kind": "ServiceAccount", "name": "sa", "namespace": "d"}),
        )
        .await;
    let (admin, account) = (cluster.admin(), "system:serviceaccount:d:sa");
    let list = |namespace: &str| json!({"verb": "list", "resource": "pods", "namespace": namespace});
    let about = |namespace: &str| json!({"user": account, "resourceAttributes": list(namespace)});
    let (code, answer) = admin.review("SubjectAccessReview", about("default")).await;
    assert_eq!(code, 201);
    assert_eq!(
        answer["status"],
        json!({"allowed": true, "reason": r#"RBAC: allowed by RoleBinding "v/default" of ClusterRole "view" to ServiceAccount "sa/d""#})
    );
    assert_eq!(
        admin.review("SubjectAccessReview", about("other")).await.1["status"],
        json!({"allowed": false})
    );
    let (code, answer) = admin.review("SubjectAccessReview", json!({"resourceAttributes": list("d")})).await;
    assert_eq!(code, 422, "{answer}");
    let (code, _) = admin.review("SubjectAccessReview", json!({"user": "x"})).await;
    assert_eq!(code, 422);
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let review = |namespace: &str| json!({"kind": "LocalSubjectAccessReview", "spec": about(namespace)});
    assert_eq!(admin.post(local, review("default")).await.1["status"]["allowed"], true);
    assert_eq!(admin.post(local, review("other")).await.0, 422);

    let me = cluster.user(account, &["system:serviceaccounts"]);
    let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/apis/apps"}});
    assert_eq!(me.review("SelfSubjectAccessReview", path).await.1["status"]["allowed"], true);
    let own = json!({"resourceAttributes": list("default")});
    assert_eq!(me.review("SelfSubjectAccessReview", own).await.1["status"]["allowed"], true);
    let (_, rules) = me.review("SelfSubjectRulesReview", json!({"namespace": "default"})).await;
    let has = |list: &Value, wanted: &str| {
        list.as_array().unwrap().iter().any(|rule| rule.to_string().contains(wanted))
    };
    assert!(has(&rules["status"]["resourceRules"], "deployments/scale"), "{rules}");
    assert!(has(&rules["status"]["nonResourceRules"], "/openid/v1/jwks"), "{rules}");
    assert_eq!(rules["status"]["incomplete"], false);
    assert_eq!(me.review("SelfSubjectRulesReview", json!({})).await.0, 400);
    assert_eq!(admin.review("TokenReview", json!({"token": ""})).await.0, 400);
    assert_eq!(admin.review("TokenReview", json!({"token": "x"})).await.1["status"]["authenticated"], false);
    refused(
        me.review("SubjectAccessReview", about("default")).await,
        r#"subjectaccessreviews.authorization.k8s.io is forbidden: User "system:serviceaccount:d:sa" cannot create resource "subjectaccessreviews" in API group "authorization.k8s.io" at the cluster scope"#,
    );
}

#[tokio::test]
async fn impersonation_takes_the_verb_for_each_part() {
    let cluster = Cluster::new().await;
    let mut jane = cluster.user("jane", &[]);
    jane.headers = vec![("impersonate-user", "joe".into()), ("impersonate-group", "dev".into())];
    let pods = "/api/v1/namespaces/default/pods";
    refused(
        jane.get(pods).await,
        r#"users "joe" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#,
    );
    let mut joe = rule(&["impersonate"], "", "users");
    joe["resourceNames"] = json!(["joe"]);
    cluster.role("", "as-joe", json!([joe])).await;
    cluster.bind("", "as-joe", ("ClusterRole", "as-joe"), user("jane")).await;
    refused(
        jane.get(pods).await,
        r#"groups "dev" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
    );
    jane.headers.pop();
    refused(
        jane.get(pods).await,
        r#"pods is forbidden: User "joe" cannot list resource "pods" in API group "" in the namespace "default""#,
    );
    jane.headers.push(("impersonate-extra-scopes", "all".into()));
    refused(
        jane.get(pods).await,
        r#"userextras.authentication.k8s.io "all" is forbidden: User "jane" cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster scope"#,
    );
    jane.headers = vec![("impersonate-user", "system:serviceaccount:default:sa".into())];
    assert_eq!(jane.get(pods).await.0, 403);
    cluster.bind("default", "edit", ("ClusterRole", "edit"), user("jane")).await;
    let (_, me) = jane.review("SelfSubjectReview", json!({})).await;
    assert_eq!(
        me["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    jane.headers = vec![("impersonate-group", "dev".into())];
    assert_eq!(jane.get(pods).await.0, 400);
    // An administrator acts as anybody, and has then no more rights than they.
    let mut admin = cluster.admin();
    admin.headers = vec![("impersonate-user", "joe".into()), ("impersonate-uid", "7".into())];
    assert_eq!(admin.get(pods).await.0, 403);
}

/// All rights in a Namespace are rights in that one: its path leads to no other Namespace.
#[tokio::test]
async fn the_owner_of_a_namespace_reaches_no_other() {
    let cluster = Cluster::new().await;
    for name in ["team", "other"] {
        cluster.admin().put("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    cluster.bind("team", "owner", ("ClusterRole", "cluster-admin"), user("jane")).await;
    let jane = cluster.user("jane", &[]);
    assert_eq!(jane.get("/api/v1/namespaces/team").await.0, 200);
    let beyond = ["/api/v1/namespaces/team/namespaces", "/api/v1/namespaces/team/namespaces/other"];
    for path in beyond {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let (code, answer) =
                jane.send(method.clone(), path, &json!({"metadata": {"name": "other"}})).await;
            assert!(matches!(code, 403..=405), "{method} {path}: {code} {answer}");
        }
    }
    assert_eq!(cluster.admin().get("/api/v1/namespaces/other").await.0, 200);
}

/// A node is given tokens for its own pods' accounts, whatever roles those have; never for anybody else's.
#[tokio::test]
async fn a_node_becomes_no_account_but_those_of_its_pods() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    admin.put("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}})).await;
    for (pod, node) in [("here", "n1"), ("there", "n2")] {
        let spec = json!({"nodeName": node, "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]});
        admin.put("/api/v1/namespaces/default/pods", json!({"metadata": {"name": pod}, "spec": spec})).await;
    }
    let node = cluster.user("system:node:n1", &["system:nodes"]);
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let bound =
        |pod: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}});
    for (request, expected) in [(json!({"spec": {}}), 403), (bound("there"), 403), (bound("here"), 201)] {
        let (code, answer) = node.post(path, request.clone()).await;
        assert_eq!(code, expected, "{request}: {answer}");
    }
}
