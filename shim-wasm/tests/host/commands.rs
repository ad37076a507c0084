//! Programs that run to an end, of every kind: exit codes, output, files, limits, traps, kill.

use std::time::{Duration, Instant};

use crate::common::*;
use catamaran_shim_wasm::Isolation;
use catamaran_task::pods::{Pods, TaskError};
use catamaran_task::status::{ExitReason, State};
use serde_json::json;

const BOTH: [&str; 2] = ["probe-p1", "probe-p2"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_args_env_and_output() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let given = Given::new(&format!("exit-{kind}"), &guest(kind), &["probe", "exit", "7"]);
        let exit = run(&host, &given).await;
        assert_eq!((exit.code, exit.reason), (7, ExitReason::Exited), "{kind}");
        let given = Given::new(&format!("ok-{kind}"), &guest(kind), &["probe", "args", "a", "b c"]);
        assert_eq!(run(&host, &given).await.code, 0);
        assert_eq!(given.stdout(), "a|b c\n", "{kind}");
        let given = Given::new(&format!("env-{kind}"), &guest(kind), &["probe", "env"])
            .with(json!({"env": ["POD_NAME=x", "PATH=/bin"]}));
        run(&host, &given).await;
        assert_eq!(given.stdout(), "POD_NAME=x\nPATH=/bin\n", "{kind}");
        let given = Given::new(&format!("both-{kind}"), &guest(kind), &["probe", "both", "out", "err"]);
        run(&host, &given).await;
        assert_eq!(given.log(), "stdout F out\nstderr F err\n", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_are_directories_of_the_node_with_their_rights() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join("in"), "content").unwrap();
        std::fs::write(volume.path().join("../outside"), "secret").unwrap();
        let mounts = |mode: &str| json!({"mounts": [{"destination": "/data", "source": volume.path(), "type": "bind", "options": ["rbind", mode]}]});
        let probe = |id: &str, args: &[&str], mode: &str| {
            Given::new(&format!("{id}-{kind}"), &guest(kind), &[&["probe"], args].concat()).with(mounts(mode))
        };
        let read = probe("read", &["cat", "/data/in"], "ro");
        assert_eq!(run(&host, &read).await.code, 0, "{}", read.log());
        assert!(read.log().contains("content"));
        assert_eq!(run(&host, &probe("write-ro", &["write", "/data/out", "x"], "ro")).await.code, 1);
        assert!(!volume.path().join("out").exists());
        assert_eq!(run(&host, &probe("write", &["write", "/data/out", "x"], "rw")).await.code, 0);
        assert_eq!(std::fs::read_to_string(volume.path().join("out")).unwrap(), "x");
        assert_eq!(run(&host, &probe("outside", &["cat", "/data/../outside"], "rw")).await.code, 1);
        assert_eq!(run(&host, &probe("etc", &["cat", "/etc/passwd"], "rw")).await.code, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_reported_with_the_functions_that_led_to_it() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let given = Given::new(&format!("trap-{kind}"), &guest(kind), &["probe", "trap"]);
        let exit = run(&host, &given).await;
        assert_eq!((exit.code, exit.reason), (134, ExitReason::Trap), "{kind}");
        let message = exit.message.unwrap();
        assert!(message.contains("unreachable") && message.contains("deliberate_trap"), "{message}");
        assert!(given.log().contains("deliberate_trap"), "{}", given.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_beyond_the_limit_ends_as_oom_killed() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let alloc = |id: &str, mebibytes: &str| {
            Given::new(&format!("{id}-{kind}"), &guest(kind), &["probe", "alloc", mebibytes, "0"])
                .with(json!({"resources": {"memory": {"limit": 32 << 20}}}))
        };
        // The C library of these guests rounds blocks up to powers of two: 8 MiB need 16.
        let within = alloc("within", "8");
        assert_eq!(run(&host, &within).await.code, 0, "{}", within.log());
        let exit = run(&host, &alloc("beyond", "64")).await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{kind}: {exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_guest_is_killed_and_its_cpu_time_counted() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let given = Given::new(&format!("spin-{kind}"), &guest(kind), &["probe", "spin", "0"]);
        up(&host, &given).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stats = host.stats(std::slice::from_ref(&given.spec.id)).await.unwrap().remove(0);
        assert!(stats.cpu_ns > 20_000_000 && stats.pids == 1, "{stats:?}");
        // TERM means nothing to a command.
        host.kill(&given.spec.id, TERM).await.unwrap();
        assert_eq!(host.status(std::slice::from_ref(&given.spec.id)).await.unwrap()[0].state, State::Running);
        let begin = Instant::now();
        host.kill(&given.spec.id, KILL).await.unwrap();
        let exit = host.wait(&given.spec.id).await.unwrap();
        assert_eq!(exit.code, 137);
        assert!(begin.elapsed() < Duration::from_secs(2));
        assert_eq!(host.stats(std::slice::from_ref(&given.spec.id)).await.unwrap()[0].pids, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cpu_limit_is_kept() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("limited", &guest("probe-p1"), &["probe", "spin", "0"])
        .with(json!({"resources": {"cpu": {"quota": 20_000, "period": 100_000}}}));
    up(&host, &given).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = host.stats(std::slice::from_ref(&given.spec.id)).await.unwrap()[0].cpu_ns;
    // 0.4 s of CPU in 2 s, with room for a busy machine below and a burst above.
    assert!((100_000_000..520_000_000).contains(&used), "{used}");
    host.kill(&given.spec.id, KILL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_output_waits_and_loses_nothing() {
    let (host, _) = host(Isolation::Shared);
    for kind in BOTH {
        let given = Given::new(&format!("flood-{kind}"), &guest(kind), &["probe", "flood", "6000", "1000"]);
        let begin = Instant::now();
        assert_eq!(run(&host, &given).await.code, 0);
        assert!(begin.elapsed() > Duration::from_millis(250), "6 MB went out in {:?}", begin.elapsed());
        assert_eq!(given.stdout().lines().count(), 6000, "{kind}");
    }
}

/// Whoever follows the exits of an idle host must wait, or would turn in circles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exits_are_waited_for_while_nothing_ended() {
    let (host, _) = host(Isolation::Shared);
    assert!(tokio::time::timeout(Duration::from_millis(300), host.exits(0)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_and_wrong_calls() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("states", &guest("probe-p1"), &["probe", "sleep", "60000"]);
    let id = given.spec.id.clone();
    assert!(matches!(host.start(&id).await, Err(TaskError::NotFound(_))));
    assert_eq!(create(&host, &given).await.unwrap().state, State::Created);
    assert!(matches!(create(&host, &given).await, Err(TaskError::AlreadyExists(_))));
    host.start(&id).await.unwrap();
    assert!(matches!(host.start(&id).await, Err(TaskError::FailedPrecondition(_))));
    assert!(matches!(host.delete(&id).await, Err(TaskError::FailedPrecondition(_))));
    assert!(matches!(host.shutdown().await, Err(TaskError::FailedPrecondition(_))));
    host.kill(&id, KILL).await.unwrap();
    host.wait(&id).await.unwrap();
    let exits = host.exits(0).await.unwrap();
    assert_eq!((exits.len(), exits[0].id.clone(), exits[0].exit.code), (1, id.clone(), 137));
    host.kill(&id, KILL).await.unwrap();
    host.delete(&id).await.unwrap();
    assert!(matches!(host.kill(&id, KILL).await, Err(TaskError::NotFound(_))));
    // Never started: it ends without having run.
    create(&host, &given).await.unwrap();
    host.kill(&id, TERM).await.unwrap();
    assert_eq!(host.wait(&id).await.unwrap().code, 143);
    host.delete(&id).await.unwrap();
    host.shutdown().await.unwrap();
    host.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_run_says_why() {
    let (host, _) = host(Isolation::Shared);
    let mut nth = 0;
    let mut refusal = async |artifact: &std::path::Path, compiled: Option<&std::path::Path>| {
        nth += 1;
        let id = format!("refused-{nth}");
        let given = match compiled {
            Some(compiled) => Given::compiled(&id, artifact, compiled, &["x"]),
            None => Given::new(&id, artifact, &["x"]),
        };
        create(&host, &given).await.unwrap_err().to_string()
    };
    let foreign = text("foreign", r#"(module (import "env" "secret" (func)) (func (export "_start")))"#);
    let said = refusal(&foreign, None).await;
    assert!(said.contains("imports env.secret") && said.contains("not granted"), "{said}");
    let component = text(
        "component-import",
        r#"(component (import "acme:db/store@1.0.0" (instance (export "get" (func)))))"#,
    );
    let said = refusal(&component, None).await;
    assert!(said.contains("imports acme:db/store@1.0.0") && said.contains("not granted"), "{said}");
    let idle = text("idle", r#"(module (func (export "run")))"#);
    let said = refusal(&idle, None).await;
    assert!(said.contains("nothing that can be run") && said.contains("exports run"), "{said}");
    let none = std::path::Path::new("/nonexistent.cwasm");
    let said = refusal(&idle, Some(none)).await;
    assert!(said.contains("/nonexistent.cwasm") && said.contains("compile the artifact again"), "{said}");
    let said = refusal(&idle, Some(&idle)).await;
    assert!(said.contains("not a compiled"), "{said}");
    let mut damaged = std::fs::read(compiled(&idle)).unwrap();
    damaged.truncate(damaged.len() / 2);
    let damaged_path = idle.with_extension("damaged");
    std::fs::write(&damaged_path, damaged).unwrap();
    let said = refusal(&idle, Some(&damaged_path)).await;
    assert!(said.contains("compile the artifact again"), "{said}");
    // What was compiled and is damaged now is taken away, so that it is made anew.
    let mut flipped = std::fs::read(compiled(&idle)).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let flipped_path = idle.with_extension("flipped.cwasm");
    std::fs::write(&flipped_path, &flipped).unwrap();
    let said = refusal(&idle, Some(&flipped_path)).await;
    assert!(said.contains("its content is not what was written"), "{said}");
    assert!(!flipped_path.exists());
}
