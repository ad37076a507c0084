//! Channels to a process as the streams of a SPDY connection: the client opens one for each, with a header
//! `streamType` that says which it is.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channels::{ERROR, Incoming, RESIZE, STDERR, STDIN, STDOUT, Version, Wanted};
use crate::spdy::{Connection, Gone, StreamReceiver, StreamSender};

/// How long a client may take to open its streams, as in the kubelet.
const OPENING: Duration = Duration::from_secs(30);
/// Pieces of stdin that wait for the process.
const WAITING: usize = 4;

/// The ends that send.
pub(super) struct StreamsSender {
    connection: Connection,
    /// With their channels; in the order in which they are ended.
    streams: Vec<(u8, StreamSender)>,
}

/// The ends that receive.
pub(super) struct StreamsReceiver {
    incoming: mpsc::Receiver<Incoming>,
    gone: CancellationToken,
    _copies: JoinSet<()>,
}

/// The streams that a client will open, by `streamType`.
fn expected(wanted: Wanted, version: Version) -> Vec<(&'static str, u8)> {
    let all = [
        ("stdin", STDIN, wanted.stdin),
        ("stdout", STDOUT, wanted.stdout),
        // A terminal has one stream for both.
        ("stderr", STDERR, wanted.stderr && !wanted.tty),
        ("error", ERROR, true),
        ("resize", RESIZE, wanted.tty && version != Version::Older),
    ];
    all.into_iter().filter(|(.., wanted)| *wanted).map(|(name, channel, _)| (name, channel)).collect()
}

/// Waits for the client's streams. `None` when it goes away, or takes too long.
pub(super) async fn collect(
    mut connection: Connection,
    wanted: Wanted,
    version: Version,
) -> Option<(StreamsSender, StreamsReceiver)> {
    let mut missing = expected(wanted, version);
    let (to, incoming) = mpsc::channel(WAITING);
    let mut streams = Vec::new();
    let mut copies = JoinSet::new();
    let opening = async {
        while !missing.is_empty() {
            let arrival = connection.accept().await?;
            let kind = arrival.headers().get("streamType");
            let Some(at) = missing.iter().position(|(name, _)| Some(*name) == kind) else {
                arrival.refuse().await;
                continue;
            };
            let (_, channel) = missing.swap_remove(at);
            let (sender, receiver) = arrival.accept().await.ok()?;
            if channel == STDIN || channel == RESIZE {
                copies.spawn(copy(receiver, channel, to.clone()));
            }
            streams.push((channel, sender));
        }
        Some(())
    };
    if timeout(OPENING, opening).await.ok().flatten().is_none() {
        tracing::debug!("a client did not open the streams it announced");
        return None;
    }
    connection.accept_no_more();
    streams.sort_by_key(|(channel, _)| *channel);
    let gone = connection.gone();
    let receiver = StreamsReceiver { incoming, gone, _copies: copies };
    Some((StreamsSender { connection, streams }, receiver))
}

async fn copy(mut from: StreamReceiver, channel: u8, to: mpsc::Sender<Incoming>) {
    while let Some(data) = from.next().await {
        if to.send(Incoming::Data(channel, data)).await.is_err() {
            return;
        }
    }
    // Nobody may want to know any more.
    let _ = to.send(Incoming::Closed(channel)).await;
}

// === impl ===

impl StreamsSender {
    /// Sends on a channel; on one that the client did not open it is dropped.
    pub(super) async fn send(&self, channel: u8, data: Bytes) -> Result<(), Gone> {
        match self.streams.iter().find(|(known, _)| *known == channel) {
            Some((_, stream)) => stream.send(data).await,
            None => Ok(()),
        }
    }

    /// Ends each stream, then the connection.
    pub(super) async fn close(self) {
        for (_, stream) in self.streams {
            // The client may have ended it before.
            let _ = stream.finish().await;
        }
        self.connection.close().await;
    }

    /// Keeps a silent connection alive.
    pub(super) async fn ping(&self) -> Result<(), Gone> {
        self.connection.ping().await
    }
}

impl StreamsReceiver {
    /// What comes next; `None` once the client is gone.
    pub(super) async fn next(&mut self) -> Option<Incoming> {
        let all_ended = async {
            match self.incoming.recv().await {
                Some(incoming) => Some(incoming),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            incoming = all_ended => incoming,
            () = self.gone.cancelled() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_that_come() {
        let wanted = |stdin, stdout, stderr, tty| Wanted { stdin, stdout, stderr, tty };
        let names = |wanted, version| -> Vec<&str> {
            expected(wanted, version).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(wanted(false, true, true, false), Version::V4), ["stdout", "stderr", "error"]);
        assert_eq!(
            names(wanted(true, true, true, true), Version::V4),
            ["stdin", "stdout", "error", "resize"]
        );
        assert_eq!(names(wanted(true, true, false, true), Version::Older), ["stdin", "stdout", "error"]);
    }
}
