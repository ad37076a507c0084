//! Probes and lifecycle hooks.

use serde_json::Value;

use super::super::Errors;
use super::super::check::{messages, not_negative, one_of, port, required};
use super::container::Class;
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, number, text};
use crate::name;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Probes and hooks of a container.
pub(super) fn container(container: &Value, class: Class, path: &Path<'_>, errors: &mut Errors) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = at(container, field) else { continue };
        let path = path.child(field);
        match class {
            Class::Init => {
                let message = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&path, message));
            }
            Class::Ephemeral => {}
            Class::Main | Class::Sidecar => probe(value, field, &path, errors),
        }
    }
    let Some(lifecycle) = at(container, "lifecycle") else { return };
    let path = path.child("lifecycle");
    match class {
        Class::Init => {
            let message = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path, message));
        }
        Class::Ephemeral => {}
        Class::Main | Class::Sidecar => {
            for hook in ["postStart", "preStop"] {
                if let Some(value) = at(lifecycle, hook) {
                    handler(value, &path.child(hook), errors);
                }
            }
        }
    }
}

fn probe(probe: &Value, which: &str, path: &Path<'_>, errors: &mut Errors) {
    handler(probe, path, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        not_negative(probe, field, path, errors);
    }
    let success = integer(probe, "successThreshold");
    if which != "readinessProbe" && !matches!(success, 0 | 1) {
        errors.push(FieldError::invalid(&path.child("successThreshold"), success, "must be 1"));
    }
    if let Some(grace) = number(probe, "terminationGracePeriodSeconds") {
        let path = path.child("terminationGracePeriodSeconds");
        if which == "readinessProbe" {
            errors.push(FieldError::invalid(&path, grace, "must not be set for readinessProbes"));
        } else if grace <= 0 {
            errors.push(FieldError::invalid(&path, grace, "must be greater than 0"));
        }
    }
}

fn handler(handler: &Value, path: &Path<'_>, errors: &mut Errors) {
    let given: Vec<&str> = HANDLERS.into_iter().filter(|field| at(handler, field).is_some()).collect();
    let Some((first, others)) = given.split_first() else {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    };
    for other in others {
        errors.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 handler type"));
    }
    let value = &handler[*first];
    let path = path.child(first);
    match *first {
        "exec" if list(value, "command").is_empty() => {
            errors.push(FieldError::required(&path.child("command"), ""));
        }
        "httpGet" => http_get(value, &path, errors),
        "tcpSocket" | "grpc" => port(at(value, "port"), &path.child("port"), errors),
        "sleep" => not_negative(value, "seconds", &path, errors),
        _ => {}
    }
}

fn http_get(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    required(value, "path", path, errors);
    port(at(value, "port"), &path.child("port"), errors);
    one_of(value, "scheme", &["HTTP", "HTTPS"], path, errors);
    let headers = path.child("httpHeaders");
    for (i, header) in list(value, "httpHeaders").iter().enumerate() {
        let header = text(header, "name");
        messages(name::http_header_name(header), header, &headers.index(i).child("name"), errors);
    }
}
