//! Streams of every stock kubectl on the machine, to both kinds of containers: exec, attach, cp, port-forward, run with a
//! terminal; SPDY for the older ones, WebSocket for the newer. And requests passed on to pods, Services and nodes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::kubectl::{self, Kubectl};
use catamaran_tests::terminal::Terminal;
use catamaran_tests::{http, images};
use serde_json::{Value, json};

const BUSYBOX: &str = "localhost:5000/busybox:1";
const PROBE: &str = "localhost:5000/probe:1";
const HELLO: [(&str, &str); 2] =
    [("wasm", "localhost:5000/hello-wasm:1"), ("container", "localhost:5000/hello-container:1")];
/// Says what it reads, line by line, behind a prompt without an end of line.
const ECHO: &str = "printf 'ready? '; while read line; do echo \"got $line\"; done; echo over";

/// kubectl of each version in turn, against one cluster.
pub(crate) fn every_kubectl() {
    let cluster = Cluster::up(Demo::With);
    images::busybox().push(BUSYBOX);
    images::push_wasm(PROBE, bytes::Bytes::from_static(include_bytes!("../guests/prebuilt/probe-p2.wasm")));
    for (kind, image) in HELLO {
        let container = json!({"name": "c", "image": image, "ports": [{"containerPort": 8080}]});
        start(&cluster.kubectl, &format!("hello-{kind}-pod"), &container);
    }
    start(&cluster.kubectl, "shell", &json!({"name": "c", "image": BUSYBOX, "command": ["sleep", "3600"]}));
    let programs = kubectl::all();
    assert!(!programs.is_empty(), "no kubectl on this machine");
    for (version, program) in programs {
        eprintln!("kubectl {}.{}", version.0, version.1);
        let kubectl = cluster.kubectl.with_program(&program);
        exec(&kubectl);
        copy(&kubectl, cluster.data());
        forward(&kubectl);
        attach(&kubectl);
        run_with_input(&kubectl);
        run_in_a_terminal(&kubectl);
    }
}

fn start(kubectl: &Kubectl, name: &str, container: &Value) {
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    kubectl.apply(&pod.to_string());
    kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
}

fn exec(kubectl: &Kubectl) {
    let both = kubectl.run(&["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.code, both.stdout.as_str()), (7, "out\n"), "{}", both.stderr);
    assert!(both.stderr.contains("err"), "{}", both.stderr);
    let long = "0123456789abcdef".repeat(1 << 16);
    let piped = kubectl.run_with(&["exec", "-i", "shell", "--", "cat"], &long);
    assert_eq!((piped.code, piped.stdout.len()), (0, long.len()), "{}", piped.stderr);
    assert!(piped.stdout == long, "what comes back is what was sent");
    let unread = kubectl.run_with(&["exec", "-i", "shell", "--", "true"], &long);
    assert_eq!(unread.code, 0, "a command that reads nothing: {}", unread.stderr);
    let missing = kubectl.run(&["exec", "shell", "--", "no-such-command"]);
    assert_ne!(missing.code, 0);
    let refused = kubectl.fails(&["exec", "hello-wasm-pod", "--", "sh"], "");
    assert!(refused.contains("it is WebAssembly, which has no processes and no shell"), "{refused}");
    let mut terminal = Terminal::run(&kubectl.command(&["exec", "-it", "shell", "--", "sh"]));
    terminal.until_shown("# ");
    terminal.type_keys("echo $((6*7))-$(tty)\r");
    terminal.until_shown("42-/dev/pts/");
    terminal.type_keys("exit 5\r");
    let (code, screen) = terminal.end();
    assert_eq!(code, 5, "{screen}");
}

fn copy(kubectl: &Kubectl, directory: &Path) {
    let folder = directory.join("copied");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    std::fs::write(folder.join("deep/large"), vec![b'x'; 3 << 20]).unwrap();
    std::fs::write(folder.join("small"), "hello").unwrap();
    let from = folder.to_str().unwrap();
    kubectl.ok(&["exec", "shell", "--", "sh", "-c", "rm -rf /tmp/* && mkdir -p /tmp"]);
    kubectl.ok(&["cp", from, "shell:/tmp/copied"]);
    assert_eq!(kubectl.ok(&["exec", "shell", "--", "cat", "/tmp/copied/small"]), "hello");
    let back = directory.join("back");
    kubectl.ok(&["cp", "shell:/tmp/copied", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(back.join("deep/large")).unwrap().len(), 3 << 20);
    assert_eq!(std::fs::read_to_string(back.join("small")).unwrap(), "hello");
    std::fs::remove_dir_all(back).unwrap();
}

/// A port-forward in the background; ends when dropped.
struct Forward {
    child: Child,
    address: SocketAddr,
}

impl Forward {
    #[track_caller]
    fn start(kubectl: &Kubectl, target: &str, port: &str) -> Self {
        let mut child = kubectl.spawn(&["port-forward", target, port]);
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let address =
            local.and_then(|local| local.parse().ok()).unwrap_or_else(|| panic!("{target}: {line}"));
        // Else it would stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Forward { child, address }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(kubectl: &Kubectl) {
    for (kind, said) in [("wasm", "hello from a wasm component"), ("container", "hello from a container")] {
        let forward = Forward::start(kubectl, &format!("pod/hello-{kind}-pod"), ":8080");
        for _ in 0..3 {
            let answer = http::get(forward.address, "/").unwrap();
            assert!(answer.body.contains(said), "{kind}: {}", answer.body);
        }
        let several: Vec<_> = (0..8)
            .map(|_| {
                let address = forward.address;
                std::thread::spawn(move || http::get(address, "/").map(|answer| answer.status).ok())
            })
            .collect();
        for answer in several {
            assert_eq!(answer.join().unwrap(), Some(200), "{kind}");
        }
    }
    let service = Forward::start(kubectl, "service/hello", ":80");
    assert_eq!(http::get(service.address, "/").unwrap().status, 200);
    let mut closed = Forward::start(kubectl, "pod/shell", ":81");
    let refused = http::get(closed.address, "/");
    assert!(refused.is_err(), "nobody listens there: {refused:?}");
    closed.child.kill().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut closed.child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("failed to connect to port 81 of the pod"), "{said}");
}

fn attach(kubectl: &Kubectl) {
    let shell = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", ECHO], "stdin": true, "stdinOnce": true});
    let wasm = json!({"name": "c", "image": PROBE, "args": ["cat"], "stdin": true, "stdinOnce": true});
    for (name, container, expected) in
        [("talk-container", shell, "ready? got one\ngot two\nover\n"), ("talk-wasm", wasm, "one\ntwo\n")]
    {
        let spec = json!({"restartPolicy": "Never", "containers": [container]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        kubectl.apply(&pod.to_string());
        kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        let said = kubectl.run_with(&["attach", "-i", name], "one\ntwo\n");
        assert_eq!((said.code, said.stdout.as_str()), (0, expected), "{name}: {}", said.stderr);
        kubectl.ok(&[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            &format!("pod/{name}"),
            "--timeout=30s",
        ]);
        kubectl.ok(&["delete", "pod", name, "--now"]);
    }
}

fn run_with_input(kubectl: &Kubectl) {
    for (image, command) in [(BUSYBOX, &["sh", "-c", "cat; exit 3"][..]), (PROBE, &["cat"])] {
        let image = format!("--image={image}");
        let mut words = vec!["run", "once", &image, "-i", "--rm", "--restart=Never", "--quiet", "--"];
        words.extend(command);
        let said = kubectl.run_with(&words, "typed text\n");
        let code = if command.len() > 1 { 3 } else { 0 };
        assert_eq!(
            (said.code, said.stdout.contains("typed text\n")),
            (code, true),
            "{}{}",
            said.stdout,
            said.stderr
        );
        kubectl.ok(&["wait", "--for=delete", "pod/once", "--timeout=30s"]);
    }
}

fn run_in_a_terminal(kubectl: &Kubectl) {
    let run = |image: &str, rest: &[&str]| {
        let image = format!("--image={image}");
        let mut words = vec!["run", "once", &image, "-it", "--rm", "--restart=Never"];
        words.extend(rest);
        Terminal::run(&kubectl.command(&words))
    };
    let mut shell = run(BUSYBOX, &["--", "sh"]);
    shell.until_shown("# ");
    shell.until_raw();
    shell.type_keys("echo $((6*7))-$(tty)\r");
    shell.until_shown("42-/dev/");
    shell.type_keys("exit 3\r");
    let (code, screen) = shell.end();
    assert_eq!(code, 3, "{screen}");
    kubectl.ok(&["wait", "--for=delete", "pod/once", "--timeout=30s"]);
    let mut wasm = run(PROBE, &["--", "cat"]);
    wasm.until_raw();
    wasm.type_keys("typoo\x7f\x7fed\r");
    wasm.until_shown("\x08 \x08ed\r\n");
    wasm.type_keys("\x04");
    let (code, screen) = wasm.end();
    assert!(code == 0 && screen.contains("typed\r\n"), "{code}: {screen}");
    kubectl.ok(&["wait", "--for=delete", "pod/once", "--timeout=30s"]);
}

/// `proxy` below pods, Services and nodes, and through `kubectl proxy`.
pub(crate) fn requests_are_passed_on() {
    let cluster = Cluster::up(Demo::With);
    let kubectl = &cluster.kubectl;
    let raw = |path: &str| kubectl.ok(&["get", "--raw", path]);
    for (kind, said) in [("wasm", "hello from a wasm component"), ("container", "hello from a container")] {
        let pod = kubectl.ok(&["get", "pods", "-l", &format!("kind={kind}"), "-o", "name"]);
        let pod = pod.lines().next().unwrap().trim_start_matches("pod/");
        for name in [pod.to_owned(), format!("{pod}:8080"), format!("http:{pod}:8080")] {
            let answer = raw(&format!("/api/v1/namespaces/default/pods/{name}/proxy/"));
            assert!(answer.contains(said), "{name}: {answer}");
        }
    }
    for name in ["hello:http", "hello:80", "http:hello:80"] {
        let answer = raw(&format!("/api/v1/namespaces/default/services/{name}/proxy/"));
        assert!(answer.contains("hello from a"), "{name}: {answer}");
    }
    assert_eq!(raw("/api/v1/nodes/node-1/proxy/healthz"), "ok");
    assert!(raw("/api/v1/nodes/node-1:10250/proxy/metrics").contains("kubelet_running_pods"));
    let missing = kubectl.fails(&["get", "--raw", "/api/v1/namespaces/default/services/hello:81/proxy/"], "");
    assert!(missing.contains("no service port 81 found for service \"hello\""), "{missing}");
    let mut proxy = kubectl.spawn(&["proxy", "--port=0"]);
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let answers = [
        "/api/v1/namespaces/default/services/hello:http/proxy/",
        "/api/v1/namespaces/default/services/hello:http/proxy?a=b",
    ]
    .map(|path| http::get(address, path).map(|answer| answer.status));
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert!(matches!(answers, [Ok(200), Ok(301)]), "{answers:?}");
}
