//! HTTP components: answers, failures, reuse, limits, drain, adopted listeners.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::common::*;
use catamaran_shim_wasm::Isolation;
use catamaran_task::pods::Pods;
use catamaran_task::spec::InstancePolicy;
use catamaran_task::status::{ExitReason, State};
use serde_json::json;

fn reuse(max: u32, concurrency: u32) -> InstancePolicy {
    InstancePolicy::Reuse { max, concurrency, idle_seconds: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_answers_with_its_name() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("hello", &guest("hello"), &[]).with(json!({"env": ["POD_NAME=hello-wasm-abc"]}));
    up(&host, &given).await;
    let mut connection = Connection::open(given.address()).await.unwrap();
    for _ in 0..3 {
        let answer = connection.get("/").await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "hello from a wasm component (hello-wasm-abc)\n")
        );
    }
    assert_eq!(connection.get("/healthz").await.unwrap().body, "ok\n");
    assert_eq!(connection.get("/other").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_of_wasi_0_3_answer_fresh_and_reused() {
    let (host, _) = host(Isolation::Shared);
    for (id, policy, expected) in [
        ("p3-fresh", InstancePolicy::Fresh, ["1", "1", "1", "1"]),
        ("p3-reuse", reuse(3, 2), ["1", "2", "3", "1"]),
    ] {
        let mut given = Given::new(id, &guest("hello-p3"), &[]).with(json!({"env": ["A=b"]}));
        given.wasm().instance = policy;
        up(&host, &given).await;
        let mut connection = Connection::open(given.address()).await.unwrap();
        for count in expected {
            assert_eq!(connection.get("/count").await.unwrap().body.trim(), count, "{id}");
        }
        assert_eq!(connection.get("/").await.unwrap().body, "hello from wasi 0.3\n");
        assert_eq!(connection.get("/env").await.unwrap().body, "A=b\n");
        assert_eq!(connection.get("/trap").await.unwrap().status, 500);
        assert_eq!(connection.get("/").await.unwrap().status, 200);
        assert!(given.log().contains("wasm backtrace"), "{}", given.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_of_0_2_is_fresh_or_reused_as_told() {
    let (host, _) = host(Isolation::Shared);
    for (id, policy, expected) in
        [("p2-fresh", InstancePolicy::Fresh, ["1", "1", "1"]), ("p2-reuse", reuse(2, 1), ["1", "2", "1"])]
    {
        let mut given = Given::new(id, &guest("fetch"), &[]);
        given.wasm().instance = policy;
        up(&host, &given).await;
        for count in expected {
            assert_eq!(get(given.address(), "/count").await.body.trim(), count, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_reused_instance_is_dropped() {
    let (host, _) = host(Isolation::Shared);
    for kind in ["fetch", "hello-p3"] {
        let mut given = Given::new(&format!("idle-{kind}"), &guest(kind), &[]);
        given.wasm().instance = reuse(100, 4);
        up(&host, &given).await;
        get(given.address(), "/count").await;
        let live = async || host.stats(std::slice::from_ref(&given.spec.id)).await.unwrap()[0].pids;
        assert_eq!(live().await, 2, "{kind}");
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(live().await, 1, "{kind}");
        assert_eq!(get(given.address(), "/count").await.body, "1\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_reach_the_caller_and_the_log() {
    let (host, _) = host(Isolation::Shared);
    let mut given = Given::new("failures", &guest("fetch"), &[])
        .with(json!({"resources": {"memory": {"limit": 32 << 20}}}));
    given.wasm().request_timeout_seconds = Some(1);
    up(&host, &given).await;
    let trapped = get(given.address(), "/trap").await;
    assert_eq!(trapped.status, 500);
    assert!(trapped.body.contains("trapped"), "{}", trapped.body);
    assert!(given.log().contains("deliberate_trap"), "{}", given.log());
    let begin = Instant::now();
    assert_eq!(get(given.address(), "/spin").await.status, 504);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(get(given.address(), "/alloc?mib=64").await.status, 500);
    assert!(given.log().contains("memory limit refused growth"), "{}", given.log());
    assert_eq!(get(given.address(), "/alloc?mib=4").await.status, 200);
    assert_eq!(get(given.address(), "/log?text=said").await.status, 200);
    assert!(given.stdout().contains("said"));
    let status = host.status(std::slice::from_ref(&given.spec.id)).await.unwrap().remove(0);
    assert_eq!(status.state, State::Running);
}

/// On a runtime that looks at its sockets as often as the host's own.
#[test]
fn a_spinning_neighbour_delays_little() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).event_interval(4).global_queue_interval(8).enable_all();
    runtime.build().unwrap().block_on(spinning_neighbour());
}

async fn spinning_neighbour() {
    let (host, _) = host(Isolation::Shared);
    let spinner = Given::new("spinner", &guest("fetch"), &[]);
    let neighbour = Given::new("neighbour", &guest("hello"), &[]);
    up(&host, &spinner).await;
    up(&host, &neighbour).await;
    for _ in 0..4 {
        let address = spinner.address();
        tokio::spawn(async move { get(address, "/spin").await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut connection = Connection::open(neighbour.address()).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..50 {
        let begin = Instant::now();
        assert_eq!(connection.get("/healthz").await.unwrap().status, 200);
        times.push(begin.elapsed());
    }
    times.sort();
    assert!(times[25] < Duration::from_millis(100), "median {:?}", times[25]);
    host.kill(&spinner.spec.id, KILL).await.unwrap();
    let exit =
        tokio::time::timeout(Duration::from_secs(3), host.wait(&spinner.spec.id)).await.unwrap().unwrap();
    assert_eq!(exit.code, 137);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_are_told_to_come_again() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("busy", &guest("fetch"), &[]);
    up(&host, &given).await;
    let address = given.address();
    let requests: Vec<_> = (0..250).map(|_| tokio::spawn(get(address, "/sleep?ms=1500"))).collect();
    let mut statuses = Vec::new();
    for request in requests {
        let answer = request.await.unwrap();
        assert!(answer.status == 200 || answer.head.contains("retry-after: 1"), "{answer:?}");
        statuses.push(answer.status);
    }
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(200) + count(503), 250);
    assert!(count(200) >= 100 && count(503) >= 50, "{} answered, {} refused", count(200), count(503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("echo", &guest("fetch"), &[]);
    up(&host, &given).await;
    let body = "x".repeat(300_000);
    let mut connection = Connection::open(given.address()).await.unwrap();
    let head = format!("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(&(head + &body)).await.unwrap();
    let answer = connection.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, body.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_read_by_handlers() {
    let (host, _) = host(Isolation::Shared);
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("key"), "value").unwrap();
    let given = Given::new("volume", &guest("fetch"), &[]).with(
        json!({"mounts": [{"destination": "/config", "source": volume.path(), "type": "bind", "options": ["bind", "ro"]}]}),
    );
    up(&host, &given).await;
    assert_eq!(get(given.address(), "/read?path=/config/key").await.body, "value");
    assert_eq!(get(given.address(), "/read?path=/etc/passwd").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_loses_no_request() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("drain", &guest("fetch"), &[]);
    up(&host, &given).await;
    let address = given.address();
    let running = tokio::spawn(get(address, "/sleep?ms=700"));
    let mut idle = Connection::open(address).await.unwrap();
    assert!(!idle.get("/").await.unwrap().head.contains("connection: close"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.kill(&given.spec.id, TERM).await.unwrap();
    // A connection that nobody had heard of is served, and one that was idle brings its last request.
    assert_eq!(get(address, "/").await.status, 200);
    let last = idle.get("/").await.unwrap();
    assert!(last.status == 200 && last.head.contains("connection: close"), "{last:?}");
    assert!(idle.closed().await);
    assert_eq!(running.await.unwrap().status, 200);
    let exit = host.wait(&given.spec.id).await.unwrap();
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Exited));
    assert!(Connection::open(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_ends_a_drain() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("kill-drain", &guest("fetch"), &[]);
    up(&host, &given).await;
    let address = given.address();
    let running =
        tokio::spawn(async move { Connection::open(address).await.unwrap().get("/sleep?ms=60000").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.kill(&given.spec.id, TERM).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    host.kill(&given.spec.id, KILL).await.unwrap();
    let exit =
        tokio::time::timeout(Duration::from_secs(2), host.wait(&given.spec.id)).await.unwrap().unwrap();
    assert_eq!(exit.code, 137);
    assert!(running.await.unwrap().map_or(true, |answer| answer.status == 503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_listener_is_served_with_what_waits_in_it() {
    let (host, fds) = host(Isolation::Shared);
    let mut given = Given::new("adopted", &guest("hello"), &[]);
    let listener = std::net::TcpListener::bind((given.spec.wasm.as_ref().unwrap().pod_ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    given.wasm().http_ports = vec![address.port()];
    let waiting = tokio::spawn(get(address, "/"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    create(&host, &given).await.unwrap();
    assert!(host.adopt_listener(&given.spec.id, address.port(), "web").await.is_err());
    fds.insert("web", OwnedFd::from(listener));
    host.adopt_listener(&given.spec.id, address.port(), "web").await.unwrap();
    host.start(&given.spec.id).await.unwrap();
    assert_eq!(waiting.await.unwrap().status, 200);
    // The agent may ask for a copy as long as the container is known.
    assert!(fds.get("web").is_some());
    host.kill(&given.spec.id, KILL).await.unwrap();
    host.wait(&given.spec.id).await.unwrap();
    host.delete(&given.spec.id).await.unwrap();
    assert!(fds.get("web").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_fails_the_start() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("in-use", &guest("hello"), &[]);
    let _taken = std::net::TcpListener::bind(given.address()).unwrap();
    create(&host, &given).await.unwrap();
    let said = host.start(&given.spec.id).await.unwrap_err().to_string();
    assert!(said.contains(&given.address().to_string()) && said.contains("in use"), "{said}");
    let exit = host.wait(&given.spec.id).await.unwrap();
    assert_eq!(exit.reason, ExitReason::StartFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_not_taken_for_whole() {
    let (host, _) = host(Isolation::Shared);
    let mut given = Given::new("broken", &guest("fetch"), &[]);
    given.wasm().request_timeout_seconds = Some(1);
    up(&host, &given).await;
    let mut connection = Connection::open(given.address()).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(&format!("{head}5\r\nhello\r\n")).await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(10), connection.answer()).await.unwrap();
    let cut = cut.unwrap_err().to_string();
    assert!(cut.contains("200 OK") && cut.contains("hello"), "{cut}");
    assert!(given.log().contains("took too long"), "{}", given.log());
    // The same, brought to its end.
    let mut connection = Connection::open(given.address()).await.unwrap();
    connection.send(&format!("{head}5\r\nhello\r\n0\r\n\r\n")).await.unwrap();
    assert_eq!(connection.answer().await.unwrap().body, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_spoken_without_tls() {
    use http_body_util::{BodyExt, Empty};
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("h2c", &guest("hello"), &[]);
    up(&host, &given).await;
    let stream = tokio::net::TcpStream::connect(given.address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        let request = http::Request::get(format!("http://{}{path}", given.address()));
        let (mut sender, request) = (sender.clone(), request.body(Empty::<bytes::Bytes>::new()).unwrap());
        async move {
            let answer = sender.send_request(request).await.unwrap();
            (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
        }
    };
    let answers = tokio::join!(ask("/healthz"), ask("/other"), ask("/healthz"));
    assert_eq!([answers.0.0, answers.1.0, answers.2.0], [200, 404, 200]);
    assert_eq!(&answers.0.1[..], b"ok\n");
    // TERM: the caller is told to go elsewhere.
    host.kill(&given.spec.id, TERM).await.unwrap();
    drop(sender);
    tokio::time::timeout(Duration::from_secs(5), connection).await.unwrap().unwrap().unwrap();
    assert_eq!(host.wait(&given.spec.id).await.unwrap().code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_cannot_fit_into_its_memory_is_oom_killed() {
    let (host, _) = host(Isolation::Shared);
    let given =
        Given::new("tight", &guest("fetch"), &[]).with(json!({"resources": {"memory": {"limit": 1 << 20}}}));
    let exit = run(&host, &given).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    assert!(exit.message.unwrap().contains("limits.memory"));
    assert!(given.log().contains("memory limit is too small"), "{}", given.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_signals_before_the_start_one_ends_it() {
    let (host, _) = host(Isolation::Shared);
    let given = Given::new("early", &guest("hello"), &[]);
    create(&host, &given).await.unwrap();
    let id = given.spec.id.clone();
    let _ = tokio::join!(host.kill(&id, TERM), host.kill(&id, KILL), host.kill(&id, TERM));
    assert!(host.start(&id).await.is_err());
    assert_eq!(host.wait(&id).await.unwrap().code, 143);
    assert_eq!(host.exits(0).await.unwrap().len(), 1);
}
