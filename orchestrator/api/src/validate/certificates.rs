//! CertificateSigningRequests: everything but the request itself, which takes cryptography to check.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{Errors, Subresource};
use crate::field_error::{FieldError, Path};
use crate::fields::{list, number, text, texts};
use crate::name;

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The rules for a new request.
pub(super) fn create(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let usages = SPEC.child("usages");
    if list(spec, "usages").is_empty() {
        errors.push(FieldError::required(&usages, ""));
    }
    let mut seen = Vec::new();
    for (i, usage) in texts(spec, "usages").enumerate() {
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(&usages.index(i), usage, &USAGES));
        } else if seen.contains(&usage) {
            errors.push(FieldError::duplicate(&usages.index(i), usage));
        }
        seen.push(usage);
    }
    signer(text(spec, "signerName"), errors);
    if let Some(seconds) = number(spec, "expirationSeconds").filter(|seconds| *seconds < 600) {
        let message = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&SPEC.child("expirationSeconds"), seconds, message));
    }
}

fn signer(signer: &str, errors: &mut Errors) {
    let path = SPEC.child("signerName");
    let mut wrong = |message: String| errors.push(FieldError::invalid(&path, signer, message));
    if signer.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    if signer == LEGACY {
        return wrong("the legacy signerName is not allowed via this API version".to_owned());
    }
    let parts: Vec<&str> = signer.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        return wrong(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'".to_owned(),
        );
    };
    for message in name::dns1123_subdomain(domain) {
        wrong(format!("validating label {domain:?}: {message}"));
    }
    if !domain.contains('.') {
        wrong("should be a domain with at least two segments separated by dots".to_owned());
    }
    for label in rest.split('.') {
        for message in name::dns1123_subdomain(label) {
            wrong(format!("validating label {label:?}: {message}"));
        }
    }
    // Namespace and name of an object with a dot between them are to have room.
    if signer.len() > 571 {
        errors.push(FieldError::too_long(&path, 571));
    }
}

/// What may change, and the rules for what came anew.
pub(super) fn update(new: &Value, old: &Value, part: Subresource, errors: &mut Errors) {
    conditions(new, errors);
    let path = STATUS.child("conditions");
    let of_kind = |o: &Value, kind: &str| -> Vec<Value> {
        list(&o["status"], "conditions").iter().filter(|c| text(c, "type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (before, after) = (of_kind(old, kind), of_kind(new, kind));
        if after.len() < before.len() {
            let message = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&path, message));
        } else if part != Subresource::Approval && kind != "Failed" && after != before {
            let does = if after.len() > before.len() { "add" } else { "modify" };
            let message = format!("updates may not {does} a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&path, message));
        }
    }
    certificate(new, old, part, errors);
}

fn certificate(new: &Value, old: &Value, part: Subresource, errors: &mut Errors) {
    let (before, after) = (text(&old["status"], "certificate"), text(&new["status"], "certificate"));
    if before == after {
        return;
    }
    let path = STATUS.child("certificate");
    if part != Subresource::Status {
        errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
    } else if !before.is_empty() {
        errors.push(FieldError::forbidden(&path, "updates may not modify existing certificate content"));
    } else if let Some(message) = certificate_fault(after) {
        errors.push(FieldError::invalid(&path, "<certificate data>", message));
    }
}

/// Certificates in PEM and nothing else, as text in base64.
fn certificate_fault(base64: &str) -> Option<&'static str> {
    let pem = BASE64_STANDARD.decode(base64).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(pem) = pem else { return Some("it is not text in base64") };
    let blocks: Vec<&str> = pem.lines().filter(|line| line.starts_with("-----BEGIN ")).collect();
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block");
    }
    let strange = blocks.iter().any(|line| line.trim_end() != "-----BEGIN CERTIFICATE-----");
    strange.then_some("only CERTIFICATE PEM blocks are allowed")
}

fn conditions(o: &Value, errors: &mut Errors) {
    let path = STATUS.child("conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in list(&o["status"], "conditions").iter().enumerate() {
        let (path, kind, status) = (path.index(i), text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.push(FieldError::required(&path.child("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::not_supported(&path.child("status"), status, allowed));
        }
        let other = if kind == "Approved" { "Denied" } else { "Approved" };
        if matches!(kind, "Approved" | "Denied") && seen.contains(&other) {
            let message = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("type"), kind, message));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        seen.push(kind);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_requests() {
        let good = json!({"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth", "signing"]});
        let table = [
            ("usages", json!([]), "spec.usages: Required value"),
            ("usages", json!(["flying"]), "spec.usages[0]: Unsupported value: \"flying\""),
            ("usages", json!(["any", "any"]), "spec.usages[1]: Duplicate value: \"any\""),
            ("signerName", json!(""), "spec.signerName: Required value"),
            (
                "signerName",
                json!(LEGACY),
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy",
            ),
            (
                "signerName",
                json!("a"),
                "spec.signerName: Invalid value: \"a\": must be a fully qualified domain",
            ),
            ("signerName", json!("a.b/c/d"), "spec.signerName: Invalid value: \"a.b/c/d\": must be a fully"),
            ("signerName", json!("a/b"), "spec.signerName: Invalid value: \"a/b\": should be a domain"),
            (
                "signerName",
                json!("A.b/c"),
                "spec.signerName: Invalid value: \"A.b/c\": validating label \"A.b\"",
            ),
            ("expirationSeconds", json!(599), "spec.expirationSeconds: Invalid value: 599: may not specify"),
        ];
        let judged = |spec: &Value| {
            let mut errors = Errors::new();
            create(&json!({"spec": spec}), &mut errors);
            said(&errors)
        };
        assert_eq!(judged(&good), Vec::<String>::new());
        for (field, value, expected) in table {
            let mut spec = good.clone();
            spec[field] = value;
            let errors = judged(&spec);
            assert!(errors.iter().any(|error| error.starts_with(expected)), "{errors:?} for {expected}");
        }
    }

    #[test]
    fn changes() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let status = |conditions: Value, certificate: &str| json!({"status": {"conditions": conditions, "certificate": certificate}});
        let pem = BASE64_STANDARD.encode("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n");
        let key = BASE64_STANDARD.encode("-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n");
        let none = status(json!([]), "");
        let approved = status(json!([condition("Approved")]), "");
        let (main, set, approval) = (Subresource::Main, Subresource::Status, Subresource::Approval);
        let table = [
            (&none, approved.clone(), approval, None),
            (&none, approved.clone(), set, Some("may not add a condition of type \"Approved\"")),
            (&approved, none.clone(), approval, Some("may not remove a condition of type \"Approved\"")),
            (&none, status(json!([condition("Failed")]), ""), set, None),
            (
                &none,
                status(json!([condition("Approved"), condition("Denied")]), ""),
                approval,
                Some("mutually exclusive"),
            ),
            (
                &none,
                status(json!([{"type": "Approved", "status": "False"}]), ""),
                approval,
                Some("Unsupported value: \"False\""),
            ),
            (&none, status(json!([{"type": "Other"}]), ""), approval, Some("conditions[0].status: Required")),
            (&none, status(json!([]), &pem), set, None),
            (&none, status(json!([]), &pem), approval, Some("may not set certificate content")),
            (&none, status(json!([]), &pem), main, Some("may not set certificate content")),
            (&none, status(json!([]), &key), set, Some("only CERTIFICATE PEM blocks")),
            (&none, status(json!([]), "AAAA"), set, Some("at least one CERTIFICATE")),
        ];
        for (old, new, part, expected) in table {
            let mut errors = Errors::new();
            update(&new, old, part, &mut errors);
            let errors = said(&errors);
            match expected {
                None => assert_eq!(errors, Vec::<String>::new(), "{new} {part:?}"),
                Some(text) => {
                    assert!(errors.iter().any(|error| error.contains(text)), "{errors:?} for {text}")
                }
            }
        }
    }
}
