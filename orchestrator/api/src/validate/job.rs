//! Jobs and CronJobs.

use serde_json::Value;

use super::check::{immutable, in_range, not_negative, one_of, required, workload_selector};
use super::{Errors, pod};
use crate::field_error::{FieldError, Path};
use crate::fields::{at, flag, number, text};

const SPEC: Path<'static> = Path::root("spec");

/// The rules of every state.
pub(super) fn validate(plural: &str, o: &Value, errors: &mut Errors) {
    let Some(spec) = at(o, "spec") else {
        errors.push(FieldError::required(&SPEC, ""));
        return;
    };
    match plural {
        "jobs" => {
            // The server generates the selector unless manualSelector is set.
            if at(spec, "selector").is_some() || flag(spec, "manualSelector") {
                workload_selector(spec, &SPEC, errors, "empty selector is invalid for job");
            }
            job(spec, &SPEC, errors);
        }
        "cronjobs" => cron_job(o, spec, errors),
        _ => {}
    }
}

fn job(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        not_negative(spec, field, path, errors);
    }
    match text(spec, "completionMode") {
        "" => {}
        "Indexed" => {
            if at(spec, "completions").is_none() {
                let message = "when completion mode is Indexed";
                errors.push(FieldError::required(&path.child("completions"), message));
            }
            in_range(spec, "parallelism", 0, 100_000, path, errors);
        }
        _ => one_of(spec, "completionMode", &["Indexed", "NonIndexed"], path, errors),
    }
    let template_path = path.child("template");
    pod::template(&spec["template"], &template_path, errors);
    let restart = text(&spec["template"], "spec.restartPolicy");
    let spec_path = template_path.child("spec");
    if !matches!(restart, "OnFailure" | "Never") {
        let restart_path = spec_path.child("restartPolicy");
        if matches!(restart, "" | "Always") {
            let message = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(&restart_path, message));
        } else {
            errors.push(FieldError::not_supported(&restart_path, restart, &["OnFailure", "Never"]));
        }
    }
    if restart == "OnFailure" && at(spec, "podFailurePolicy").is_some() {
        let message = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(&spec_path.child("restartPolicy"), restart, message));
    }
}

fn cron_job(o: &Value, spec: &Value, errors: &mut Errors) {
    // Jobs get a suffix of 11 characters and their pods need room for more.
    let name = text(o, "metadata.name");
    if name.len() > 52 {
        let path = Path::root("metadata");
        errors.push(FieldError::invalid(&path.child("name"), name, "must be no more than 52 characters"));
    }
    if let Some(schedule) = required(spec, "schedule", &SPEC, errors)
        && let Err(reason) = schedule_shape(schedule)
    {
        errors.push(FieldError::invalid(&SPEC.child("schedule"), schedule, reason));
    }
    one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC, errors);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, field, &SPEC, errors);
    }
    let template = SPEC.child("jobTemplate");
    let job_path = template.child("spec");
    match at(spec, "jobTemplate.spec") {
        Some(job_spec) => {
            if flag(job_spec, "manualSelector") {
                errors.push(FieldError::not_supported(
                    &job_path.child("manualSelector"),
                    true,
                    &["nil", "false"],
                ));
            }
            job(job_spec, &job_path, errors);
        }
        None => errors.push(FieldError::required(&job_path, "")),
    }
}

/// Five fields of numbers, names, ranges and steps, or one of the `@` words.
fn schedule_shape(schedule: &str) -> Result<(), String> {
    if schedule.contains("TZ=") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".into());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        let words = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = word.strip_prefix("every ").is_some_and(|d| !d.is_empty());
        if words.contains(&word) || every {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    for (field, (low, high)) in fields.into_iter().zip(bounds) {
        for part in field.split(',') {
            cron_part(part, low, high).map_err(|()| format!("failed to parse {field:?} in {schedule:?}"))?;
        }
    }
    Ok(())
}

fn cron_part(part: &str, low: u32, high: u32) -> Result<(), ()> {
    const NAMES: [&str; 19] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "sun", "mon",
        "tue", "wed", "thu", "fri", "sat",
    ];
    let (range, step) = part.split_once('/').unwrap_or((part, "1"));
    if step.parse::<u32>().ok().is_none_or(|s| s == 0) {
        return Err(());
    }
    if matches!(range, "*" | "?") {
        return Ok(());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let good = |text: &str| {
        NAMES.contains(&text.to_lowercase().as_str())
            || text.parse::<u32>().is_ok_and(|n| (low..=high).contains(&n))
    };
    let ordered = match (first.parse::<u32>(), last.parse::<u32>()) {
        (Ok(first), Ok(last)) => first <= last,
        _ => true,
    };
    if good(first) && good(last) && ordered { Ok(()) } else { Err(()) }
}

/// What may not change.
pub(super) fn update(plural: &str, new: &Value, old: &Value, errors: &mut Errors) {
    if plural != "jobs" {
        return;
    }
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    immutable(new_spec, old_spec, "selector", &SPEC, errors);
    immutable(new_spec, old_spec, "completionMode", &SPEC, errors);
    immutable(new_spec, old_spec, "podFailurePolicy", &SPEC, errors);
    let indexed = text(new_spec, "completionMode") == "Indexed";
    let elastic = indexed && number(new_spec, "completions") == number(new_spec, "parallelism");
    if !elastic {
        immutable(new_spec, old_spec, "completions", &SPEC, errors);
    }
    // A suspended job that never started may still be steered to other nodes.
    let steerable = flag(old_spec, "suspend") && at(old, "status.startTime").is_none();
    let fixed = |spec: &Value| {
        let mut template = spec["template"].clone();
        if steerable && let Some(fields) = template.get_mut("spec").and_then(Value::as_object_mut) {
            for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                fields.remove(field);
            }
            template["metadata"] = Value::Null;
        }
        template
    };
    if fixed(new_spec) != fixed(old_spec) {
        let value = new_spec["template"].clone();
        errors.push(FieldError::invalid(&SPEC.child("template"), value, super::check::IMMUTABLE));
    }
}
