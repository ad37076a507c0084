//! Point 2: the commands of stock kubectl against both kinds of pods.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::images;
use catamaran_tests::kubectl::Kubectl;
use catamaran_tests::wait::until;

const WASM: &str = "localhost:5000/hello-wasm:1";
const BUSYBOX: &str = "localhost:5000/busybox:1";

/// One cluster for all commands: each block leaves it as it found it.
pub(crate) fn every_command() {
    let cluster = Cluster::up(Demo::With);
    images::busybox().push(BUSYBOX);
    let kubectl = &cluster.kubectl;
    get_in_all_forms(kubectl);
    get_and_watch(kubectl);
    create_and_delete(kubectl);
    apply_diff_and_edit_fields(kubectl);
    deployments_roll(&cluster);
    expose_and_run(&cluster);
    describe_explain_and_discover(kubectl);
    top_shows_both_kinds(kubectl);
    logs_follow(kubectl);
    exec_with_and_without_terminal(kubectl);
    rights_are_granted_and_refused(kubectl);
    bad_commands_change_nothing(kubectl);
}

fn get_in_all_forms(kubectl: &Kubectl) {
    let table = kubectl.ok(&["get", "pods"]);
    let head: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(table.matches("1/1").count(), 4, "{table}");
    let wide = kubectl.ok(&["get", "pods", "-o", "wide"]);
    assert!(wide.contains("node-1") && wide.contains("10.128."), "{wide}");
    for form in [
        "json",
        "yaml",
        "name",
        "jsonpath={.items[*].metadata.name}",
        "custom-columns=N:.metadata.name",
        "go-template={{len .items}}",
    ] {
        assert!(!kubectl.ok(&["get", "deployments", "-o", form]).is_empty(), "{form}");
    }
    assert_eq!(kubectl.ok(&["get", "deployments", "-o", "go-template={{len .items}}"]), "2");
    let all = kubectl.ok(&["get", "all", "-A", "--show-labels"]);
    for part in ["pod/hello-wasm", "service/hello", "deployment.apps/hello-container", "replicaset.apps/"] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    let selected = kubectl.ok(&["get", "pods", "-l", "kind in (wasm),app=hello", "-o", "name"]);
    assert_eq!(selected.lines().count(), 2);
    let field = kubectl.ok(&[
        "get",
        "pods",
        "--field-selector",
        "status.phase=Running,spec.nodeName=node-1",
        "-o",
        "name",
    ]);
    assert_eq!(field.lines().count(), 4);
    let sorted = kubectl.ok(&["get", "pods", "--sort-by=.metadata.name", "-o", "name"]);
    assert!(sorted.lines().is_sorted(), "{sorted}");
    let nodes = kubectl.ok(&["get", "nodes"]);
    assert!(nodes.contains("Ready") && nodes.contains("v1.33"), "{nodes}");
    assert!(
        kubectl
            .ok(&["get", "svc,ep,endpointslices,cm,secrets,sa,rs,ns,leases,runtimeclasses,events", "-A"])
            .contains("kube-root-ca.crt")
    );
}

fn top_shows_both_kinds(kubectl: &Kubectl) {
    until("figures of the node", Duration::from_secs(30), || {
        let found = kubectl.run(&["top", "nodes"]);
        if found.code == 0 && found.stdout.contains("node-1") { Ok(()) } else { Err(found.stderr) }
    });
    let pods = kubectl.ok(&["top", "pods", "--containers"]);
    assert_eq!(pods.matches("hello-wasm-").count(), 2, "{pods}");
    assert_eq!(pods.matches("hello-container-").count(), 2, "{pods}");
    assert!(pods.lines().skip(1).all(|line| line.contains("m ") && line.contains("Mi")), "{pods}");
    kubectl.ok(&["get", "pods.metrics.k8s.io", "-A"]);
}

fn get_and_watch(kubectl: &Kubectl) {
    let mut watch = kubectl.spawn(&["get", "configmaps", "-w", "-o", "name"]);
    let lines = BufReader::new(watch.stdout.take().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    kubectl.ok(&["create", "configmap", "seen", "--from-literal=a=b"]);
    let found = lines.lines().map_while(Result::ok).take(20).any(|line| line.contains("configmap/seen"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(found, "the watch shows what is created");
    kubectl.ok(&["delete", "configmap", "seen"]);
}

fn create_and_delete(kubectl: &Kubectl) {
    kubectl.ok(&["create", "namespace", "team"]);
    until("the default service account", Duration::from_secs(10), || {
        let found = kubectl.run(&["-n", "team", "get", "sa/default", "configmap/kube-root-ca.crt"]);
        if found.code == 0 { Ok(()) } else { Err(found.stderr) }
    });
    kubectl.ok(&["-n", "team", "create", "configmap", "c", "--from-literal=key=value"]);
    kubectl.ok(&["-n", "team", "create", "secret", "generic", "s", "--from-literal=password=x"]);
    kubectl.ok(&["-n", "team", "create", "serviceaccount", "robot"]);
    assert_eq!(kubectl.value(&["-n", "team", "secret", "s"], "{.data.password}"), "eA==");
    kubectl.ok(&["-n", "team", "label", "configmap", "c", "tier=low"]);
    kubectl.ok(&["-n", "team", "annotate", "configmap", "c", "note=yes"]);
    kubectl.ok(&["-n", "team", "patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"key":"new"}}"#]);
    kubectl.ok(&[
        "-n",
        "team",
        "patch",
        "configmap",
        "c",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/more","value":"1"}]"#,
    ]);
    assert_eq!(
        kubectl.value(&["-n", "team", "configmap", "c"], "{.data.key}{.data.more}{.metadata.labels.tier}"),
        "new1low"
    );
    kubectl.ok(&["-n", "team", "create", "deployment", "web", &format!("--image={WASM}"), "--port=8080"]);
    kubectl.ok(&["-n", "team", "wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    kubectl.ok(&["delete", "namespace", "team", "--timeout=60s"]);
    assert!(kubectl.fails(&["get", "namespace", "team"], "").contains("NotFound"));
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: applied}
data: {a: '1', b: '2'}
";

fn apply_diff_and_edit_fields(kubectl: &Kubectl) {
    assert!(kubectl.apply(MANIFEST).contains("created"));
    assert!(kubectl.apply(MANIFEST).contains("unchanged"));
    let changed = MANIFEST.replace("b: '2'", "c: '3'");
    let diff = kubectl.run_with(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.code, 1, "{}{}", diff.stdout, diff.stderr);
    assert!(diff.stdout.contains("-  b: \"2\"") && diff.stdout.contains("+  c: \"3\""), "{}", diff.stdout);
    assert!(kubectl.apply(&changed).contains("configured"));
    assert_eq!(kubectl.value(&["configmap", "applied"], "{.data}"), r#"{"a":"1","c":"3"}"#);
    let replaced = kubectl.run_with(&["replace", "-f", "-"], MANIFEST);
    assert_eq!(replaced.code, 0, "{}", replaced.stderr);
    assert_eq!(kubectl.value(&["configmap", "applied"], "{.data}"), r#"{"a":"1","b":"2"}"#);
    kubectl.ok(&["delete", "configmap", "applied"]);
}

fn deployments_roll(cluster: &Cluster) {
    let kubectl = &cluster.kubectl;
    kubectl.ok(&["create", "deployment", "roll", &format!("--image={WASM}"), "--replicas=2"]);
    kubectl.ok(&["rollout", "status", "deployment/roll", "--timeout=60s"]);
    kubectl.ok(&["scale", "deployment/roll", "--replicas=3"]);
    cluster.wait_available("roll");
    let second = "localhost:5000/hello-container:1";
    kubectl.ok(&["set", "image", "deployment/roll", &format!("hello-wasm={second}")]);
    kubectl.ok(&["rollout", "status", "deployment/roll", "--timeout=60s"]);
    let history = kubectl.ok(&["rollout", "history", "deployment/roll"]);
    assert!(history.contains('1') && history.contains('2'), "{history}");
    kubectl.ok(&["rollout", "undo", "deployment/roll"]);
    kubectl.ok(&["rollout", "status", "deployment/roll", "--timeout=60s"]);
    assert_eq!(kubectl.value(&["deployment", "roll"], "{.spec.template.spec.containers[0].image}"), WASM);
    kubectl.ok(&["rollout", "restart", "deployment/roll"]);
    kubectl.ok(&["rollout", "status", "deployment/roll", "--timeout=60s"]);
    kubectl.ok(&["set", "env", "deployment/roll", "COLOUR=blue"]);
    kubectl.ok(&["rollout", "status", "deployment/roll", "--timeout=60s"]);
    kubectl.ok(&["delete", "deployment", "roll"]);
    until("the pods are gone", Duration::from_secs(60), || {
        let left = kubectl.ok(&["get", "pods,rs", "-l", "app=roll", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn expose_and_run(cluster: &Cluster) {
    let kubectl = &cluster.kubectl;
    kubectl.ok(&["run", "single", &format!("--image={WASM}"), "--port=8080", "--labels=app=single"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/single", "--timeout=60s"]);
    kubectl.ok(&["expose", "pod", "single", "--type=NodePort", "--port=80", "--target-port=8080"]);
    let address = cluster.node_port("single");
    until("the exposed pod answers", Duration::from_secs(10), || {
        catamaran_tests::http::get(address, "/").map_err(|e| e.to_string())
    });
    kubectl.ok(&["delete", "service", "single"]);
    kubectl.ok(&["delete", "pod", "single"]);
    let said = kubectl.ok(&[
        "run",
        "talk",
        &format!("--image={BUSYBOX}"),
        "--restart=Never",
        "--attach",
        "--rm",
        "--quiet",
        "--pod-running-timeout=60s",
        "--",
        "sh",
        "-c",
        "sleep 1; echo said",
    ]);
    assert!(said.contains("said"), "{said}");
}

fn describe_explain_and_discover(kubectl: &Kubectl) {
    let pod = kubectl.ok(&["get", "pods", "-l", "kind=wasm", "-o", "name"]);
    let text = kubectl.ok(&["describe", pod.lines().next().unwrap()]);
    for part in ["Node:", "IP:", "Image ID:", "Readiness:", "Conditions:", "Pulled", "Created", "Started"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(kubectl.ok(&["describe", "deployment", "hello-wasm"]).contains("ScalingReplicaSet"));
    assert!(kubectl.ok(&["describe", "node", "node-1"]).contains("Allocatable"));
    assert!(kubectl.ok(&["describe", "service", "hello"]).contains("Endpoints:"));
    let explained = kubectl.ok(&["explain", "deployment.spec.strategy"]);
    assert!(explained.contains("rollingUpdate"), "{explained}");
    assert!(kubectl.ok(&["explain", "pod.spec.containers", "--recursive"]).contains("livenessProbe"));
    assert!(kubectl.ok(&["api-resources"]).contains("deployments"));
    assert!(kubectl.ok(&["api-versions"]).contains("apps/v1"));
    assert!(kubectl.ok(&["version"]).contains("Server Version: v1.33"));
    assert!(kubectl.ok(&["cluster-info"]).contains("is running at"));
    assert!(kubectl.ok(&["events"]).contains("Scheduled"));
}

fn logs_follow(kubectl: &Kubectl) {
    let script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.1; done";
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: ticker}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, '{script}']}}]}}}}"
    ));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/ticker", "--timeout=60s"]);
    let mut follow = kubectl.spawn(&["logs", "-f", "ticker"]);
    let start = Instant::now();
    let lines: Vec<_> =
        BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok).take(20).collect();
    follow.kill().unwrap();
    follow.wait().unwrap();
    let expected: Vec<_> = (0..20).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(kubectl.ok(&["logs", "ticker", "--tail=1"]).lines().count(), 1);
    assert!(kubectl.ok(&["logs", "ticker", "--timestamps", "--tail=1"]).contains('T'));
    kubectl.ok(&["delete", "pod", "ticker", "--grace-period=1"]);
    let wasm = kubectl.ok(&["get", "pods", "-l", "kind=wasm", "-o", "name"]);
    assert_eq!(kubectl.run(&["logs", wasm.lines().next().unwrap()]).code, 0);
}

fn exec_with_and_without_terminal(kubectl: &Kubectl) {
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{containers: [{{name: c, image: '{BUSYBOX}', command: [sleep, '600']}}]}}}}"
    ));
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    assert_eq!(kubectl.ok(&["exec", "shell", "--", "echo", "hello"]), "hello\n");
    let piped = kubectl.run_with(&["exec", "-i", "shell", "--", "cat"], "through the pipe");
    assert_eq!((piped.code, piped.stdout.as_str()), (0, "through the pipe"), "{}", piped.stderr);
    let failed = kubectl.run(&["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"), "{}", failed.stderr);
    assert!(failed.stderr.contains("err"));
    let mut terminal = std::process::Command::new("script");
    let program = kubectl.command(&["exec", "-it", "shell", "--", "sh", "-c", "tty; stty size; exit 3"]);
    let words: Vec<_> = [program.get_program()]
        .into_iter()
        .chain(program.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect();
    terminal.args(["-qec", &words.join(" "), "/dev/null"]);
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            terminal.env(name, value);
        }
    }
    terminal.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = terminal.spawn().expect("`script` of util-linux starts");
    let mut shown = String::new();
    child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    let status = child.wait().unwrap();
    assert!(shown.contains("/dev/pts/") || shown.contains("/dev/console"), "{shown}");
    assert_eq!(status.code(), Some(3), "{shown}");
    let wasm = kubectl.ok(&["get", "pods", "-l", "kind=wasm", "-o", "name"]);
    let refused = kubectl.fails(&["exec", wasm.lines().next().unwrap(), "--", "sh"], "");
    assert!(refused.to_lowercase().contains("wasm"), "{refused}");
    kubectl.ok(&["delete", "pod", "shell", "--now"]);
}

fn bad_commands_change_nothing(kubectl: &Kubectl) {
    let unknown = "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, dat: {a: b}}";
    let said = kubectl.fails(&["create", "-f", "-"], unknown);
    assert!(said.contains("unknown field \"dat\""), "{said}");
    let wrong = "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, data: {a: [1]}}";
    kubectl.fails(&["create", "--validate=false", "-f", "-"], wrong);
    assert!(kubectl.fails(&["get", "configmap", "bad"], "").contains("NotFound"));
    let invalid = "{apiVersion: v1, kind: Pod, metadata: {name: Bad_Name}, spec: {containers: []}}";
    let said = kubectl.fails(&["create", "-f", "-"], invalid);
    assert!(said.contains("metadata.name") && said.contains("spec.containers"), "{said}");
}

/// Roles and bindings by kubectl's own commands, asked about and used as somebody else.
fn rights_are_granted_and_refused(kubectl: &Kubectl) {
    assert!(kubectl.ok(&["auth", "whoami"]).contains("system:masters"));
    kubectl.ok(&["create", "namespace", "rights"]);
    let jane = ["-n", "rights", "--as=jane"];
    let as_jane = |words: &[&'static str]| words.iter().chain(&jane).copied().collect::<Vec<_>>();
    let said = kubectl.fails(&as_jane(&["get", "pods"]), "");
    let refusal = r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "rights""#;
    assert!(said.contains(refusal), "{said}");
    kubectl.ok(&["create", "role", "reader", "-n", "rights", "--verb=get,list", "--resource=pods,pods/log"]);
    let binding = ["create", "rolebinding", "jane", "-n", "rights", "--role=reader", "--user=jane"];
    kubectl.ok(&binding);
    assert_eq!(kubectl.ok(&as_jane(&["auth", "can-i", "list", "pods"])), "yes\n");
    kubectl.ok(&as_jane(&["get", "pods"]));
    let list = kubectl.ok(&as_jane(&["auth", "can-i", "--list"]));
    assert!(list.contains("pods/log") && list.contains("selfsubjectreviews"), "{list}");
    kubectl.fails(&as_jane(&["auth", "can-i", "delete", "pods"]), "");
    let role =
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: rights},
        rules: [{apiGroups: [''], resources: [pods], verbs: [delete]}]}";
    let reconciled = kubectl.run_with(&["auth", "reconcile", "-f", "-"], role);
    assert_eq!(reconciled.code, 0, "{reconciled:?}");
    assert_eq!(kubectl.ok(&as_jane(&["auth", "can-i", "delete", "pods"])), "yes\n");
    kubectl.ok(&["create", "clusterrole", "gathers", "--aggregation-rule=rights=yes"]);
    kubectl.ok(&["create", "clusterrole", "nodes", "--verb=get", "--resource=nodes"]);
    kubectl.ok(&["label", "clusterrole", "nodes", "rights=yes"]);
    kubectl.ok(&["create", "clusterrolebinding", "gathers", "--clusterrole=gathers", "--group=ops"]);
    assert_eq!(kubectl.ok(&["auth", "can-i", "get", "nodes", "--as=joe", "--as-group=ops"]), "yes\n");
    kubectl.ok(&["delete", "clusterrole", "gathers", "nodes"]);
    kubectl.ok(&["delete", "clusterrolebinding", "gathers"]);
    kubectl.ok(&["delete", "namespace", "rights"]);
}
