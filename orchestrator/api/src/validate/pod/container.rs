//! Containers of a pod: names, images, ports, mounts, and what each class of containers may have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::Errors;
use super::super::check::{messages, one_of, optional_one_of, required};
use super::volume::Volumes;
use super::{env, host_network, probe, resources, security};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, integer, list, number, text};
use crate::name;

/// Which list a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Main,
    /// Runs to its end before the main containers start.
    Init,
    /// Starts before the main containers and keeps running.
    Sidecar,
    Ephemeral,
}

/// All containers of a pod.
pub(super) fn containers(spec: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    let main = list(spec, "containers");
    let main_path = path.child("containers");
    if main.is_empty() {
        errors.push(FieldError::required(&main_path, ""));
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (i, container) in main.iter().enumerate() {
        let path = main_path.index(i);
        one(container, Class::Main, volumes, &path, errors);
        name_once(container, &mut names, &path, errors);
        ports(container, spec, &mut host_ports, &path, errors);
    }
    let init_path = path.child("initContainers");
    for (i, container) in list(spec, "initContainers").iter().enumerate() {
        let path = init_path.index(i);
        let class = if text(container, "restartPolicy") == "Always" { Class::Sidecar } else { Class::Init };
        one(container, class, volumes, &path, errors);
        name_once(container, &mut names, &path, errors);
        ports(container, spec, &mut host_ports, &path, errors);
    }
    ephemeral(spec, volumes, &mut names, path, errors);
}

fn ephemeral<'a>(
    spec: &'a Value,
    volumes: &Volumes<'_>,
    names: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let list_path = path.child("ephemeralContainers");
    let others: BTreeSet<&str> = names.clone();
    for (i, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = list_path.index(i);
        one(container, Class::Ephemeral, volumes, &path, errors);
        name_once(container, names, &path, errors);
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"] {
            let set = at(container, field)
                .is_some_and(|v| *v != serde_json::json!({}) && *v != serde_json::json!([]));
            if set {
                let message = format!("cannot be set for an Ephemeral Container ({field})");
                errors.push(FieldError::forbidden(&path.child(field), message));
            }
        }
    }
}

fn name_once<'a>(container: &'a Value, names: &mut BTreeSet<&'a str>, path: &Path<'_>, errors: &mut Errors) {
    let name = text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        errors.push(FieldError::duplicate(&path.child("name"), name));
    }
}

fn one(container: &Value, class: Class, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = required(container, "name", path, errors) {
        messages(name::dns1123_label(name), name, &path.child("name"), errors);
    }
    let image = text(container, "image");
    match image {
        "" if class != Class::Ephemeral || !image.is_empty() => {
            errors.push(FieldError::required(&path.child("image"), ""));
        }
        "" => errors.push(FieldError::required(&path.child("image"), "")),
        image if image.trim() != image => {
            let message = "must not have leading or trailing whitespace";
            errors.push(FieldError::invalid(&path.child("image"), image, message));
        }
        _ => {}
    }
    restart_policy(container, class, path, errors);
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    one_of(container, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], path, errors);
    env::env(container, path, errors);
    mounts(container, volumes, path, errors);
    probe::container(container, class, path, errors);
    resources::container(container, path, errors);
    security::container(container, path, errors);
}

fn restart_policy(container: &Value, class: Class, path: &Path<'_>, errors: &mut Errors) {
    match class {
        Class::Init | Class::Sidecar => {
            optional_one_of(container, "restartPolicy", &["Always"], path, errors)
        }
        Class::Main if at(container, "restartPolicy").is_some() => {
            let message = "may not be set for non-init containers";
            errors.push(FieldError::forbidden(&path.child("restartPolicy"), message));
        }
        _ => {}
    }
}

fn ports(
    container: &Value,
    spec: &Value,
    host_ports: &mut BTreeSet<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let list_path = path.child("ports");
    let mut names = BTreeSet::new();
    for (i, port) in list(container, "ports").iter().enumerate() {
        let path = list_path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            messages(name::port_name(name), name, &path.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        match number(port, "containerPort") {
            None | Some(0) => errors.push(FieldError::required(&path.child("containerPort"), "")),
            Some(number) => {
                let bad = name::port_number(number).into_iter();
                errors.extend(bad.map(|m| FieldError::invalid(&path.child("containerPort"), number, m)));
            }
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
        host_port(port, spec, host_ports, &path, errors);
    }
}

fn host_port(port: &Value, spec: &Value, seen: &mut BTreeSet<String>, path: &Path<'_>, errors: &mut Errors) {
    let number = integer(port, "hostPort");
    let path = path.child("hostPort");
    if number == 0 {
        return;
    }
    errors.extend(name::port_number(number).into_iter().map(|m| FieldError::invalid(&path, number, m)));
    if host_network(spec) && number != integer(port, "containerPort") {
        let message = "must match `containerPort` when `hostNetwork` is true";
        errors.push(FieldError::invalid(&path, number, message));
    }
    let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
    if !seen.insert(key.clone()) {
        errors.push(FieldError::duplicate(&path, key));
    }
}

fn mounts(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    let list_path = path.child("volumeMounts");
    let mut targets = BTreeSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = list_path.index(i);
        if let Some(name) = required(mount, "name", &path, errors)
            && !volumes.contains(name)
        {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        if let Some(target) = required(mount, "mountPath", &path, errors)
            && !targets.insert(target)
        {
            errors.push(FieldError::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        descending(sub, &path.child("subPath"), errors);
        descending(expression, &path.child("subPathExpr"), errors);
        if !sub.is_empty() && !expression.is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&path.child("subPathExpr"), expression, message));
        }
        let propagations = &["Bidirectional", "HostToContainer", "None"];
        optional_one_of(mount, "mountPropagation", propagations, &path, errors);
    }
    let devices = path.child("volumeDevices");
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = devices.index(i);
        if let Some(name) = required(device, "name", &path, errors)
            && !volumes.contains(name)
        {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        required(device, "devicePath", &path, errors);
    }
}

/// A relative path that does not lead upwards.
pub(super) fn descending(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}
