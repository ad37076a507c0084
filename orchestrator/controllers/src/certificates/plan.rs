//! What to do with a CertificateSigningRequest. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::authority::Subject;

pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";
/// For how long the cluster signs at most.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a request that somebody decided on is kept.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long a request that nobody decided on is kept.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until it changes, or until it is old.
    Wait,
    /// Approve it, if it is what a node may ask for.
    Recognize,
    /// Sign it.
    Sign,
    /// It is old.
    Remove,
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition> {
    request.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

/// What to do now.
pub(super) fn next(request: &CertificateSigningRequest, now: Timestamp) -> Next {
    if expires(request).is_some_and(|end| end <= now) {
        return Next::Remove;
    }
    let (approved, denied) = (has(request, "Approved"), has(request, "Denied"));
    let signer = request.spec.signer_name.as_str();
    if denied || issued(request) || has(request, "Failed") {
        return Next::Wait;
    }
    match (approved, signer) {
        (true, KUBELET_CLIENT | KUBELET_SERVING | CLIENT | LEGACY) => Next::Sign,
        (false, KUBELET_CLIENT) => Next::Recognize,
        _ => Next::Wait,
    }
}

/// When the request is to be removed.
pub(super) fn expires(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let created = request.metadata.creation_timestamp.as_ref()?.0;
    let decided = conditions(request)
        .filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed"))
        .filter_map(|condition| condition.last_update_time.as_ref())
        .map(|time| time.0)
        .max();
    let (from, keep) = match decided {
        // Approved and not yet signed waits for another signer as long as one that is pending.
        Some(_) if has(request, "Approved") && !issued(request) && !has(request, "Failed") => {
            (created, PENDING)
        }
        Some(when) => (when, DECIDED),
        None => (created, PENDING),
    };
    from.checked_add(keep).ok()
}

/// For how long to sign.
pub(super) fn lasts(request: &CertificateSigningRequest) -> Duration {
    let asked = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    asked.map_or(LONGEST, |seconds| Duration::from_secs(seconds).min(LONGEST))
}

/// Why the signer does not sign it.
pub(super) fn refusal(signer: &str, subject: &Subject, usages: &[String]) -> Option<&'static str> {
    match signer {
        CLIENT => client(usages),
        KUBELET_CLIENT => kubelet_client(subject, usages),
        KUBELET_SERVING => kubelet_serving(subject, usages),
        _ => None,
    }
}

fn client(usages: &[String]) -> Option<&'static str> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if !usages.iter().any(|usage| usage == "client auth") {
        return Some("usages must include \"client auth\"");
    }
    let strange = usages.iter().any(|usage| !known.contains(&usage.as_str()));
    strange.then_some(
        "usages other than \"digital signature\", \"key encipherment\" and \"client auth\" are not allowed",
    )
}

fn node(subject: &Subject) -> Option<&'static str> {
    if subject.organizations != [NODES] {
        return Some("subject organization is not system:nodes");
    }
    (!subject.common_name.starts_with(NODE)).then_some("subject common name does not begin with system:node:")
}

/// What a node may ask for to be a client (also for its automatic approval).
pub(super) fn kubelet_client(subject: &Subject, usages: &[String]) -> Option<&'static str> {
    if let Some(why) = node(subject) {
        return Some(why);
    }
    if subject.hosts > 0 || subject.other_names {
        return Some("subject alternative names are not allowed");
    }
    (!exactly(usages, "client auth"))
        .then_some("usages must be \"digital signature\", \"client auth\" and perhaps \"key encipherment\"")
}

fn kubelet_serving(subject: &Subject, usages: &[String]) -> Option<&'static str> {
    if let Some(why) = node(subject) {
        return Some(why);
    }
    if subject.other_names {
        return Some("only DNS names and addresses are allowed as subject alternative names");
    }
    if subject.hosts == 0 {
        return Some("DNS or IP subjectAltName is required");
    }
    (!exactly(usages, "server auth"))
        .then_some("usages must be \"digital signature\", \"server auth\" and perhaps \"key encipherment\"")
}

/// Signatures and one purpose, and perhaps the encipherment of keys.
fn exactly(usages: &[String], purpose: &str) -> bool {
    let has = |usage: &str| usages.iter().any(|mine| mine == usage);
    let known = ["digital signature", "key encipherment", purpose];
    has("digital signature") && has(purpose) && usages.iter().all(|usage| known.contains(&usage.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(signer: &str, conditions: &[&str], certificate: bool) -> CertificateSigningRequest {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|kind| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}))
            .collect();
        let mut object = json!({
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": "AA==", "signerName": signer, "usages": ["client auth"]},
            "status": {"conditions": conditions},
        });
        if certificate {
            object["status"]["certificate"] = "AA==".into();
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn steps() {
        let at = |text: &str| -> Timestamp { format!("2026-01-{text}:00Z").parse().unwrap() };
        let soon = at("01T10:30");
        let table: [(&str, &[&str], bool, Timestamp, Next); 11] = [
            (KUBELET_CLIENT, &[], false, soon, Next::Recognize),
            (CLIENT, &[], false, soon, Next::Wait),
            (CLIENT, &[], false, at("02T00:00"), Next::Remove),
            (CLIENT, &["Approved"], false, soon, Next::Sign),
            ("example.com/own", &["Approved"], false, soon, Next::Wait),
            ("example.com/own", &["Approved"], false, at("01T12:00"), Next::Wait),
            (CLIENT, &["Approved"], true, soon, Next::Wait),
            (CLIENT, &["Approved"], true, at("01T11:00"), Next::Remove),
            (CLIENT, &["Denied"], false, soon, Next::Wait),
            (CLIENT, &["Denied"], false, at("01T11:00"), Next::Remove),
            (CLIENT, &["Approved", "Failed"], false, soon, Next::Wait),
        ];
        for (signer, conditions, certificate, now, expected) in table {
            let request = request(signer, conditions, certificate);
            assert_eq!(next(&request, now), expected, "{signer} {conditions:?} {certificate} {now}");
        }
    }

    #[test]
    fn durations() {
        let mut request = request(CLIENT, &[], false);
        assert_eq!(lasts(&request), LONGEST);
        request.spec.expiration_seconds = Some(600);
        assert_eq!(lasts(&request), Duration::from_secs(600));
        request.spec.expiration_seconds = Some(i32::MAX);
        assert_eq!(lasts(&request), LONGEST);
    }

    #[test]
    fn what_signers_sign() {
        let node = Subject {
            common_name: "system:node:n1".into(),
            organizations: vec![NODES.into()],
            ..Subject::default()
        };
        let serving = Subject { hosts: 2, ..node.clone() };
        let two = Subject { organizations: vec![NODES.into(), "a".into()], ..node.clone() };
        let jane = Subject { common_name: "jane".into(), ..node.clone() };
        let mail = Subject { other_names: true, ..serving.clone() };
        let (signs, keys) = ("digital signature", "key encipherment");
        let table: [(&str, &Subject, &[&str], bool); 14] = [
            (CLIENT, &jane, &["client auth"], true),
            (CLIENT, &jane, &["client auth", signs, keys], true),
            (CLIENT, &jane, &[signs], false),
            (CLIENT, &jane, &["client auth", "server auth"], false),
            (KUBELET_CLIENT, &node, &["client auth", signs, keys], true),
            (KUBELET_CLIENT, &node, &["client auth", signs], true),
            (KUBELET_CLIENT, &node, &["client auth", keys], false),
            (KUBELET_CLIENT, &serving, &["client auth", signs], false),
            (KUBELET_CLIENT, &two, &["client auth", signs], false),
            (KUBELET_CLIENT, &jane, &["client auth", signs], false),
            (KUBELET_SERVING, &serving, &["server auth", signs], true),
            (KUBELET_SERVING, &node, &["server auth", signs], false),
            (KUBELET_SERVING, &mail, &["server auth", signs], false),
            (LEGACY, &jane, &["any"], true),
        ];
        for (signer, subject, usages, signed) in table {
            let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
            let why = refusal(signer, subject, &usages);
            assert_eq!(why.is_none(), signed, "{signer} {subject:?} {usages:?}: {why:?}");
        }
    }
}
