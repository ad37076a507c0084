//! Who may ask, and what is refused.

use super::*;

fn certificate(name: &str, group: &str) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn only_the_server_and_administrators_may_ask() {
    let table = [
        ("system:kube-apiserver", "x", true),
        ("admin", "system:masters", true),
        ("system:node:n2", "system:nodes", false),
        ("alice", "developers", false),
    ];
    for (name, group, expected) in table {
        assert_eq!(may_ask(&certificate(name, group)), expected, "{name}");
    }
    assert!(!may_ask(&CertificateDer::from(b"garbage".to_vec())));
}

#[test]
fn containers_that_were_never_made_are_waiting() {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}))
            .unwrap();
    let refused = find_container(&pod, &PodRecord::default(), "c").unwrap_err();
    assert_eq!(refused.1, "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
    let table = [
        ("PodInitializing", "PodInitializing"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
    ];
    for (reason, told) in table {
        let mut pod = pod.clone();
        let state = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason}}}]});
        pod.status = Some(serde_json::from_value(state).unwrap());
        let refused = find_container(&pod, &PodRecord::default(), "c").unwrap_err();
        assert!(refused.1.ends_with(&format!("waiting to start: {told}")), "{}", refused.1);
    }
    let unknown = find_container(&pod, &PodRecord::default(), "d").unwrap_err();
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
}
