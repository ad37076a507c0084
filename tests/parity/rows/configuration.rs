//! Arguments, environment, downward API, resources.

use serde_json::{Value, json};

use crate::row::{Check, Row, always, once, row, run, web, with};
use crate::run::same;

const AREA: &str = "configuration";

/// A container that prints its environment, one variable of which is this.
fn variable(name: &str, source: Value) -> Value {
    let mut variable = source;
    variable["name"] = json!(name);
    once(with(run(&["env"]), json!({"env": [variable]})))
}

fn from(source: Value) -> Value {
    json!({"valueFrom": source})
}

fn field(path: &str) -> Value {
    from(json!({"fieldRef": {"fieldPath": path}}))
}

fn amount(resource: &str, divisor: &str) -> Value {
    let resources =
        json!({"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "32Mi"}});
    let source = json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}});
    let env = json!([{"name": "X", "valueFrom": source}]);
    once(with(run(&["env"]), json!({"env": env, "resources": resources})))
}

pub(crate) fn rows() -> Vec<Row> {
    [arguments(), environment(), downward(), amounts(), classes()].into_iter().flatten().collect()
}

fn arguments() -> Vec<Row> {
    let named = with(
        run(&["args", "$(WHO)", "$$(WHO)", "$(NOBODY)"]),
        json!({"env": [{"name": "WHO", "value": "me"}]}),
    );
    let command = json!({"name": "c", "image": "$PROBE", "command": ["/probe", "args"], "args": ["a", "b"]});
    let hosts = |more: Value| {
        let spec = json!({"spec": more});
        with(once(run(&["env"])), spec)
    };
    vec![
        row(AREA, "`args` reach the program", once(run(&["args", "a b", "c"])), Check::Log("a b|c")),
        row(AREA, "`command` and `args`", once(command), Check::Log("a|b")),
        row(AREA, "`$(NAME)` in `args` is expanded", once(named), Check::Log("me|$(WHO)|$(NOBODY)")),
        row(AREA, "`HOSTNAME` is the pod's name", once(run(&["env"])), Check::Lines(&["HOSTNAME=$POD"])),
        row(AREA, "`hostname`", hosts(json!({"hostname": "web-0"})), Check::Lines(&["HOSTNAME=web-0"])),
    ]
}

fn environment() -> Vec<Row> {
    let joined =
        with(run(&["env"]), json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}));
    let all = |source: Value| once(with(run(&["env"]), json!({"envFrom": [source]})));
    let key = |kind: &str, name: &str, key: &str, optional: bool| {
        variable("X", from(json!({kind: {"name": name, "key": key, "optional": optional}})))
    };
    let missing: fn(&crate::run::Look<'_>) -> Result<(), String> =
        |look| same(&look.container()["state"]["waiting"]["reason"], &json!("CreateContainerConfigError"));
    vec![
        row(AREA, "`env` with a value", variable("X", json!({"value": "1"})), Check::Lines(&["X=1"])),
        row(AREA, "`env` that names other variables", once(joined), Check::Lines(&["B=12"])),
        row(
            AREA,
            "`configMapKeyRef`",
            key("configMapKeyRef", "conf", "colour", false),
            Check::Lines(&["X=blue"]),
        ),
        row(AREA, "`secretKeyRef`", key("secretKeyRef", "pass", "word", false), Check::Lines(&["X=hidden"])),
        row(
            AREA,
            "an optional key that is not there",
            key("configMapKeyRef", "conf", "no", true),
            Check::Phase("Succeeded"),
        ),
        row(
            AREA,
            "a key that is not there",
            key("configMapKeyRef", "conf", "no", false),
            Check::Shows(missing),
        ),
        row(
            AREA,
            "a Secret that is not there",
            key("secretKeyRef", "none", "no", false),
            Check::Shows(missing),
        ),
        row(
            AREA,
            "`envFrom` a ConfigMap, with a prefix",
            all(json!({"prefix": "C_", "configMapRef": {"name": "conf"}})),
            Check::Lines(&["C_colour=blue", "C_size=7"]),
        ),
        row(
            AREA,
            "`envFrom` a Secret",
            all(json!({"secretRef": {"name": "pass"}})),
            Check::Lines(&["word=hidden"]),
        ),
        row(
            AREA,
            "Services as variables",
            once(run(&["env"])),
            Check::Lines(&["KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"]),
        ),
    ]
}

fn downward() -> Vec<Row> {
    let meta =
        json!({"metadata": {"annotations": {"note": "well"}}, "spec": {"serviceAccountName": "default"}});
    let of = |path: &str| with(variable("X", field(path)), meta.clone());
    let address = Check::Shows(|look| {
        let log = look.log(&[]);
        let wanted = format!("X={}", look.ip()?);
        if log.lines().any(|line| line == wanted) { Ok(()) } else { Err(log) }
    });
    let uid = Check::Shows(|look| {
        let wanted = format!("X={}", look.pod["metadata"]["uid"].as_str().unwrap_or_default());
        let log = look.log(&[]);
        if log.lines().any(|line| line == wanted) { Ok(()) } else { Err(log) }
    });
    vec![
        row(AREA, "downward API: name", of("metadata.name"), Check::Lines(&["X=$POD"])),
        row(AREA, "downward API: namespace", of("metadata.namespace"), Check::Lines(&["X=default"])),
        row(AREA, "downward API: uid", of("metadata.uid"), uid),
        row(AREA, "downward API: a label", of("metadata.labels['row']"), Check::Lines(&["X=one"])),
        row(
            AREA,
            "downward API: an annotation",
            of("metadata.annotations['note']"),
            Check::Lines(&["X=well"]),
        ),
        row(AREA, "downward API: node name", of("spec.nodeName"), Check::Lines(&["X=node-1"])),
        row(
            AREA,
            "downward API: service account",
            of("spec.serviceAccountName"),
            Check::Lines(&["X=default"]),
        ),
        row(AREA, "downward API: pod address", of("status.podIP"), address),
        row(AREA, "downward API: node address", of("status.hostIP"), Check::Lines(&["X=10.128.0.1"])),
    ]
}

fn amounts() -> Vec<Row> {
    vec![
        row(AREA, "downward API: `limits.cpu`", amount("limits.cpu", "1m"), Check::Lines(&["X=250"])),
        row(
            AREA,
            "downward API: `requests.cpu`, rounded up",
            amount("requests.cpu", "1"),
            Check::Lines(&["X=1"]),
        ),
        row(AREA, "downward API: `limits.memory`", amount("limits.memory", "1Mi"), Check::Lines(&["X=64"])),
        row(
            AREA,
            "downward API: `requests.memory`",
            amount("requests.memory", "1"),
            Check::Lines(&["X=33554432"]),
        ),
    ]
}

fn classes() -> Vec<Row> {
    let of = |resources: Value| always(with(web(), json!({"resources": resources})));
    let both = json!({"cpu": "100m", "memory": "64Mi"});
    let guaranteed = json!({"limits": both, "requests": both});
    let huge = with(once(run(&["env"])), json!({"spec": {"nodeSelector": {"disk": "slow"}}}));
    vec![
        row(
            AREA,
            "QoS class Guaranteed",
            of(guaranteed),
            Check::Shows(|look| {
                same(&look.pod["status"]["qosClass"], &json!("Guaranteed"))?;
                if look.is_ready() { Ok(()) } else { Err("it is not ready".into()) }
            }),
        ),
        row(
            AREA,
            "QoS class Burstable",
            of(json!({"requests": {"cpu": "10m"}})),
            Check::Shows(|look| same(&look.pod["status"]["qosClass"], &json!("Burstable"))),
        ),
        row(
            AREA,
            "QoS class BestEffort",
            of(json!({})),
            Check::Shows(|look| same(&look.pod["status"]["qosClass"], &json!("BestEffort"))),
        ),
        row(
            AREA,
            "a pod that fits nowhere says why",
            huge,
            Check::Shows(|look| {
                look.told("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector")
            }),
        ),
        row(
            AREA,
            "`nodeSelector`",
            with(once(run(&["args", "there"])), json!({"spec": {"nodeSelector": {"disk": "fast"}}})),
            Check::Log("there"),
        ),
    ]
}
