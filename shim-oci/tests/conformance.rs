//! The suite of the task contract, through both services. Needs root.

mod support;

use catamaran_task::conformance::{self, Program};
use catamaran_task::{TASK_V2, TASK_V3};
use support::{TestShim, arguments, runtime_spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_service() {
    let shim = TestShim::start().await;
    let report = conformance::pods(&shim).await;
    assert!(report.failures.is_empty(), "{report}\n{}", shim.shim_log());
    shim.client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerds_task_api() {
    let shim = TestShim::start().await;
    let bundle = |name: &str, program: &Program| {
        let bundle = shim.path(&format!("bundle-{name}"));
        std::fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        std::fs::copy(support::guest(), bundle.join("rootfs/bin/guest")).unwrap();
        let mut config = runtime_spec(arguments(program));
        config["linux"]["cgroupsPath"] = format!("/catamaran/{}/{name}", shim.sandbox()).into();
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    };
    for service in [TASK_V2, TASK_V3] {
        let report = conformance::task_api(&shim, service, &bundle).await;
        assert!(report.failures.is_empty(), "{service}: {report}\n{}", shim.shim_log());
    }
}
