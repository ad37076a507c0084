//! The roles as processes: what a host gives up, low ports in its network namespace, a host that is
//! killed and replaced behind a listener that outlives it, the limited compile process.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use catamaran_shim_wasm::{CompileConfig, HostConfig, Isolation, compile, run_host};
use catamaran_task::TaskClient;
use catamaran_task::pods::TaskError;
use catamaran_task::spec::{
    ContainerId, ContainerSpec, InstancePolicy, Outbound, Output, Resolvers, Rootfs, SandboxId, Stdin,
    WasmSpec,
};

const POD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const PORT: u16 = 80;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("host") => host_role(&args[2..]),
        Some("compile") => compile_role(&args[2..]),
        _ => {
            // A thread of its own has the namespace; the other threads stay outside.
            std::thread::spawn(scenario).join().unwrap();
            println!("process: ok");
        }
    }
}

fn host_role(args: &[String]) {
    let root = PathBuf::from(&args[0]);
    let config = HostConfig {
        socket: root.join("s"),
        netns: Some(PathBuf::from(&args[1])),
        isolation: Isolation::Shared,
        log: Some(root.join("host.log")),
        root,
    };
    run_host(&config).unwrap();
}

fn compile_role(args: &[String]) {
    let config = CompileConfig { input: args[0].clone().into(), output: args[1].clone().into() };
    if let Err(e) = compile::run(&config) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

/// Kills the host when a check fails.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scenario() {
    enter_new_network();
    let dir = tempfile::tempdir().unwrap();
    let compiled = compile_in_process(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = start_host(dir.path()).await;
        check_confinement(host.0.id());
        check_restart(dir.path(), &compiled, host).await;
    });
}

/// A namespace with nothing but loopback, for this thread.
fn enter_new_network() {
    // SAFETY: affects this thread only.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "this test needs root");
    // SAFETY: a zeroed ifreq is valid; the name fits; the descriptor is open for the calls.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &request), 0);
        libc::close(socket);
    }
}

fn me() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn compile_in_process(dir: &Path) -> PathBuf {
    let wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hello/prebuilt/hello.wasm");
    let output = dir.join("hello.cwasm");
    assert!(me().arg("compile").args([&wasm, &output]).status().unwrap().success());
    let refused = me().arg("compile").args([Path::new("/etc/hostname"), &output]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not WebAssembly"));
    // Only the artifact and what was made of it are there.
    let made: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{made:?}");
    output
}

async fn start_host(dir: &Path) -> Host {
    // SAFETY: no arguments, no effects.
    let thread = unsafe { libc::gettid() };
    let netns = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
    let host = Host(me().arg("host").arg(dir).arg(netns).env("RUST_BACKTRACE", "1").spawn().unwrap());
    for _ in 0..200 {
        if TaskClient::connect(&dir.join("s")).await.is_ok() {
            return host;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = std::fs::read_to_string(dir.join("host.log")).unwrap_or_default();
    panic!("the host does not answer: {log}");
}

fn check_confinement(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // Bit 10 is CAP_NET_BIND_SERVICE.
    assert_eq!(field("CapEff:"), "0000000000000400");
    assert_eq!(field("CapPrm:"), "0000000000000400");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let mine = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(), mine);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.contains(" 0 "), "{core}");
}

fn container(dir: &Path, compiled: &Path) -> ContainerSpec {
    let runtime = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["hello"], "env": ["POD_NAME=p"]},
    });
    ContainerSpec {
        id: ContainerId("c".into()),
        sandbox: SandboxId("p".into()),
        runtime_spec: serde_json::from_value(runtime).unwrap(),
        rootfs: Rootfs::None,
        output: Output::CriLog(dir.join("0.log")),
        stdin: Stdin::Null,
        wasm: Some(WasmSpec {
            artifact: compiled.to_owned(),
            compiled: compiled.to_owned(),
            pod_ip: POD,
            http_ports: vec![PORT],
            instance: InstancePolicy::Fresh,
            outbound: Outbound::None,
            resolvers: Resolvers::default(),
            request_timeout_seconds: None,
        }),
    }
}

async fn check_restart(dir: &Path, compiled: &Path, host: Host) {
    let id = ContainerId("c".into());
    let client = TaskClient::connect(&dir.join("s")).await.unwrap();
    // Bound by the host itself: a low port without being root in effect.
    client.create(vec![container(dir, compiled)]).await.remove(0).unwrap();
    client.start(&id).await.unwrap();
    assert!(answer().contains("hello from a wasm component (p)"));
    client.kill(&id, libc::SIGKILL).await.unwrap();
    client.wait(&id).await.unwrap();
    client.delete(&id).await.unwrap();

    // The agent's listener outlives the host.
    let listener = std::net::TcpListener::bind((POD, PORT)).unwrap();
    serve_with(&client, dir, compiled, &listener).await;
    assert!(answer().contains("(p)"));
    drop(host);
    let waiting = TcpStream::connect(SocketAddr::from((POD, PORT))).unwrap();
    let begin = Instant::now();
    let mut host = start_host(dir).await;
    let client = TaskClient::connect(&dir.join("s")).await.unwrap();
    serve_with(&client, dir, compiled, &listener).await;
    assert!(exchange(waiting).contains("(p)"));
    println!("back {} ms after kill -9", begin.elapsed().as_millis());

    // A listener is asked back by an agent that was restarted.
    let back = client.take_back("web").await.unwrap();
    assert_eq!(std::net::TcpListener::from(back).local_addr().unwrap(), listener.local_addr().unwrap());
    assert!(matches!(client.shutdown().await, Err(TaskError::FailedPrecondition(_))));
    client.kill(&id, libc::SIGKILL).await.unwrap();
    client.wait(&id).await.unwrap();
    client.delete(&id).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(host.0.wait().unwrap().success());
    assert!(!dir.join("s").exists() && !dir.join("s.fds").exists());
}

async fn serve_with(client: &TaskClient, dir: &Path, compiled: &Path, listener: &std::net::TcpListener) {
    let id = ContainerId("c".into());
    client.hand_over("web", listener.as_fd()).await.unwrap();
    client.create(vec![container(dir, compiled)]).await.remove(0).unwrap();
    client.adopt_listener(&id, PORT, "web").await.unwrap();
    client.start(&id).await.unwrap();
}

/// One request from this thread's namespace.
fn answer() -> String {
    exchange(TcpStream::connect(SocketAddr::from((POD, PORT))).unwrap())
}

fn exchange(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
