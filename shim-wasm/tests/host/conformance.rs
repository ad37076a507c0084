//! The suite that every shim passes, over the socket.

use std::path::{Path, PathBuf};

use crate::common::*;
use catamaran_shim_wasm::Isolation;
use catamaran_task::conformance::{self, Bench, Program};
use catamaran_task::server;
use catamaran_task::spec::{ContainerId, ContainerSpec, Output};
use oci_spec::runtime::Process;

struct WasmBench(tempfile::TempDir);

impl Bench for WasmBench {
    fn socket(&self) -> PathBuf {
        self.0.path().join("s")
    }

    fn container(&self, name: &str, program: &Program, log: &Path) -> ContainerSpec {
        let probe = guest("probe-p1");
        let given = match program {
            Program::Exit(code) => Given::new("x", &probe, &["probe", "exit", &code.to_string()]),
            Program::Say(out, err) => Given::new("x", &probe, &["probe", "say", out, err]),
            // Only a server knows what TERM means.
            Program::Run => Given::new("x", &guest("hello"), &["hello"]),
            Program::Missing => Given::compiled("x", &probe, Path::new("/nonexistent/program.cwasm"), &["x"]),
        };
        ContainerSpec { id: ContainerId(name.into()), output: Output::CriLog(log.to_owned()), ..given.spec }
    }

    fn echo(&self) -> Option<Process> {
        None
    }

    fn scratch(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept() {
    let bench = WasmBench(tempfile::tempdir().unwrap());
    let (host, fds) = host(Isolation::Shared);
    let (socket, stop) = (bench.socket(), tokio_util::sync::CancellationToken::new());
    let stopped = stop.clone().cancelled_owned();
    let served = tokio::spawn(async move { server::serve(&socket, host, fds, stopped).await });
    while !bench.socket().exists() {
        tokio::task::yield_now().await;
    }
    let report = conformance::pods(&bench).await;
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.passed.len() > 10, "{report}");
    stop.cancel();
    served.await.unwrap().unwrap();
}
