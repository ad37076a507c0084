//! Certificate requests and Secrets that hold tokens: approved, signed, filled and removed by controllers.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use catamaran_server::UserInfo;

use crate::world::{World, wait_until};

fn pem(user: &str, group: &str) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn request(name: &str, pem: &str, (signer, usages): (&str, &[&str])) -> CertificateSigningRequest {
    let mut request: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"request": "", "signerName": signer, "usages": usages, "expirationSeconds": 3600},
    }))
    .unwrap();
    request.spec.request.0 = pem.as_bytes().to_vec();
    request
}

async fn certificate(requests: &Api<CertificateSigningRequest>, name: &str) -> Option<Vec<u8>> {
    Some(requests.get(name).await.unwrap().status?.certificate?.0).filter(|pem| !pem.is_empty())
}

fn condition(request: &CertificateSigningRequest, kind: &str) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    Some(conditions.iter().find(|condition| condition.type_ == kind)?.message.clone().unwrap_or_default())
}

async fn approve(requests: &Api<CertificateSigningRequest>, name: &str, kind: &str) {
    let conditions = json!([{"type": kind, "status": "True", "reason": "KubectlApprove", "message": "m"}]);
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    requests.patch_approval(name, &PatchParams::default(), &patch).await.unwrap();
}

const CLIENT: (&str, &[&str]) = ("kubernetes.io/kube-apiserver-client", &["client auth"]);
const KUBELET: (&str, &[&str]) =
    ("kubernetes.io/kube-apiserver-client-kubelet", &["digital signature", "client auth"]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_approved_is_signed() {
    let world = World::new().await;
    let requests: Api<CertificateSigningRequest> = Api::all(world.client());
    let create = async |request: CertificateSigningRequest| {
        requests.create(&PostParams::default(), &request).await.unwrap();
    };
    create(request("jane", &pem("jane", "dev"), CLIENT)).await;
    create(request("denied", &pem("jane", "dev"), CLIENT)).await;
    create(request("servant", &pem("jane", "dev"), (CLIENT.0, &["server auth"]))).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(certificate(&requests, "jane").await.is_none(), "nobody approved it");
    approve(&requests, "jane", "Approved").await;
    approve(&requests, "denied", "Denied").await;
    approve(&requests, "servant", "Approved").await;
    wait_until("it is signed", || async { certificate(&requests, "jane").await.is_some() }).await;
    let text = certificate(&requests, "jane").await.unwrap();
    assert!(text.starts_with(b"-----BEGIN CERTIFICATE-----"));
    wait_until("the signer says why not", || async {
        condition(&requests.get("servant").await.unwrap(), "Failed")
            .is_some_and(|why| why.contains("client auth"))
    })
    .await;
    assert!(certificate(&requests, "denied").await.is_none());
    world.stop().await;
}

/// A machine with a bootstrap token becomes a node: its request is approved when whoever asks may ask for nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_their_certificates_by_themselves() {
    let world = World::new().await;
    let admin: Api<CertificateSigningRequest> = Api::all(world.client());
    let of = |user: UserInfo| -> Api<CertificateSigningRequest> {
        Api::all(Client::new(world.service(user), "default"))
    };
    let joins = UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let node = UserInfo::new("system:node:n1", &["system:nodes"]);
    let asks = [
        (&joins, "first", "system:node:n1", KUBELET, true),
        (&node, "again", "system:node:n1", KUBELET, true),
        (&node, "other", "system:node:n2", KUBELET, false),
        (&joins, "person", "jane", KUBELET, false),
        (&joins, "client", "system:node:n1", CLIENT, false),
    ];
    for (user, name, subject, kind, _) in asks {
        let request = request(name, &pem(subject, "system:nodes"), kind);
        of(user.clone()).create(&PostParams::default(), &request).await.unwrap();
    }
    for (_, name, .., good) in asks.iter().filter(|ask| ask.4) {
        wait_until("it is approved and signed", || async { certificate(&admin, name).await.is_some() }).await;
        assert!(good);
    }
    let first = admin.get("first").await.unwrap();
    assert!(condition(&first, "Approved").unwrap().starts_with("Auto approving kubelet client certificate"));
    let again = admin.get("again").await.unwrap();
    assert!(
        condition(&again, "Approved").unwrap().starts_with("Auto approving self kubelet client certificate")
    );
    for (_, name, ..) in asks.iter().filter(|ask| !ask.4) {
        let request = admin.get(name).await.unwrap();
        assert_eq!(condition(&request, "Approved"), None, "{name} waits for somebody");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_accounts_are_filled_and_go_with_them() {
    let world = World::new().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), "default");
    let secrets: Api<Secret> = Api::namespaced(world.client(), "default");
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "robot"}})).unwrap();
    let made = accounts.create(&PostParams::default(), &account).await.unwrap();
    let secret = json!({
        "metadata": {"name": "kept", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token",
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let filled = async || secrets.get("kept").await.unwrap().data.unwrap_or_default();
    wait_until("it has a token", || async { filled().await.contains_key("token") }).await;
    let data = filled().await;
    assert_eq!(data["namespace"].0, b"default");
    assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let annotations = secrets.get("kept").await.unwrap().metadata.annotations.unwrap();
    assert_eq!(Some(&annotations["kubernetes.io/service-account.uid"]), made.metadata.uid.as_ref());
    let token = String::from_utf8(data["token"].0.clone()).unwrap();
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token), ..TokenReviewSpec::default() },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(world.client());
    let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert_eq!(status.user.unwrap().username.as_deref(), Some("system:serviceaccount:default:robot"));

    let expired = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"expiration": "2020-01-01T00:00:00Z", "token-id": "abcdef", "token-secret": "0123456789abcdef"},
    });
    let system: Api<Secret> = Api::namespaced(world.client(), "kube-system");
    system.create(&PostParams::default(), &serde_json::from_value(expired).unwrap()).await.unwrap();
    wait_until("it is over", || async { system.get_opt("bootstrap-token-abcdef").await.unwrap().is_none() })
        .await;

    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    // Whoever touches the Secret makes the controller look; it also does so by itself, each minute.
    let touch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    secrets.patch("kept", &PatchParams::default(), &touch).await.unwrap();
    wait_until("it goes with its account", || async { secrets.get_opt("kept").await.unwrap().is_none() })
        .await;
    world.stop().await;
}
