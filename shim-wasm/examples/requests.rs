//! Requests a second of a host process, and its CPU time for each:
//! `cargo run --release -p catamaran-shim-wasm --example requests [FILE.wasm [SECONDS [CONNECTIONS]]]`.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use catamaran_shim_wasm::{HostConfig, Isolation, compile, run_host};
use catamaran_task::TaskClient;
use catamaran_task::spec::{
    ContainerId, ContainerSpec, InstancePolicy, Outbound, Output, Resolvers, Rootfs, SandboxId, Stdin,
    WasmSpec,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const POD: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 3);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|word| word == "host") {
        let root = PathBuf::from(&args[2]);
        let config =
            HostConfig { socket: root.join("s"), netns: None, isolation: Isolation::Shared, log: None, root };
        return run_host(&config).unwrap();
    }
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hello/prebuilt/hello.wasm");
    let wasm = args.get(1).map_or(sample, PathBuf::from);
    let number = |i: usize, other| args.get(i).map_or(other, |word| word.parse().unwrap());
    let (seconds, connections) = (number(2, 5), number(3, 16));
    let dir = tempfile::tempdir().unwrap();
    let compiled = dir.path().join("a.cwasm");
    let begin = Instant::now();
    compile::compile_file(&wasm, &compiled).unwrap();
    println!("compiled {} in {} ms", wasm.display(), begin.elapsed().as_millis());
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("host")
        .arg(dir.path())
        .spawn()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(measure(dir.path(), &compiled, host.id(), seconds, connections));
    host.kill().unwrap();
    host.wait().unwrap();
}

async fn measure(dir: &Path, compiled: &Path, pid: u32, seconds: u64, connections: u64) {
    let client = loop {
        match TaskClient::connect(&dir.join("s")).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let begin = Instant::now();
    let id = ContainerId("bench".into());
    client.create(vec![container(compiled)]).await.remove(0).unwrap();
    client.start(&id).await.unwrap();
    println!("created and started in {} µs", begin.elapsed().as_micros());
    let done = Arc::new(AtomicU64::new(0));
    for _ in 0..connections {
        tokio::spawn(drive(Arc::clone(&done)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (requests, cpu) = (done.load(Relaxed), cpu_micros(pid));
    let guest = client.stats(std::slice::from_ref(&id)).await.unwrap()[0].cpu_ns;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let requests = done.load(Relaxed) - requests;
    let guest = client.stats(std::slice::from_ref(&id)).await.unwrap()[0].cpu_ns - guest;
    let cpu = (cpu_micros(pid) - cpu) as f64 / requests as f64;
    println!(
        "{connections} connections: {} requests/s, {cpu:.1} µs of host CPU per request ({:.0} per core), {:.1} µs of them in the guest's task",
        requests / seconds,
        1e6 / cpu,
        guest as f64 / 1e3 / requests as f64,
    );
}

async fn drive(done: Arc<AtomicU64>) {
    let mut stream = tokio::net::TcpStream::connect(SocketAddr::from((POD, 8080))).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 8192];
    loop {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut have = 0;
        while !whole(&buffer[..have]) {
            match stream.read(&mut buffer[have..]).await {
                Ok(n) if n > 0 => have += n,
                _ => return,
            }
        }
        done.fetch_add(1, Relaxed);
    }
}

/// Whether a response of known length, or its last chunk, is there.
fn whole(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    match text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()) {
        Some(length) => bytes.len() >= head + 4 + length.parse::<usize>().unwrap(),
        None => bytes.ends_with(b"0\r\n\r\n"),
    }
}

/// User and system time of a process; its clock ticks are 10 ms.
fn cpu_micros(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

fn container(compiled: &Path) -> ContainerSpec {
    let runtime = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["x"], "env": ["POD_NAME=bench"]},
        "linux": {"resources": {"memory": {"limit": 64 << 20}, "cpu": {"quota": 800_000, "period": 100_000}}},
    });
    ContainerSpec {
        id: ContainerId("bench".into()),
        sandbox: SandboxId("bench".into()),
        runtime_spec: serde_json::from_value(runtime).unwrap(),
        rootfs: Rootfs::None,
        output: Output::Discard,
        stdin: Stdin::Null,
        wasm: Some(WasmSpec {
            artifact: compiled.to_owned(),
            compiled: compiled.to_owned(),
            pod_ip: POD,
            http_ports: vec![8080],
            instance: InstancePolicy::Fresh,
            outbound: Outbound::None,
            resolvers: Resolvers::default(),
            request_timeout_seconds: None,
        }),
    }
}
