//! The worker is killed at any moment, the keeper too: containers do not notice. Needs root.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use catamaran_task::spec::ContainerId;
use catamaran_task::status::{ExitReason, State};
use support::TestShim;

fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn new_worker(shim: &TestShim, old: u32) -> u32 {
    for _ in 0..2_000 {
        if let Some(pid) = shim.worker_pid().filter(|pid| *pid != old) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("no new worker: {}", shim.shim_log());
}

/// Numbers that a container counted, in the order of its log.
fn counted(shim: &TestShim, name: &str) -> Vec<u64> {
    shim.said(name).lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect()
}

/// Some numbers that differ from run to run enough; no need for more.
fn pause(round: u64) -> Duration {
    Duration::from_micros(round * 7_919 % 60_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_times_killed_and_nothing_is_lost() {
    let shim = TestShim::start().await;
    let mut running = Vec::new();
    for n in 0..4 {
        let status = shim.run(shim.container(&format!("count-{n}"), &["count", "2"])).await;
        running.push((status.id, status.pid, start_time(status.pid).unwrap()));
    }
    let mut codes = Vec::new();
    for round in 0..50u64 {
        let id = ContainerId(format!("short-{round}"));
        let code = round % 100;
        let spec = shim.container(&id.0, &["sleep", "30", ",", "exit", &code.to_string()]);
        shim.run(spec).await;
        codes.push((id, code as i32));
        let worker = shim.worker_pid().expect("a worker");
        tokio::time::sleep(pause(round)).await;
        kill(worker);
        new_worker(&shim, worker).await;
    }
    for (id, code) in codes {
        let exit = shim.client.wait(&id).await.unwrap();
        assert_eq!((exit.code, exit.reason), (code, ExitReason::Exited), "{}", id.0);
        shim.client.delete(&id).await.unwrap();
    }
    for (id, pid, start) in running {
        let status = shim.client.status(std::slice::from_ref(&id)).await.unwrap().remove(0);
        assert_eq!((status.state, status.pid), (State::Running, pid), "{}", id.0);
        assert_eq!(start_time(pid).as_ref(), Some(&start), "{}", id.0);
        shim.client.kill(&id, 9).await.unwrap();
        assert_eq!(shim.client.wait(&id).await.unwrap().code, 137);
        let numbers = counted(&shim, &id.0);
        let last = *numbers.last().unwrap();
        let mut distinct = numbers.clone();
        distinct.dedup();
        assert_eq!(distinct, (0..=last).collect::<Vec<_>>(), "{}: a line is lost or out of order", id.0);
        let doubled = numbers.len() - distinct.len();
        assert!(doubled <= 3, "{}: {doubled} lines twice", id.0);
        shim.client.delete(&id).await.unwrap();
    }
}

/// Kills in the middle of creations and starts: whatever the call said, nothing runs twice, nothing is
/// left half-made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_containers_are_made() {
    let shim = TestShim::start().await;
    for round in 0..25u64 {
        let id = ContainerId(format!("made-{round}"));
        let marker = shim.path(&format!("marker-{round}"));
        std::fs::create_dir_all(&marker).unwrap();
        let spec = shim.container_with(&id.0, serde_json::json!(["guest", "say", "once\n", "run"]), |_| {});
        let client = shim.client.clone();
        let call = tokio::spawn({
            let id = id.clone();
            async move {
                let created = client.create(vec![spec]).await.remove(0);
                match created {
                    Ok(_) => client.start(&id).await.map(|status| status.state),
                    Err(e) => Err(e),
                }
            }
        });
        let worker = shim.worker_pid().expect("a worker");
        tokio::time::sleep(Duration::from_micros(round * 331 % 6_000)).await;
        kill(worker);
        new_worker(&shim, worker).await;
        let said = call.await.unwrap();
        let status = shim.client.status(std::slice::from_ref(&id)).await.unwrap().pop();
        match (&said, status.as_ref().map(|s| s.state)) {
            (Ok(_), state) => assert_eq!(state, Some(State::Running), "round {round}"),
            // Not known any more: then it can be made again.
            (Err(_), None) => {}
            (Err(_), Some(State::Created)) => {
                shim.client.start(&id).await.unwrap();
            }
            (Err(_), Some(State::Running)) => {}
            (Err(e), Some(State::Exited)) => panic!("round {round}: {e}, {status:?}"),
        }
        if status.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            shim.remove(&id.0).await;
            assert_eq!(shim.said(&id.0), "once\n", "round {round}");
        }
    }
    assert_eq!(std::fs::read_dir(shim.path("root/containers")).unwrap().count(), 0);
    let left = std::path::Path::new("/sys/fs/cgroup/memory/catamaran").join(shim.sandbox());
    assert!(!left.exists(), "a cgroup is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_while_the_worker_is_away_keeps_code_and_last_words() {
    let shim = TestShim::start().await;
    for round in 0..5 {
        let id = ContainerId(format!("last-{round}"));
        shim.run(shim.container(
            &id.0,
            &["say", "first\n", "sleep", "40", ",", "say", "last words", ",", "exit", "9"],
        ))
        .await;
        tokio::time::sleep(Duration::from_millis(25)).await;
        // Ended while nobody reads and nobody waits.
        let worker = shim.worker_pid().unwrap();
        kill(worker);
        let exit = shim.client.wait(&id).await.unwrap();
        assert_eq!(exit.code, 9);
        assert_eq!(shim.said(&id.0), "first\nlast words\n");
        shim.client.delete(&id).await.unwrap();
        new_worker(&shim, worker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_shim_adopts_what_a_killed_one_left() {
    let mut shim = TestShim::start().await;
    let long = shim.run(shim.container("long", &["count", "2"])).await;
    let start = start_time(long.pid).unwrap();
    let short = shim.run(shim.container("short", &["sleep", "400", ",", "exit", "5"])).await;
    let gone = shim.run(shim.container("gone", &["sleep", "40", ",", "exit", "5"])).await;
    shim.create(shim.container("waits", &["run"])).await;
    shim.kill_keeper();
    tokio::time::sleep(Duration::from_millis(100)).await;
    shim.spawn();
    shim.ready().await;
    let find = |id: &str| {
        let (client, id) = (shim.client.clone(), ContainerId(id.into()));
        async move { client.status(&[id]).await.unwrap().pop() }
    };
    let status = find("long").await.unwrap();
    assert_eq!((status.state, status.pid), (State::Running, long.pid));
    assert_eq!(start_time(long.pid), Some(start));
    assert!(find("waits").await.is_none(), "never started, and its gate is gone: as if never made");
    assert_eq!(shim.client.wait(&gone.id).await.unwrap().reason, ExitReason::Lost);
    // The kernel tells the code of one that ends later, from Linux 6.15 on.
    let exit = shim.client.wait(&short.id).await.unwrap();
    assert!(
        matches!((exit.code, exit.reason), (5, ExitReason::Exited) | (255, ExitReason::Lost)),
        "{exit:?}"
    );
    shim.client.kill(&long.id, 9).await.unwrap();
    shim.client.wait(&long.id).await.unwrap();
    let numbers = counted(&shim, "long");
    let mut distinct = numbers.clone();
    distinct.dedup();
    assert_eq!(distinct, (0..=*numbers.last().unwrap()).collect::<Vec<_>>());
    for id in [long.id, short.id, gone.id] {
        shim.client.delete(&id).await.unwrap();
    }
    shim.client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_survives_the_worker() {
    let shim = TestShim::start().await;
    let container = shim.run(shim.container("outer", &["run"])).await;
    let mut process = oci_spec::runtime::Process::default();
    process.set_args(Some(["guest", "sleep", "150", ",", "exit", "8"].map(String::from).to_vec()));
    process.set_env(None).set_cwd("".into()).set_capabilities(None).set_rlimits(None);
    let exec = catamaran_task::ExecSpec {
        exec_id: "e".into(),
        process,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
    };
    shim.client.exec(&container.id, exec).await.unwrap();
    let worker = shim.worker_pid().unwrap();
    kill(worker);
    new_worker(&shim, worker).await;
    assert_eq!(shim.client.wait_exec(&container.id, "e").await.unwrap().code, 8);
    shim.remove("outer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_shim_for_a_directory() {
    let shim = TestShim::start().await;
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_catamaran-shim-oci"))
        .args([
            "--root",
            shim.path("root").to_str().unwrap(),
            "--socket",
            shim.path("other").to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("another shim uses the directory"), "{text}");
}

/// What cannot be read now (an I/O error, too many open files; here a directory in place of the file) says
/// nothing about the container: it goes on, and is taken over as soon as it can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_kills_nothing() {
    let shim = TestShim::start().await;
    let status = shim.run(shim.container("unread", &["run"])).await;
    let start = start_time(status.pid);
    let (file, aside) = (shim.path("root/containers/unread/state.json"), shim.path("aside"));
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let worker = shim.worker_pid().expect("a worker");
    kill(worker);
    new_worker(&shim, worker).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(start_time(status.pid), start, "it was killed");
    assert!(shim.shim_log().contains("unread"), "the log names it: {}", shim.shim_log());
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    shim.ready().await;
    let found = shim.client.status(std::slice::from_ref(&status.id)).await.unwrap().remove(0);
    assert_eq!((found.state, found.pid), (State::Running, status.pid));
    shim.remove("unread").await;
}

/// A disk that is full when a container ends: its exit is written down when there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_that_cannot_be_written_comes_later() {
    let shim = TestShim::start().await;
    let status = shim.run(shim.container("late", &["sleep", "100", ",", "exit", "5"])).await;
    std::fs::rename(shim.path("root/exit"), shim.path("aside")).unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(start_time(status.pid), None, "it is over");
    std::fs::rename(shim.path("aside"), shim.path("root/exit")).unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(5), shim.client.wait(&status.id)).await;
    assert_eq!(exit.expect("the keeper tries again").unwrap().code, 5);
    shim.client.delete(&status.id).await.unwrap();
}
