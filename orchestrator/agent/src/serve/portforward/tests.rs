//! Connections to a port in all three forms.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use super::super::client::{Endpoint, SpdyClient};
use super::*;
use crate::spdy::Frame;

const PATH: &str = "/portForward/shop/web";

/// A program that reads to the end, and then says what it read, backwards.
async fn program() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    port
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Two connections at a time, with half-close; then one to a port where nobody listens.
async fn forward_three(client: &mut SpdyClient) {
    let port = program().await;
    let (first, first_error) = client.pair(port, "0").await;
    let (second, second_error) = client.pair(port, "1").await;
    client.data(first, b"ab", false).await;
    client.data(second, b"12", true).await;
    assert_eq!(client.all_of(second).await, b"21");
    assert_eq!(client.all_of(second_error).await, b"");
    client.data(first, &vec![b'x'; 200_000], true).await;
    let all = client.all_of(first).await;
    assert_eq!((all.len(), &all[all.len() - 3..]), (200_002, &b"xba"[..]));
    assert_eq!(client.all_of(first_error).await, b"");
    let closed = closed_port().await;
    let (_, error) = client.pair(closed, "2").await;
    let text = String::from_utf8(client.all_of(error).await).unwrap();
    let begin =
        format!("error forwarding port {closed} to pod web, uid u1: failed to connect to port {closed}");
    assert!(text.starts_with(&begin) && text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_spdy() {
    let endpoint = Endpoint::start().await;
    forward_three(&mut endpoint.spdy(PATH, &["portforward.k8s.io"]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_spdy_in_a_tunnel() {
    let endpoint = Endpoint::start().await;
    forward_three(&mut endpoint.tunnel(PATH).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_nothing_useful_are_refused() {
    let endpoint = Endpoint::start().await;
    let mut client = endpoint.spdy(PATH, &["portforward.k8s.io"]).await;
    let wrong = client.open(&[("streamType", "data"), ("port", "http")]).await;
    assert!(matches!(client.next().await, Some(Frame::RstStream { stream, .. }) if stream == wrong));
    let labels = [("streamType", "data"), ("port", "80"), ("requestID", "0")];
    let first = client.open(&labels).await;
    assert!(matches!(client.next().await, Some(Frame::SynReply { stream, .. }) if stream == first));
    let twice = client.open(&labels).await;
    assert!(matches!(client.next().await, Some(Frame::RstStream { stream, .. }) if stream == twice));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_no_more_ends_the_connection_to_the_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::start().await;
    let mut client = endpoint.tunnel(PATH).await;
    let (data, error) = client.pair(listener.local_addr().unwrap().port(), "0").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    client.data(data, b"x", false).await;
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    client.send(&Frame::RstStream { stream: data, why: crate::spdy::Reset::Cancel }).await;
    assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
    assert_eq!(client.all_of(error).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_numbered_channels() {
    use futures::{SinkExt, StreamExt};
    let endpoint = Endpoint::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let path = format!("{PATH}?ports={port}");
    let mut socket = endpoint.websocket(&path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    for channel in [0, 1] {
        let first = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(first, [&[channel][..], &port.to_le_bytes()].concat());
    }
    socket.send(Message::Binary(b"\0ping".as_slice().into())).await.unwrap();
    let mut came = [0; 4];
    stream.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"ping");
    stream.write_all(b"pong").await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), b"\0pong".as_slice());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let endpoint = Endpoint::start().await;
    let spdy = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "portforward.k8s.io"),
    ];
    let table = [
        ("/portForward/shop/none", &spdy[..], "404", "pod does not exist"),
        (PATH, &spdy[..2], "400", "X-Stream-Protocol-Version is required"),
        (PATH, &[], "400", "Upgrade request required"),
    ];
    for (path, headers, code, text) in table {
        let (head, rest) = endpoint.ask("POST", path, headers).await;
        let body = rest.body(&head).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")) && body.contains(text), "{head}{body}");
    }
}

#[test]
fn the_tunnel_is_preferred() {
    let choose = |list: &[&str]| choose(&list.iter().map(|offer| (*offer).to_owned()).collect::<Vec<_>>());
    assert_eq!(choose(&["v4.channel.k8s.io", TUNNEL_PROTOCOL]), Some((TUNNEL_PROTOCOL, Form::Tunnel)));
    assert_eq!(
        choose(&["v5.channel.k8s.io", "v4.channel.k8s.io"]).map(|(_, form)| form),
        Some(Form::Numbered)
    );
    assert_eq!(choose(&["v5.channel.k8s.io"]), None);
}
