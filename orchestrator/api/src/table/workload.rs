//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, autoscalers and what belongs to them.

use jiff::Timestamp;
use serde_json::Value;

use super::Printer;
use super::cell::{self, at, integer, list, scalar, text, text_or};
use super::column::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, integer as number, text as text_column};
use crate::{meta, time};

const TEMPLATE: &str = "spec.template.spec.containers";

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "deployments" => &DEPLOYMENTS,
        "replicasets" => &REPLICA_SETS,
        "replicationcontrollers" => &REPLICATION_CONTROLLERS,
        "statefulsets" => &STATEFUL_SETS,
        "daemonsets" => &DAEMON_SETS,
        "jobs" => &JOBS,
        "cronjobs" => &CRON_JOBS,
        "horizontalpodautoscalers" => &AUTOSCALERS,
        "controllerrevisions" => &CONTROLLER_REVISIONS,
        "podtemplates" => &POD_TEMPLATES,
        _ => return None,
    })
}

fn with_template(mut cells: Vec<Value>, object: &Value, path: &str) -> Vec<Value> {
    cells.extend(cell::containers(object, path));
    cells
}

fn with_selector(cells: Vec<Value>, object: &Value) -> Vec<Value> {
    let mut cells = with_template(cells, object, TEMPLATE);
    cells.push(cell::selector(at(object, "spec.selector")).into());
    cells
}

static DEPLOYMENTS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Ready", "Ready pods, of those desired."),
        text_column("Up-to-date", "Pods of the current template."),
        text_column("Available", "Pods that have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |o, now| {
        let cells = vec![
            cell::name(o),
            format!("{}/{}", integer(o, "status.readyReplicas"), integer(o, "spec.replicas")).into(),
            integer(o, "status.updatedReplicas").into(),
            integer(o, "status.availableReplicas").into(),
            cell::age(o, now),
        ];
        with_selector(cells, o)
    },
};

const REPLICAS: [column::Column; 8] = [
    NAME,
    number("Desired", "Pods that there should be."),
    number("Current", "Pods that there are."),
    number("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn replica_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        cell::name(o),
        integer(o, "spec.replicas").into(),
        integer(o, "status.replicas").into(),
        integer(o, "status.readyReplicas").into(),
        cell::age(o, now),
    ]
}

static REPLICA_SETS: Printer =
    Printer { columns: &REPLICAS, cells: |o, now| with_selector(replica_cells(o, now), o) };

static REPLICATION_CONTROLLERS: Printer = Printer {
    columns: &REPLICAS,
    cells: |o, now| {
        let mut cells = with_template(replica_cells(o, now), o, TEMPLATE);
        cells.push(cell::labels(at(o, "spec.selector")).into());
        cells
    },
};

static STATEFUL_SETS: Printer = Printer {
    columns: &[NAME, text_column("Ready", "Ready pods, of those desired."), AGE, CONTAINERS, IMAGES],
    cells: |o, now| {
        let ready = format!("{}/{}", integer(o, "status.readyReplicas"), integer(o, "spec.replicas"));
        with_template(vec![cell::name(o), ready.into(), cell::age(o, now)], o, TEMPLATE)
    },
};

static DAEMON_SETS: Printer = Printer {
    columns: &[
        NAME,
        number("Desired", "Nodes that should run the pod."),
        number("Current", "Nodes that run it."),
        number("Ready", "Nodes on which it is ready."),
        number("Up-to-date", "Nodes that run the current template."),
        number("Available", "Nodes on which it has been ready for long enough."),
        text_column("Node Selector", "Labels of the nodes that are meant."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |o, now| {
        let cells = vec![
            cell::name(o),
            integer(o, "status.desiredNumberScheduled").into(),
            integer(o, "status.currentNumberScheduled").into(),
            integer(o, "status.numberReady").into(),
            integer(o, "status.updatedNumberScheduled").into(),
            integer(o, "status.numberAvailable").into(),
            cell::labels(at(o, "spec.template.spec.nodeSelector")).into(),
            cell::age(o, now),
        ];
        with_selector(cells, o)
    },
};

static JOBS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Status", "Whether the job runs, is suspended or how it ended."),
        text_column("Completions", "Pods that succeeded, of those wanted."),
        text_column("Duration", "Time from the start to the end or until now."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |o, now| {
        let cells = vec![
            cell::name(o),
            job_status(o).into(),
            job_completions(o).into(),
            job_duration(o, now).into(),
            cell::age(o, now),
        ];
        with_selector(cells, o)
    },
};

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| cell::is_true(job, kind);
    match job {
        _ if is("Complete") => "Complete",
        _ if is("Failed") => "Failed",
        _ if meta::is_being_deleted(job) => "Terminating",
        _ if is("Suspended") => "Suspended",
        _ if is("FailureTarget") => "FailureTarget",
        _ if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        _ => "Running",
    }
}

fn job_completions(job: &Value) -> String {
    let succeeded = integer(job, "status.succeeded");
    match at(job, "spec.completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match integer(job, "spec.parallelism") {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let Some(start) = time::parse(text(job, "status.startTime")) else { return String::new() };
    let end = time::parse(text(job, "status.completionTime")).unwrap_or(now);
    time::human_duration(time::seconds_between(start, end))
}

static CRON_JOBS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Schedule", "When jobs are made, as a cron expression."),
        text_column("Timezone", "Time zone of the schedule."),
        text_column("Suspend", "Whether no jobs are made for now."),
        number("Active", "Jobs that run now."),
        text_column("Last Schedule", "Time since the last job was made."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |o, now| {
        let last = match text(o, "status.lastScheduleTime") {
            "" => "<none>".to_owned(),
            time => time::age(Some(time), now),
        };
        let suspend = match at(o, "spec.suspend").and_then(Value::as_bool) {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let cells = vec![
            cell::name(o),
            text(o, "spec.schedule").into(),
            text_or(o, "spec.timeZone", "<none>").into(),
            suspend.into(),
            list(o, "status.active").len().into(),
            last.into(),
            cell::age(o, now),
        ];
        let mut cells = with_template(cells, o, "spec.jobTemplate.spec.template.spec.containers");
        cells.push(cell::selector(at(o, "spec.jobTemplate.spec.selector")).into());
        cells
    },
};

static AUTOSCALERS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Reference", "What is scaled."),
        text_column("Targets", "Current and wanted value of each metric."),
        text_column("MinPods", "Fewest replicas."),
        text_column("MaxPods", "Most replicas."),
        text_column("Replicas", "Replicas now."),
        AGE,
    ],
    cells: |o, now| {
        let reference =
            format!("{}/{}", text(o, "spec.scaleTargetRef.kind"), text(o, "spec.scaleTargetRef.name"));
        vec![
            cell::name(o),
            reference.into(),
            metrics(o).into(),
            scalar(at(o, "spec.minReplicas"), "<unset>").into(),
            integer(o, "spec.maxReplicas").into(),
            integer(o, "status.currentReplicas").into(),
            cell::age(o, now),
        ]
    },
};

fn metrics(autoscaler: &Value) -> String {
    let mut entries = Vec::new();
    if let Some(target) = at(autoscaler, "spec.targetCPUUtilizationPercentage") {
        let current = scalar(at(autoscaler, "status.currentCPUUtilizationPercentage"), "<unknown>");
        let unit = if current == "<unknown>" { "" } else { "%" };
        entries.push(format!("cpu: {current}{unit}/{target}%"));
    }
    let current = list(autoscaler, "status.currentMetrics");
    for (i, metric) in list(autoscaler, "spec.metrics").iter().enumerate() {
        entries.push(metric_text(metric, current.get(i)));
    }
    match entries.as_slice() {
        [] => "<none>".into(),
        [a, b, more @ ..] if !more.is_empty() => format!("{a}, {b} + {} more...", more.len()),
        few => few.join(", "),
    }
}

fn metric_text(metric: &Value, status: Option<&Value>) -> String {
    let (field, prefix) = match text(metric, "type") {
        "Resource" => ("resource", format!("{}: ", text(metric, "resource.name"))),
        "ContainerResource" => ("containerResource", format!("{}: ", text(metric, "containerResource.name"))),
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "External" => ("external", String::new()),
        _ => return "<unknown type>".into(),
    };
    let current = status.and_then(|s| at(s, field)).and_then(|s| at(s, "current"));
    let value = |name: &str| current.and_then(|c| at(c, name));
    let target = at(metric, field).and_then(|m| at(m, "target")).unwrap_or(&Value::Null);
    if let Some(wanted) = at(target, "averageUtilization") {
        let now = value("averageUtilization").map_or("<unknown>".into(), |v| format!("{v}%"));
        return format!("{prefix}{now}/{wanted}%");
    }
    if let Some(wanted) = at(target, "averageValue") {
        let now = scalar(value("averageValue"), "<unknown>");
        let average = if field == "resource" || field == "pods" { "" } else { " (avg)" };
        return format!("{prefix}{now}/{}{average}", scalar(Some(wanted), ""));
    }
    let now = scalar(value("value"), "<unknown>");
    format!("{prefix}{now}/{}", scalar(at(target, "value"), "<auto>"))
}

static CONTROLLER_REVISIONS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Controller", "Owner of the revision."),
        text_column("Revision", "Its number."),
        AGE,
    ],
    cells: |o, now| {
        let controller = meta::controller_of(o).map_or("<none>".to_owned(), |owner| {
            let kind = owner.kind.to_lowercase();
            match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                None => format!("{kind}/{}", owner.name),
            }
        });
        vec![cell::name(o), controller.into(), integer(o, "revision").into(), cell::age(o, now)]
    },
};

static POD_TEMPLATES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Containers", "Names of the containers."),
        text_column("Images", "Their images."),
        text_column("Pod Labels", "Labels of the pods."),
    ],
    cells: |o, _| {
        let mut cells = with_template(vec![cell::name(o)], o, "template.spec.containers");
        cells.push(cell::labels(at(o, "template.metadata.labels")).into());
        cells
    },
};

pub(super) static SCALE: Printer = Printer {
    columns: &[
        NAME,
        number("Desired", "Pods that there should be."),
        number("Available", "Pods that there are."),
        AGE,
    ],
    cells: |o, now| {
        vec![
            cell::name(o),
            integer(o, "spec.replicas").into(),
            integer(o, "status.replicas").into(),
            cell::age(o, now),
        ]
    },
};
