//! Each sample is pushed, deployed by its own manifest and does what its page says; `new`, `build` and `run` make, build
//! and run a project in each language whose tools are here, and say what is missing where they are not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use catamaran_tests::cluster::{Cluster, Demo, binary};
use catamaran_tests::wait::until;
use catamaran_tests::{http, images};

/// A sample's name, and what it must do.
type Sample = (&'static str, fn(&Cluster));

const SAMPLES: [Sample; 9] = [
    ("rust-function", |cluster| {
        greets(cluster, "rust-function", "hello from rust");
        echoes(cluster.node_port("rust-function"));
    }),
    ("python-function", |cluster| greets(cluster, "python-function", "hello from python")),
    ("js-function", |cluster| greets(cluster, "js-function", "hello from js")),
    ("go-batch", |cluster| {
        let log = job(cluster, "go-batch");
        assert!(log.starts_with("     5 the\n     3 wind\n"), "{log}");
    }),
    ("c-batch", |cluster| {
        assert_eq!(job(cluster, "c-batch"), "78498 primes up to 1000000, the last is 999983\n");
    }),
    ("tcp-server", keeps_values),
    ("batch-job", |cluster| {
        let log = job(cluster, "batch-job");
        let numbers = log.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        let shares: Vec<_> = numbers.collect();
        assert_eq!(shares.len(), 3, "{log}");
        assert!((shares.iter().sum::<f64>() - std::f64::consts::PI).abs() < 1e-5, "{log}");
    }),
    ("static-site", serves_files),
    ("caller", calls_another_service),
];

/// Samples whose program is not here are named on the standard error, with the reason.
pub(crate) fn every_sample_does_what_its_page_says() {
    let cluster = Cluster::up(Demo::Without);
    for (name, check) in SAMPLES {
        let folder = samples().join(name);
        match program(name) {
            Ok(wasm) => {
                images::push_wasm(&format!("localhost:5000/{name}:1"), wasm.into());
                let manifest = folder.join("manifest.yaml");
                cluster.kubectl.ok(&["apply", "-f", manifest.to_str().unwrap()]);
                check(&cluster);
                cluster.kubectl.ok(&["delete", "-f", manifest.to_str().unwrap(), "--wait=false"]);
                eprintln!("samples: {name} ran");
            }
            Err(why) => eprintln!("samples: {name} was not run: {why}"),
        }
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples").canonicalize().unwrap()
}

/// The program that is checked in, else the one that `build.sh` makes here; else what it says is missing.
fn program(name: &str) -> Result<Vec<u8>, String> {
    let folder = samples().join(name);
    if let Ok(kept) = std::fs::read(folder.join(format!("prebuilt/{name}.wasm"))) {
        return Ok(kept);
    }
    let built = Command::new(samples().join("build.sh")).arg(name).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "build.sh {name}\n{said}{errors}");
    if said.starts_with("skipped: ") {
        return Err(said.trim().to_owned());
    }
    Ok(std::fs::read(folder.join(format!("build/{name}.wasm"))).unwrap())
}

fn get(address: SocketAddr, path: &str) -> http::Answer {
    http::get(address, path).unwrap()
}

fn greets(cluster: &Cluster, name: &str, greeting: &str) {
    cluster.wait_available(name);
    let address = cluster.node_port(name);
    assert_eq!(get(address, "/").body, format!("{greeting}, world\n"));
    assert_eq!(get(address, "/?name=a+b%21").body, format!("{greeting}, a b!\n"));
    assert_eq!(get(address, "/none").status, 404);
}

/// A body of a megabyte goes in and comes out as it was.
fn echoes(address: SocketAddr) {
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut writer = stream.try_clone().unwrap();
    let sent = body.clone();
    let writing = std::thread::spawn(move || writer.write_all(&[head.into_bytes(), sent].concat()));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    writing.join().unwrap().unwrap();
    let start = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..start]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let came =
        if head.contains("chunked") { without_chunks(&answer[start..]) } else { answer[start..].to_vec() };
    assert!(came == body, "{} bytes of {} came back, or other ones", came.len(), body.len());
}

fn without_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

/// Waits for a Job's end; the log of its pods.
fn job(cluster: &Cluster, name: &str) -> String {
    until(&format!("{name} completes"), Duration::from_secs(90), || {
        let done =
            cluster.kubectl.value(&["job", name], "{.status.conditions[?(@.type==\"Complete\")].status}");
        if done == "True" { Ok(()) } else { Err(cluster.kubectl.ok(&["get", "pods,events"])) }
    });
    cluster.kubectl.ok(&["logs", "-l", &format!("app={name}"), "--tail=-1"])
}

fn keeps_values(cluster: &Cluster) {
    cluster.wait_available("tcp-server");
    let address = cluster.node_port("tcp-server");
    assert_eq!(talk(address, "set colour sky blue\nget colour\nget none\nquit\n"), "ok\nsky blue\nnone\n");
    // The next connection is to the same pod, which keeps them; half a line more does no harm.
    assert_eq!(
        talk(address, "get colour\nfrob\nquit\nget"),
        "sky blue\nerror: set KEY VALUE, get KEY or quit\n"
    );
}

fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut said = Vec::new();
    // A server that leaves while bytes are on their way may reset the connection after its last words.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

fn serves_files(cluster: &Cluster) {
    cluster.wait_available("static-site");
    let address = cluster.node_port("static-site");
    assert!(get(address, "/").body.contains("<h1>Served by a WebAssembly component</h1>"));
    assert!(get(address, "/style.css").body.starts_with("body {"));
    for hidden in ["/none", "/..data/index.html", "/%2e%2e/etc/passwd", "/../site/index.html"] {
        assert_eq!(get(address, hidden).status, 404, "{hidden}");
    }
}

fn calls_another_service(cluster: &Cluster) {
    for name in ["caller-backend", "caller"] {
        cluster.wait_available(name);
    }
    let answer = until("both calls are answered", Duration::from_secs(20), || {
        let answer = get(cluster.node_port("caller"), "/some/path");
        if answer.status == 200 { Ok(answer.body) } else { Err(answer.body) }
    });
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines.len(), 2, "{answer}");
    for line in lines {
        let heard = line.starts_with("caller-") && line.contains(" heard /some/path from caller-backend-");
        assert!(heard, "{line}");
    }
}

/// What a project of a language ends with.
const PROJECTS: [(&str, Ending, &str); 5] = [
    ("rust", Ending::Answers, "hello from rust, world\n"),
    ("python", Ending::Answers, "hello from python, world\n"),
    ("js", Ending::Answers, "hello from js, world\n"),
    ("go", Ending::Writes, "     5 the\n"),
    ("c", Ending::Writes, "78498 primes up to 1000000"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// `run --detach` prints where it answers.
    Answers,
    /// `run` shows what it writes, and ends with it.
    Writes,
}

/// A project in each language: made, built, run twice. Without the tools `build` says what to install.
pub(crate) fn new_build_and_run() {
    let cluster = Cluster::up(Demo::Without);
    let place = tempfile::tempdir().unwrap();
    for (language, ending, expected) in PROJECTS {
        let name = format!("my-{language}");
        assert!(catamaran(&cluster, place.path(), &["new", &name, "--lang", language]).contains(&name));
        let (code, text) = output(place.path(), &["build", &name], &[]);
        if code != 0 {
            let advice = [" is missing; install ", " is missing; run `"];
            assert!(advice.iter().any(|words| text.contains(words)), "build {name}\n{text}");
            eprintln!("samples: new --lang {language} was not built: {}", text.trim());
            continue;
        }
        // The second run finds what the first left.
        for _ in 0..2 {
            run_project(&cluster, place.path(), &name, ending, expected);
        }
        eprintln!("samples: new --lang {language} ran");
    }
    let (code, text) = output(place.path(), &["new", "My_Own"], &[]);
    assert!(code == 1 && text.contains("cannot be the name of a Service"), "{text}");
    let (code, text) = output(place.path(), &["new", "my-rust"], &[]);
    assert!(code == 1 && text.contains("cannot make the folder my-rust"), "{text}");
}

fn run_project(cluster: &Cluster, place: &Path, name: &str, ending: Ending, expected: &str) {
    match ending {
        Ending::Writes => {
            let said = catamaran(cluster, place, &["run", name]);
            assert!(said.contains(expected), "{said}");
        }
        Ending::Answers => {
            let said = catamaran(cluster, place, &["run", "--detach", name]);
            let address = cluster.node_port(name);
            assert!(said.contains(&format!("http://{address}/")), "{said}");
            assert_eq!(get(address, "/").body, expected);
        }
    }
}

/// Runs a command on the cluster in a folder, and demands that it succeeds; what it printed.
fn catamaran(cluster: &Cluster, folder: &Path, arguments: &[&str]) -> String {
    let kubeconfig = cluster.data().join("kubeconfig");
    let (code, text) = output(folder, arguments, &[("KUBECONFIG", &kubeconfig)]);
    assert_eq!(code, 0, "catamaran {}\n{text}", arguments.join(" "));
    text
}

fn output(folder: &Path, arguments: &[&str], environment: &[(&str, &Path)]) -> (i32, String) {
    let mut command = Command::new(binary());
    // What the Rust template needs was fetched when the samples were built.
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("CARGO_NET_OFFLINE", "true");
    command.env_remove("CARGO_TARGET_DIR").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().unwrap_or(-1), text.concat())
}
