//! A shim of the tests' own, and containers for it made of one static program.
#![allow(dead_code, missing_docs, unreachable_pub, unsafe_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use catamaran_task::TaskClient;
use catamaran_task::conformance::{Bench, Program};
use catamaran_task::spec::{ContainerId, ContainerSpec, Output, Rootfs, SandboxId, Stdin};
use catamaran_task::status::{ContainerStatus, Exit};
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

/// The static program, compiled once.
pub fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/guest.c");
        let draft = directory.join(format!("guest.{}", std::process::id()));
        let done = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&draft).arg(source).status();
        assert!(done.expect("cc (Debian: apt-get install gcc libc6-dev)").success());
        let program = directory.join("guest");
        std::fs::rename(draft, &program).unwrap();
        program
    })
}

/// A running shim with a directory of its own; all of it is gone when this is dropped.
pub struct TestShim {
    directory: tempfile::TempDir,
    keeper: Option<Child>,
    sandbox: String,
    pub client: TaskClient,
}

impl TestShim {
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("cso").tempdir().unwrap();
        let path = directory.path();
        // Two layers: the program in the lower one.
        std::fs::create_dir_all(path.join("layers/base/bin")).unwrap();
        std::fs::create_dir_all(path.join("layers/base/etc")).unwrap();
        std::fs::create_dir_all(path.join("layers/top/data")).unwrap();
        std::fs::copy(guest(), path.join("layers/base/bin/guest")).unwrap();
        std::fs::write(
            path.join("layers/base/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/x\n",
        )
        .unwrap();
        std::fs::write(path.join("layers/top/data/file"), "from the top layer\n").unwrap();
        let sandbox = format!("test-{}-{}", std::process::id(), path.file_name().unwrap().to_str().unwrap());
        let client = TaskClient::lazy(&path.join("s"));
        let mut shim = Self { directory, keeper: None, sandbox: sandbox.replace('.', "_"), client };
        shim.spawn();
        shim.ready().await;
        shim
    }

    pub fn spawn(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_catamaran-shim-oci"))
            .args(["--root", self.path("root").to_str().unwrap()])
            .args(["--socket", self.path("s").to_str().unwrap()])
            .args(["--log", self.path("log").to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.keeper = Some(child);
    }

    pub async fn ready(&self) {
        let begin = Instant::now();
        loop {
            match TaskClient::connect(&self.path("s")).await {
                Ok(client) if client.status(&[]).await.is_ok() => return,
                _ if begin.elapsed() > Duration::from_secs(10) => panic!("the shim: {}", self.shim_log()),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().unwrap().id()
    }

    /// The keeper's child that serves: the one that shares its program.
    pub fn worker_pid(&self) -> Option<u32> {
        let keeper = self.keeper_pid();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--socket") && is_first_of_its_namespace(*pid)
        })
    }

    pub fn shim_log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn kill_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().unwrap();
            keeper.wait().unwrap();
        }
    }

    /// A container of the usual kind whose program does `commands`.
    pub fn container(&self, name: &str, commands: &[&str]) -> ContainerSpec {
        let mut arguments = vec!["guest"];
        arguments.extend(commands);
        self.container_with(name, json!(arguments), |_| {})
    }

    pub fn container_with(&self, name: &str, args: Value, change: impl FnOnce(&mut Value)) -> ContainerSpec {
        let mut spec = runtime_spec(args);
        change(&mut spec);
        let runtime_spec: Spec = serde_json::from_value(spec).unwrap();
        ContainerSpec {
            id: ContainerId(name.into()),
            sandbox: SandboxId(self.sandbox.clone()),
            runtime_spec,
            rootfs: Rootfs::Overlay {
                lower: vec![self.path("layers/top"), self.path("layers/base")],
                scratch: self.path(&format!("scratch/{name}")),
            },
            output: Output::CriLog(self.path(&format!("{name}.log"))),
            stdin: Stdin::Null,
            wasm: None,
        }
    }

    pub async fn create(&self, spec: ContainerSpec) -> ContainerStatus {
        self.client.create(vec![spec]).await.remove(0).unwrap_or_else(|e| panic!("{e}\n{}", self.shim_log()))
    }

    pub async fn run(&self, spec: ContainerSpec) -> ContainerStatus {
        let id = spec.id.clone();
        self.create(spec).await;
        self.client.start(&id).await.unwrap_or_else(|e| panic!("{e}\n{}", self.shim_log()))
    }

    /// Runs it to its end and removes it; its exit and what it said (both streams, without the times).
    pub async fn output(&self, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        self.run(spec).await;
        let exit = self.client.wait(&id).await.unwrap();
        let said = self.said(&id.0);
        self.client.delete(&id).await.unwrap();
        (exit, said)
    }

    pub fn said(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    pub async fn remove(&self, name: &str) {
        let id = ContainerId(name.into());
        self.client.kill(&id, 9).await.unwrap();
        self.client.wait(&id).await.unwrap();
        self.client.delete(&id).await.unwrap();
    }
}

fn is_first_of_its_namespace(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == std::fs::read_link("/proc/self/ns/mnt").ok()
}

impl Drop for TestShim {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            // Kills the worker too (parent death signal); containers by their cgroups below.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroup(&hierarchy.path().join("catamaran").join(&self.sandbox));
        }
        remove_cgroup(&Path::new("/sys/fs/cgroup/catamaran").join(&self.sandbox));
        if std::thread::panicking() {
            eprintln!("--- log of the shim\n{}", self.shim_log());
        }
    }
}

fn remove_cgroup(group: &Path) {
    if !group.exists() {
        return;
    }
    for child in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            let _ = std::fs::write(child.path().join("cgroup.kill"), "1");
            for _ in 0..200 {
                if std::fs::remove_dir(child.path()).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let _ = std::fs::remove_dir(group);
    let _ = std::fs::remove_dir(group.parent().unwrap());
}

/// What an agent writes for an ordinary container.
pub fn runtime_spec(args: Value) -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        },
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "annotations": {"catamaran.dev/seccomp": "default"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
        },
    })
}

impl Bench for TestShim {
    fn socket(&self) -> PathBuf {
        self.path("s")
    }

    fn container(&self, name: &str, program: &Program, log: &Path) -> ContainerSpec {
        let mut spec = self.container_with(name, arguments(program), |_| {});
        spec.output = Output::CriLog(log.to_owned());
        spec
    }

    fn echo(&self) -> Option<Process> {
        let mut process = Process::default();
        process.set_args(Some(["guest", "echo", ",", "exit", "7"].map(String::from).to_vec()));
        process.set_env(None).set_cwd("".into()).set_capabilities(None).set_rlimits(None);
        Some(process)
    }

    fn scratch(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

pub fn arguments(program: &Program) -> Value {
    match program {
        Program::Exit(code) => json!(["guest", "exit", code.to_string()]),
        Program::Say(out, err) => json!(["guest", "say", out, "err", err]),
        Program::Run => json!(["guest", "run"]),
        Program::Missing => json!(["/bin/no-such-program"]),
    }
}
