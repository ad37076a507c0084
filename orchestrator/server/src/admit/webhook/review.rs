//! `admission.k8s.io/v1 AdmissionReview`: the question to a webhook and what its answer means. Pure.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use catamaran_api::kind::{GroupVersionKind, Resource};
use catamaran_api::status::{Outcome, Status, quoted};

use super::hook::Operation;
use crate::authenticate::UserInfo;
use crate::options::DryRun;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What a webhook is asked about.
pub(super) struct Question<'a> {
    pub(super) uid: &'a str,
    pub(super) operation: Operation,
    /// As the request names the resource, and as the webhook wants to see it.
    pub(super) asked: &'static Resource,
    pub(super) seen: &'static Resource,
    /// Kind of the objects, as asked and as seen; another one than the resource's for some subresources.
    pub(super) kinds: (GroupVersionKind, GroupVersionKind),
    pub(super) subresource: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) user: &'a UserInfo,
    pub(super) object: &'a Value,
    pub(super) old: &'a Value,
    pub(super) options: &'a Value,
    pub(super) dry_run: DryRun,
}

impl Question<'_> {
    pub(super) fn to_value(&self) -> Value {
        let kind =
            |kind: GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let resource = |resource: &Resource| json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
        let mut user = json!({"username": self.user.name, "groups": self.user.groups});
        if let Some(uid) = &self.user.uid {
            user["uid"] = uid.as_str().into();
        }
        if !self.user.extra.is_empty() {
            user["extra"] = json!(self.user.extra);
        }
        let mut request = json!({
            "uid": self.uid,
            "kind": kind(self.kinds.1), "resource": resource(self.seen),
            "requestKind": kind(self.kinds.0), "requestResource": resource(self.asked),
            "operation": self.operation.as_str(), "userInfo": user,
            "object": self.object, "oldObject": self.old,
            "dryRun": self.dry_run == DryRun::All, "options": self.options,
        });
        for (field, text) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                request[field] = text.into();
            }
        }
        json!({"kind": KIND, "apiVersion": API_VERSION, "request": request})
    }
}

/// What a webhook said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// With a JSON patch, where the webhook changes the object.
    Allowed(Option<Vec<u8>>),
    Denied(Box<Status>),
}

/// Whether a webhook may change objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Mutating,
    Validating,
}

/// Reads the answer of the webhook `name` to the question `uid`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(bytes: &[u8], name: &str, uid: &str, mode: Mode) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let got = response["uid"].as_str().unwrap_or_default();
    if got != uid {
        return Err(format!("expected response.uid={}, got {}", quoted(uid), quoted(got)));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(format!(
            "expected webhook response of {API_VERSION}, Kind={KIND}, got {version}, Kind={kind}"
        ));
    }
    let patch = patch(response, mode)?;
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect();
    let verdict = if response["allowed"] == true {
        Verdict::Allowed(patch)
    } else {
        Verdict::Denied(Box::new(denial(name, &response["status"])))
    };
    Ok(Answer { verdict, warnings })
}

fn patch(response: &Value, mode: Mode) -> Result<Option<Vec<u8>>, String> {
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let kind = response["patchType"].as_str();
    match (mode, patch, kind) {
        (_, None, None) => Ok(None),
        (Mode::Validating, Some(_), _) => Err("validating webhook may not return response.patch".to_owned()),
        (Mode::Validating, None, Some(_)) => {
            Err("validating webhook may not return response.patchType".to_owned())
        }
        (Mode::Mutating, Some(_), None) => {
            Err("webhook returned response.patch but not response.patchType".to_owned())
        }
        (Mode::Mutating, None, Some(_)) => {
            Err("webhook returned response.patchType but not response.patch".to_owned())
        }
        (Mode::Mutating, Some(patch), Some("JSONPatch")) => {
            let decoded = BASE64_STANDARD.decode(patch);
            decoded.map(Some).map_err(|error| format!("response.patch is not base64: {error}"))
        }
        (Mode::Mutating, Some(_), Some("")) => {
            Err("webhook returned invalid response.patchType of \"\"".to_owned())
        }
        (Mode::Mutating, Some(_), Some(other)) => Err(format!("unsupported patch type {}", quoted(other))),
    }
}

/// A refusal in the webhook's words, as far as they make sense.
fn denial(name: &str, said: &Value) -> Status {
    let by = format!("admission webhook {} denied the request", quoted(name));
    let text = |field: &str| said[field].as_str().filter(|text| !text.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{by}: {message}"),
        (None, Some(reason)) => format!("{by}: {reason}"),
        (None, None) => format!("{by} without explanation"),
    };
    let code = said["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    // A reason of their own has no place here; the message has it.
    let reason = serde_json::from_value(said["reason"].clone()).ok();
    let details = serde_json::from_value(said["details"].clone()).ok();
    Status {
        status: Outcome::Failure,
        message,
        reason,
        details,
        code: code.filter(|code| (400..600).contains(code)).unwrap_or(400),
        ..Status::bad_request("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value, mode: Mode) -> Result<Answer, String> {
        let review = json!({"apiVersion": API_VERSION, "kind": KIND, "response": response});
        read(review.to_string().as_bytes(), "a.b.c", "u", mode)
    }

    #[test]
    fn answers_that_make_no_sense() {
        let v1beta1 = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "response": {"uid": "u", "allowed": true}});
        assert_eq!(
            read(v1beta1.to_string().as_bytes(), "a", "u", Mode::Validating).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview"
        );
        assert_eq!(read(b"{}", "a", "u", Mode::Validating).unwrap_err(), "webhook response was absent");
        let table = [
            (json!({"uid": "v"}), Mode::Mutating, "expected response.uid=\"u\", got \"v\""),
            (
                json!({"uid": "u", "patch": "W10="}),
                Mode::Mutating,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                Mode::Mutating,
                "webhook returned response.patchType but not response.patch",
            ),
            (
                json!({"uid": "u", "patch": "W10=", "patchType": "Other"}),
                Mode::Mutating,
                "unsupported patch type \"Other\"",
            ),
            (
                json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}),
                Mode::Validating,
                "validating webhook may not return response.patch",
            ),
        ];
        for (response, mode, expected) in table {
            assert_eq!(answer(response.clone(), mode).unwrap_err(), expected, "{response}");
        }
    }

    #[test]
    fn verdicts() {
        let allowed =
            answer(json!({"uid": "u", "allowed": true, "warnings": ["w"]}), Mode::Validating).unwrap();
        assert_eq!(allowed, Answer { verdict: Verdict::Allowed(None), warnings: vec!["w".into()] });
        let patched = json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"});
        let patched = answer(patched, Mode::Mutating).unwrap();
        assert_eq!(patched.verdict, Verdict::Allowed(Some(b"[]".to_vec())));
        let table = [
            (json!({}), 400, "admission webhook \"a.b.c\" denied the request without explanation"),
            (
                json!({"message": "no", "code": 403, "reason": "Forbidden"}),
                403,
                "admission webhook \"a.b.c\" denied the request: no",
            ),
            (json!({"reason": "Because"}), 400, "admission webhook \"a.b.c\" denied the request: Because"),
            (
                json!({"message": "no", "code": 200}),
                400,
                "admission webhook \"a.b.c\" denied the request: no",
            ),
        ];
        for (said, code, message) in table {
            let denied =
                answer(json!({"uid": "u", "allowed": false, "status": said}), Mode::Validating).unwrap();
            let Verdict::Denied(status) = denied.verdict else { panic!("{denied:?}") };
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
    }
}
