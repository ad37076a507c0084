//! Security contexts.

use serde_json::Value;

use super::super::Errors;
use super::super::check::{in_range, one_of, required};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, list, texts};

const ID_MAX: i64 = i32::MAX as i64;

/// The security context of a pod.
pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if flag(spec, "hostPID") && flag(spec, "shareProcessNamespace") {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, message));
    }
    let Some(context) = at(spec, "securityContext") else { return };
    let path = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        in_range(context, field, 0, ID_MAX, &path, errors);
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|g| !(0..=ID_MAX).contains(&g)) {
            let message = crate::name::inclusive_range(0, ID_MAX);
            errors.push(FieldError::invalid(&groups.index(i), group.clone(), message));
        }
    }
    let sysctls = path.child("sysctls");
    let mut seen = std::collections::BTreeSet::new();
    for (i, one) in list(context, "sysctls").iter().enumerate() {
        let path = sysctls.index(i);
        let Some(name) = required(one, "name", &path, errors) else { continue };
        if !sysctl(name) {
            let message = format!("must have at most 253 characters and match regex {SYSCTL_FORMAT}");
            errors.push(FieldError::invalid(&path.child("name"), name, message));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    seccomp(context, &path, errors);
}

const SYSCTL_FORMAT: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn sysctl(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |part: &str| {
        let bytes = part.as_bytes();
        edge(bytes.first().copied())
            && edge(bytes.last().copied())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn seccomp(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = at(context, "seccompProfile") else { return };
    let path = path.child("seccompProfile");
    one_of(profile, "type", &["Localhost", "RuntimeDefault", "Unconfined"], &path, errors);
    let local = at(profile, "localhostProfile").is_some();
    match crate::fields::text(profile, "type") {
        "Localhost" if !local => {
            let message = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(&path.child("localhostProfile"), message));
        }
        "Localhost" => {}
        _ if local => {
            let value = profile["localhostProfile"].clone();
            let message = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&path.child("localhostProfile"), value, message));
        }
        _ => {}
    }
}

/// The security context of a container.
pub(super) fn container(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = at(container, "securityContext") else { return };
    let path = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        in_range(context, field, 0, ID_MAX, &path, errors);
    }
    seccomp(context, &path, errors);
    if at(context, "allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        let refused = |what: &str| {
            let message = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            FieldError::invalid(&path, context.clone(), message)
        };
        if flag(context, "privileged") {
            errors.push(refused("`privileged` to true"));
        }
        if texts(context, "capabilities.add").any(|c| c == "CAP_SYS_ADMIN") {
            errors.push(refused("`capabilities.Add` CAP_SYS_ADMIN"));
        }
    }
}
