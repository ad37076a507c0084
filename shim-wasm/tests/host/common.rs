//! What the tests share: guests compiled once, specifications, a host in this process.
#![allow(unreachable_pub)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use catamaran_shim_wasm::{Isolation, WasmHost, compile};
use catamaran_task::fds::FdTable;
use catamaran_task::pods::{Pods, TaskError};
use catamaran_task::spec::{
    ContainerId, ContainerSpec, InstancePolicy, Outbound, Output, Resolvers, Rootfs, SandboxId, Stdin,
    WasmSpec,
};
use catamaran_task::status::{ContainerStatus, Exit};
use oci_spec::runtime::Spec;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const TERM: i32 = 15;
pub const KILL: i32 = 9;

/// Path of a prebuilt guest.
pub fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match name {
        "hello" => root.join("samples/hello/prebuilt/hello.wasm"),
        name => root.join(format!("tests/guests/prebuilt/{name}.wasm")),
    }
}

/// Compiled files of this test process.
fn cache() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// The compiled form of a file, made once.
pub fn compiled(artifact: &Path) -> PathBuf {
    static DONE: Mutex<Option<HashMap<PathBuf, PathBuf>>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap();
    let done = done.get_or_insert_with(HashMap::new);
    let next = done.len();
    done.entry(artifact.to_owned())
        .or_insert_with(|| {
            let output = cache().join(format!("{next}.cwasm"));
            compile::compile_file(artifact, &output).unwrap();
            output
        })
        .clone()
}

/// A guest written as text.
pub fn text(name: &str, wat: &str) -> PathBuf {
    let path = cache().join(format!("{name}.wasm"));
    std::fs::write(&path, wat::parse_str(wat).unwrap()).unwrap();
    path
}

/// A container to be: a builder for specifications.
pub struct Given {
    pub spec: ContainerSpec,
    pub dir: tempfile::TempDir,
}

impl Given {
    /// Runs `artifact` with `args` (the first is the program's name).
    pub fn new(id: &str, artifact: &Path, args: &[&str]) -> Self {
        Self::compiled(id, artifact, &compiled(artifact), args)
    }

    pub fn compiled(id: &str, artifact: &Path, compiled: &Path, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = ContainerSpec {
            id: ContainerId(id.into()),
            sandbox: SandboxId(format!("pod-{id}")),
            runtime_spec: runtime(json!({}), args),
            rootfs: Rootfs::None,
            output: Output::CriLog(dir.path().join("0.log")),
            stdin: Stdin::Null,
            wasm: Some(WasmSpec {
                artifact: artifact.to_owned(),
                compiled: compiled.to_owned(),
                pod_ip: pod_ip(),
                http_ports: vec![8080],
                instance: InstancePolicy::Fresh,
                outbound: Outbound::None,
                resolvers: Resolvers::default(),
                request_timeout_seconds: None,
            }),
        };
        Self { spec, dir }
    }

    pub fn wasm(&mut self) -> &mut WasmSpec {
        self.spec.wasm.as_mut().unwrap()
    }

    /// Replaces parts of the runtime specification: `env`, `mounts`, `resources`.
    pub fn with(mut self, parts: serde_json::Value) -> Self {
        let args = self.spec.runtime_spec.process().as_ref().unwrap().args().clone().unwrap();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.spec.runtime_spec = runtime(parts, &args);
        self
    }

    pub fn address(&self) -> SocketAddr {
        let wasm = self.spec.wasm.as_ref().unwrap();
        SocketAddr::from((wasm.pod_ip, wasm.http_ports[0]))
    }

    /// The text of the log, without times: `stdout F line`.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("0.log")).unwrap_or_default();
        log.lines().map(|line| format!("{}\n", line.split_once(' ').unwrap().1)).collect()
    }

    /// Only what was said on stdout.
    pub fn stdout(&self) -> String {
        self.log()
            .lines()
            .filter_map(|line| line.strip_prefix("stdout F "))
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

fn runtime(parts: serde_json::Value, args: &[&str]) -> Spec {
    let part = |name: &str, other: serde_json::Value| parts.get(name).cloned().unwrap_or(other);
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": args,
            "env": part("env", json!([])),
        },
        "mounts": part("mounts", json!([])),
        "linux": {"resources": part("resources", json!({}))},
    });
    serde_json::from_value(spec).unwrap()
}

/// An address of the loopback range for each container, as pods have each their own.
pub fn pod_ip() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // By process, so that test programs that run side by side do not meet.
    let process = (std::process::id() % 200 + 20) as u8;
    Ipv4Addr::new(127, process, high, low.max(1))
}

/// A host in this process.
pub fn host(isolation: Isolation) -> (Arc<WasmHost>, Arc<FdTable>) {
    let fds = Arc::new(FdTable::default());
    (WasmHost::new(isolation, Arc::clone(&fds)).unwrap(), fds)
}

pub async fn create(host: &WasmHost, given: &Given) -> Result<ContainerStatus, TaskError> {
    host.create(vec![given.spec.clone()]).await.remove(0)
}

/// Creates and starts.
pub async fn up(host: &WasmHost, given: &Given) {
    create(host, given).await.unwrap();
    host.start(&given.spec.id).await.unwrap();
}

/// Runs to its end.
pub async fn run(host: &WasmHost, given: &Given) -> Exit {
    up(host, given).await;
    tokio::time::timeout(std::time::Duration::from_secs(60), host.wait(&given.spec.id))
        .await
        .unwrap()
        .unwrap()
}

/// A client's connection that is kept open.
pub struct Connection(TcpStream);

impl Connection {
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }

    pub async fn send(&mut self, request: &str) -> std::io::Result<()> {
        self.0.write_all(request.as_bytes()).await
    }

    /// Sends GET and reads the whole answer: head and body.
    pub async fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await?;
        self.answer().await
    }

    pub async fn answer(&mut self) -> std::io::Result<Answer> {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = Answer::parse(&bytes) {
                return Ok(answer);
            }
            let mut buffer = [0; 4096];
            match self.0.read(&mut buffer).await? {
                0 => {
                    return Err(std::io::Error::other(format!("cut: {:?}", String::from_utf8_lossy(&bytes))));
                }
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Whether the other end has closed.
    pub async fn closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.0.read(&mut byte).await, Ok(0))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_ascii_lowercase();
        let field = |name: &str| {
            head.split(&format!("\r\n{name}: ")).nth(1).and_then(|rest| rest.split("\r\n").next())
        };
        let body = match field("content-length") {
            Some(length) => body.get(..length.parse().unwrap())?.to_owned(),
            None if field("transfer-encoding") == Some("chunked") => unchunk(body)?,
            None => String::new(),
        };
        Some(Self { status: head.split(' ').nth(1)?.parse().ok()?, body, head })
    }
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
}

/// One request on a connection of its own.
pub async fn get(address: SocketAddr, path: impl AsRef<str>) -> Answer {
    let path = path.as_ref();
    let mut connection = Connection::open(address).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(60), connection.get(path)).await.unwrap().unwrap()
}
