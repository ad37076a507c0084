//! Who may ask, and what is refused.

use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::client::{Endpoint, SpdyClient};
use super::*;
use crate::spdy::Frame;

fn certificate(name: &str, group: &str) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn only_the_server_and_administrators_may_ask() {
    let table = [
        ("system:kube-apiserver", "x", true),
        ("admin", "system:masters", true),
        ("system:node:n2", "system:nodes", false),
        ("alice", "developers", false),
    ];
    for (name, group, expected) in table {
        assert_eq!(may_ask(&certificate(name, group)), expected, "{name}");
    }
    assert!(!may_ask(&CertificateDer::from(b"garbage".to_vec())));
}

#[test]
fn containers_that_were_never_made_are_waiting() {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}))
            .unwrap();
    let refused = find_container(&pod, &PodRecord::default(), "c").unwrap_err();
    assert_eq!(refused.1, "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
    let table = [
        ("PodInitializing", "PodInitializing"),
        ("ImagePullBackOff", "trying and failing to pull image"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
    ];
    for (reason, told) in table {
        let mut pod = pod.clone();
        let state = json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason}}}]});
        pod.status = Some(serde_json::from_value(state).unwrap());
        let refused = find_container(&pod, &PodRecord::default(), "c").unwrap_err();
        assert!(refused.1.ends_with(&format!("waiting to start: {told}")), "{}", refused.1);
    }
    let unknown = find_container(&pod, &PodRecord::default(), "d").unwrap_err();
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
}

const ALL_SPDY: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// Opens streams in kubectl's order; their numbers.
async fn open<const N: usize>(client: &mut SpdyClient, kinds: [&str; N]) -> [u32; N] {
    let mut numbers = [0; N];
    for (number, kind) in numbers.iter_mut().zip(kinds) {
        *number = client.open(&[("streamType", kind)]).await;
        assert!(matches!(client.next().await, Some(Frame::SynReply { stream, .. }) if stream == *number));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_spdy_copies_both_ways_and_tells_the_end() {
    let endpoint = Endpoint::start().await;
    let mut client = endpoint.spdy("/exec/shop/web/c?command=cat&input=1&output=1", &ALL_SPDY).await;
    let [error, stdin, stdout] = open(&mut client, ["error", "stdin", "stdout"]).await;
    let large = vec![b'x'; 300_000];
    client.data(stdin, b"hello ", false).await;
    client.data(stdin, &large, true).await;
    let said = client.everything().await;
    assert_eq!((said[&stdout].len(), &said[&stdout][..7]), (300_006, &b"hello x"[..]));
    let status: serde_json::Value = serde_json::from_slice(&said[&error]).unwrap();
    assert_eq!(status["status"], "Success");
    assert_eq!(client.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_come_as_each_version_has_them() {
    let endpoint = Endpoint::start().await;
    let path = "/exec/shop/web/c?command=fail&output=1&error=1";
    let text = "command terminated with non-zero exit code: exit status 7";
    for (protocols, expected) in [(&ALL_SPDY[..], "NonZeroExitCode"), (&ALL_SPDY[2..], text)] {
        let mut client = endpoint.spdy(path, protocols).await;
        let [error, stdout, stderr] = open(&mut client, ["error", "stdout", "stderr"]).await;
        let said = client.everything().await;
        assert_eq!((&said[&stdout][..], &said[&stderr][..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(String::from_utf8_lossy(&said[&error]).contains(expected), "{said:?}");
    }
    let mut socket = endpoint.websocket(path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
    let mut said = [const { Vec::new() }; 5];
    while let Some(Ok(Message::Binary(message))) = socket.next().await {
        said[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    assert_eq!((&said[1][..], &said[2][..]), (&b"out\n"[..], &b"err\n"[..]));
    assert!(String::from_utf8_lossy(&said[3]).contains("NonZeroExitCode"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_of_a_terminal_reach_the_process() {
    let endpoint = Endpoint::start().await;
    let mut client = endpoint.spdy("/exec/shop/web/c?command=cat&input=1&output=1&tty=1", &ALL_SPDY).await;
    let [_, stdin, stdout, resize] = open(&mut client, ["error", "stdin", "stdout", "resize"]).await;
    client.data(resize, b"{\"Width\":80,\"Height\":24}\n", false).await;
    while endpoint.bench.shim.count("resize 80x24") == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    client.data(stdin, b"", true).await;
    assert_eq!(client.all_of(stdout).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_over_websocket_ends_the_input() {
    let endpoint = Endpoint::start().await;
    let path = "/exec/shop/web/c?command=cat&stdin=true&stdout=true";
    let mut socket = endpoint.websocket(path, "v5.channel.k8s.io").await;
    for message in [&b"\0hi"[..], b"\xff\0"] {
        socket.send(Message::Binary(message.into())).await.unwrap();
    }
    let mut said = Vec::new();
    while let Some(Ok(Message::Binary(message))) = socket.next().await {
        said.push(message);
    }
    assert_eq!(said[0], b"\x01hi".as_slice());
    assert!(said[1].starts_with(b"\x03") && String::from_utf8_lossy(&said[1]).contains("Success"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_run_are_refused_before_the_switch() {
    let endpoint = Endpoint::start().await;
    let upgrade =
        [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", ALL_SPDY[1])];
    let table = [
        ("/exec/shop/web/c?output=1", "400", "you must specify a command to run"),
        ("/exec/shop/web/c?command=ls", "400", "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/shop/web/x?command=ls&output=1", "500", "container not found (\"x\")"),
        ("/attach/shop/none/c?output=1", "404", "pod does not exist"),
    ];
    for (path, code, text) in table {
        let (head, rest) = endpoint.ask("POST", path, &upgrade).await;
        let body = rest.body(&head).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")) && body.contains(text), "{head}{body}");
    }
    let (head, rest) = endpoint.ask("POST", "/exec/shop/web/w?command=ls&output=1", &upgrade).await;
    let status = rest.json(&head).await;
    assert_eq!((&status["code"], &status["reason"]), (&json!(405), &json!("MethodNotAllowed")), "{head}");
    assert!(status["message"].as_str().unwrap().contains("WebAssembly"), "{status}");
}

/// The log of the container `c`, which grows as the program speaks.
fn say(endpoint: &Endpoint, entries: &[&str]) {
    use std::io::Write;
    let path = endpoint.bench.dir.path().join("logs/shop_web_u1/c/0.log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut log = std::fs::File::options().append(true).create(true).open(path).unwrap();
    for entry in entries {
        writeln!(log, "2026-11-21T13:00:00.000000001Z {entry}").unwrap();
    }
}

/// Makes the pipe that a program reads, and opens the program's end.
fn stdin_of(pipe: &std::path::Path) -> tokio::net::unix::pipe::Receiver {
    std::fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    tokio::net::unix::pipe::OpenOptions::new().open_receiver(pipe).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_with_tty_has_a_line_editor() {
    let endpoint = Endpoint::start().await;
    let paths = crate::config::Paths::of(&crate::testing::config(endpoint.bench.dir.path()));
    let mut program = stdin_of(&paths.run.join("stdin/u1_w_0"));
    let mut client = endpoint.spdy("/attach/shop/web/w?input=1&output=1&tty=1", &ALL_SPDY).await;
    let [_, stdin, stdout, _] = open(&mut client, ["error", "stdin", "stdout", "resize"]).await;
    client.data(stdin, b"typoo\x7f\x7fed\r", false).await;
    let mut echo = Vec::new();
    while !echo.ends_with(b"\n") {
        let Some(Frame::Data { stream, data, .. }) = client.next().await else { panic!("{echo:?}") };
        assert_eq!(stream, stdout);
        echo.extend_from_slice(&data);
    }
    assert_eq!(echo, b"typoo\x08 \x08\x08 \x08ed\r\n");
    client.data(stdin, b"\x04", false).await;
    let mut lines = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut program, &mut lines).await.unwrap();
    assert_eq!(lines, b"typed\n");
    assert!(endpoint.bench.shim.count("close stdin") >= 1, "control-D");
    client.data(stdin, b"", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_talks_to_the_first_process() {
    let endpoint = Endpoint::start().await;
    let paths = crate::config::Paths::of(&crate::testing::config(endpoint.bench.dir.path()));
    say(&endpoint, &["stdout F over", "stdout P name? "]);
    let mut program = stdin_of(&paths.shim("oci").join("containers/u1_c_0/stdin"));
    let mut client = endpoint.spdy("/attach/shop/web/c?input=1&output=1&error=1", &ALL_SPDY).await;
    let [error, stdin, stdout, stderr] = open(&mut client, ["error", "stdin", "stdout", "stderr"]).await;
    let mut said = std::collections::BTreeMap::<u32, Vec<u8>>::new();
    while said.get(&stdout).map(Vec::as_slice) != Some(b"name? ") {
        let Some(Frame::Data { stream, data, .. }) = client.next().await else { panic!("{said:?}") };
        said.entry(stream).or_default().extend_from_slice(&data);
    }
    client.data(stdin, b"jane\n", true).await;
    let mut line = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut program, &mut line).await.unwrap();
    assert_eq!(line, b"jane\n", "and the pipe is let go of");
    say(&endpoint, &["stderr F done", "stdout F hello jane"]);
    let record = paths.pod("u1").record();
    let mut ended = PodRecord::load(&record);
    let finished = crate::record::Finished {
        attempt: 0,
        code: 7,
        reason: "Error".into(),
        message: None,
        started: None,
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    ended.containers.get_mut("c").unwrap().finished = Some(finished);
    ended.save(&record).unwrap();
    endpoint.bench.shim.end("u1_c_0", 7);
    for (stream, data) in client.everything().await {
        said.entry(stream).or_default().extend_from_slice(&data);
    }
    assert_eq!(String::from_utf8_lossy(&said[&stdout]), "name? hello jane\n");
    assert_eq!(String::from_utf8_lossy(&said[&stderr]), "done\n");
    assert!(String::from_utf8_lossy(&said[&error]).contains("Success"), "how it ended is in its status");
    assert!(endpoint.bench.shim.count("close stdin") >= 1, "stdinOnce");
}
