//! A connection against a client that speaks in frames.

use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::*;

/// The client's end.
struct Client {
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Client {
    async fn send(&mut self, frame: &Frame) {
        let mut out = Vec::new();
        self.encoder.write(frame, &mut out);
        self.writer.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, stream: u32) {
        let headers = Headers::default().with("name", &stream.to_string());
        self.send(&Frame::SynStream { stream, fin: false, headers }).await;
    }

    async fn data(&mut self, stream: u32, data: &'static [u8], fin: bool) {
        self.send(&Frame::Data { stream, fin, data: Bytes::from_static(data) }).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if self.reader.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

fn pair() -> (Client, Connection) {
    let (client, server) = duplex(256 << 10);
    let (reader, writer) = split(client);
    let client =
        Client { reader, writer, encoder: Encoder::new(), decoder: Decoder::new(), buffer: BytesMut::new() };
    let (reader, writer) = split(server);
    (client, Connection::start(reader, writer))
}

fn reply(stream: u32) -> Option<Frame> {
    Some(Frame::SynReply { stream, fin: false, headers: Headers::default() })
}

fn said(stream: u32, data: &'static [u8], fin: bool) -> Option<Frame> {
    Some(Frame::Data { stream, fin, data: Bytes::from_static(data) })
}

#[tokio::test]
async fn streams_talk_both_ways_and_end_one_way_at_a_time() {
    let (mut client, mut connection) = pair();
    client.open(1).await;
    client.open(3).await;
    let first = connection.accept().await.unwrap();
    assert_eq!((first.stream(), first.headers().get("name")), (1, Some("1")));
    let (to_first, mut from_first) = first.accept().await.unwrap();
    let (to_third, mut from_third) = connection.accept().await.unwrap().accept().await.unwrap();
    assert_eq!((client.next().await, client.next().await), (reply(1), reply(3)));
    client.data(1, b"a", false).await;
    client.data(3, b"b", true).await;
    assert_eq!(from_third.next().await.unwrap(), "b");
    assert_eq!(from_third.next().await, None);
    assert_eq!(from_first.next().await.unwrap(), "a");
    to_third.send(Bytes::from_static(b"c")).await.unwrap();
    to_third.finish().await.unwrap();
    assert_eq!((client.next().await, client.next().await), (said(3, b"c", false), said(3, b"", true)));
    to_first.finish().await.unwrap();
    assert_eq!(client.next().await, said(1, b"", true));
    client.data(1, b"more", true).await;
    assert_eq!(from_first.next().await.unwrap(), "more");
    assert_eq!(from_first.next().await, None);
    assert!(connection.shared.table().open.is_empty(), "what has ended both ways is forgotten");
}

#[tokio::test]
async fn pings_come_back_and_the_good_bye_comes_last() {
    let (mut client, mut connection) = pair();
    client.send(&Frame::Ping(1)).await;
    client.send(&Frame::Ping(2)).await;
    client.open(1).await;
    let (to, from) = connection.accept().await.unwrap().accept().await.unwrap();
    assert_eq!((client.next().await, client.next().await), (Some(Frame::Ping(1)), reply(1)));
    to.send(Bytes::from_static(b"last words")).await.unwrap();
    to.finish().await.unwrap();
    drop(from);
    let closing = tokio::spawn(connection.close());
    assert_eq!(client.next().await, said(1, b"last words", false));
    assert_eq!(client.next().await, said(1, b"", true));
    assert_eq!(client.next().await, Some(Frame::GoAway { last: 1 }));
    assert_eq!(client.next().await, None);
    // What comes late does no harm.
    client.data(1, b"late", true).await;
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_reset_ends_a_stream_and_no_other() {
    let (mut client, mut connection) = pair();
    client.open(1).await;
    client.open(3).await;
    let (to, mut from) = connection.accept().await.unwrap().accept().await.unwrap();
    let (dropped, _other) = connection.accept().await.unwrap().accept().await.unwrap();
    client.send(&Frame::RstStream { stream: 1, why: Reset::Cancel }).await;
    assert_eq!(from.next().await, None);
    to.reset().await;
    assert_eq!(to.send(Bytes::from_static(b"x")).await, Err(Gone));
    drop(dropped);
    assert_eq!((client.next().await, client.next().await), (reply(1), reply(3)));
    assert_eq!(client.next().await, Some(Frame::RstStream { stream: 3, why: Reset::Cancel }));
    assert!(!connection.gone().is_cancelled());
}

#[tokio::test]
async fn bad_streams_are_refused_one_by_one() {
    let (mut client, mut connection) = pair();
    client.open(3).await;
    connection.accept().await.unwrap().refuse().await;
    client.open(2).await;
    client.open(1).await;
    client.data(9, b"x", false).await;
    for (stream, why) in
        [(3, Reset::Refused), (2, Reset::ProtocolError), (1, Reset::ProtocolError), (9, Reset::InvalidStream)]
    {
        assert_eq!(client.next().await, Some(Frame::RstStream { stream, why }));
    }
}

#[tokio::test]
async fn what_is_not_spdy_ends_the_connection() {
    let (mut client, mut connection) = pair();
    client.open(1).await;
    let (to, mut from) = connection.accept().await.unwrap().accept().await.unwrap();
    client.writer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    connection.gone().cancelled().await;
    assert_eq!(from.next().await, None);
    assert_eq!(to.send(Bytes::from_static(b"x")).await, Err(Gone));
    assert!(connection.accept().await.is_none());
}

#[tokio::test]
async fn what_is_read_is_acknowledged() {
    let (mut client, mut connection) = pair();
    client.open(1).await;
    let (_to, mut from) = connection.accept().await.unwrap().accept().await.unwrap();
    client.send(&Frame::Data { stream: 1, fin: false, data: vec![7; ACKNOWLEDGE].into() }).await;
    assert_eq!(from.next().await.unwrap().len(), ACKNOWLEDGE);
    assert_eq!(client.next().await, reply(1));
    for stream in [1, 0] {
        let bytes = u32::try_from(ACKNOWLEDGE).unwrap();
        assert_eq!(client.next().await, Some(Frame::WindowUpdate { stream, bytes }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_hang_up_is_left() {
    let (client, connection) = pair();
    connection.close().await;
    drop(client);
}
