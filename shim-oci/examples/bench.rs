//! What a container costs: `cargo run --release -p catamaran-shim-oci --example bench [N]`, as root.
//! Prints medians of create, start, wait and delete one at a time, and containers a second of eight at
//! a time; beside it `crun` and `runc` on the same root file system, where they are installed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use catamaran_task::TaskClient;
use catamaran_task::spec::{ContainerId, ContainerSpec, Output, Rootfs, SandboxId, Stdin};
use serde_json::json;

struct Bench {
    directory: tempfile::TempDir,
    keeper: Child,
    client: TaskClient,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.keeper);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.keeper.wait();
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// The shim's program lies beside this one's directory.
fn shim_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("catamaran-shim-oci");
    assert!(program.exists(), "first: cargo build --release -p catamaran-shim-oci");
    program
}

fn config() -> serde_json::Value {
    let flags = json!(["nosuid", "noexec", "nodev"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/true"], "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true, "terminal": false,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": "rootfs"}, "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": flags},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "resources": {"memory": {"limit": 67108864}, "cpu": {"shares": 512}, "pids": {"limit": 100}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/irq"],
        },
    })
}

impl Bench {
    async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("csb").tempdir().unwrap();
        let layer = directory.path().join("layer");
        for name in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(layer.join(name)).unwrap();
        }
        let source = directory.path().join("true.c");
        std::fs::write(&source, "int main(void) { return 0; }").unwrap();
        let made = Command::new("cc").args(["-static", "-o"]).arg(layer.join("true")).arg(source).status();
        assert!(made.unwrap().success());
        let keeper = Command::new(shim_program())
            .arg("--root")
            .arg(directory.path().join("root"))
            .arg("--socket")
            .arg(directory.path().join("s"))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let client = TaskClient::lazy(&directory.path().join("s"));
        client.status(&[]).await.unwrap();
        Self { directory, keeper, client }
    }

    fn spec(&self, name: &str) -> ContainerSpec {
        let path = |name: &str| self.directory.path().join(name);
        ContainerSpec {
            id: ContainerId(name.into()),
            sandbox: SandboxId("bench".into()),
            runtime_spec: serde_json::from_value(config()).unwrap(),
            rootfs: Rootfs::Overlay { lower: vec![path("layer")], scratch: path(&format!("scratch/{name}")) },
            output: Output::CriLog(path(&format!("log/{name}"))),
            stdin: Stdin::Null,
            wasm: None,
        }
    }

    async fn one(&self, name: &str) -> [Duration; 4] {
        let id = ContainerId(name.into());
        let spec = self.spec(name);
        let mut times = [Duration::ZERO; 4];
        let mut begin = Instant::now();
        let mut lap = |index: usize| {
            times[index] = begin.elapsed();
            begin = Instant::now();
        };
        self.client.create(vec![spec]).await.remove(0).unwrap();
        lap(0);
        self.client.start(&id).await.unwrap();
        lap(1);
        assert_eq!(self.client.wait(&id).await.unwrap().code, 0);
        lap(2);
        self.client.delete(&id).await.unwrap();
        lap(3);
        times
    }
}

/// Runs `work` on a thread with mounts of its own, without the unified cgroup tree of a hybrid node:
/// crun refuses to run beside it.
fn without_unified_tree<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
            // SAFETY: this thread shares no file system state that anybody else relies on.
            #[allow(unsafe_code)]
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            if Path::new("/sys/fs/cgroup/unified").exists() {
                unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

/// Median of a whole run by a runtime's command line, in a bundle of its own.
fn peer(runtime: &str, bench: &Path, count: usize) -> Option<f64> {
    let bundle = bench.join(format!("bundle-{runtime}"));
    std::fs::create_dir_all(&bundle).unwrap();
    std::os::unix::fs::symlink(bench.join("layer"), bundle.join("rootfs")).unwrap();
    let mut config = config();
    config["root"]["path"] = json!(bench.join("layer"));
    std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let mut times = Vec::new();
    for n in 0..count {
        let begin = Instant::now();
        let status = Command::new(runtime)
            .args(["--root", bench.join("peer").to_str()?, "run", "--bundle"])
            .arg(&bundle)
            .arg(format!("bench-{runtime}-{n}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        times.push(begin.elapsed());
        if !status.success() {
            println!("{runtime:>6}: does not run here ({status})");
            return None;
        }
    }
    Some(median(times))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    let bench = Bench::start().await;
    let mut laps: [Vec<Duration>; 5] = Default::default();
    for n in 0..count {
        let times = bench.one(&format!("one-{n}")).await;
        for (lap, time) in laps.iter_mut().zip(times) {
            lap.push(time);
        }
        laps[4].push(times.iter().sum());
    }
    let [create, start, wait, delete, all] = laps.map(median);
    println!("one at a time, {count} containers, medians in ms:");
    println!("create {create:.2}  start {start:.2}  wait {wait:.2}  delete {delete:.2}  all {all:.2}");
    let begin = Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    futures::future::join_all((0..8).map(|_| async {
        loop {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if n >= count * 2 {
                return;
            }
            bench.one(&format!("many-{n}")).await;
        }
    }))
    .await;
    println!("eight at a time: {:.0} containers/s", (count * 2) as f64 / begin.elapsed().as_secs_f64());
    for runtime in ["crun", "runc"] {
        let measured = without_unified_tree(|| peer(runtime, bench.directory.path(), count.min(50)));
        if let Some(peer) = measured {
            println!("{runtime:>6} run: {peer:.2} ms; ours is {:.2} of it", all / peer);
        }
    }
}
