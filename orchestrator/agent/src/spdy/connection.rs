//! The streams of one connection that a client opened. One task reads and hands out what comes, one writes.
//!
//! What comes is acknowledged (WINDOW_UPDATE) when it is taken. What is sent is not held to a window: Kubernetes'
//! clients never open one, and TCP holds a fast sender back as well.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::ProtocolError;
use super::frame::{Decoder, Encoder, Frame, Reset};
use super::headers::Headers;

/// Frames that wait to be written.
const OUTGOING: usize = 32;
/// Pieces that wait in one stream; a stream that is not read holds the connection up then.
const WAITING: usize = 16;
/// New streams that wait to be looked at.
const ARRIVALS: usize = 16;
/// Streams that may be open at a time.
const MOST_STREAMS: usize = 2048;
/// Longest piece that is sent in one frame.
const PIECE: usize = 32 << 10;
/// Bytes read on a stream until that is told.
const ACKNOWLEDGE: usize = 32 << 10;
/// How long the other side may take to hang up after the good-bye.
const GOOD_BYE: Duration = Duration::from_secs(10);

/// A connection. Dropping it ends it at once.
pub(crate) struct Connection {
    arrivals: mpsc::Receiver<Arrival>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// A stream that the other side has opened and that waits for an answer.
pub(crate) struct Arrival {
    headers: Headers,
    sender: StreamSender,
    receiver: StreamReceiver,
}

/// The end of a stream that sends. Dropped before [`StreamSender::finish`], it resets the stream.
pub(crate) struct StreamSender {
    stream: u32,
    shared: Arc<Shared>,
    reset: CancellationToken,
    finished: bool,
}

/// The end of a stream that receives.
pub(crate) struct StreamReceiver {
    stream: u32,
    shared: Arc<Shared>,
    from: mpsc::Receiver<Bytes>,
    unacknowledged: usize,
}

/// The stream or the connection has ended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the other side is gone")]
pub(crate) struct Gone;

struct Shared {
    outgoing: mpsc::Sender<Frame>,
    table: Mutex<Table>,
    /// Nothing more comes.
    gone: CancellationToken,
}

#[derive(Default)]
struct Table {
    open: HashMap<u32, Open>,
    /// Number of the newest stream.
    newest: u32,
}

struct Open {
    /// Where its data go; nowhere once the other side has said all.
    to: Option<mpsc::Sender<Bytes>>,
    /// We have said all.
    finished: bool,
    reset: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the other side does not keep to SPDY/3.1")]
    Protocol(#[from] ProtocolError),
}

// === impl ===

impl Connection {
    /// Serves a connection; must be called in a runtime.
    pub(crate) fn start<R, W>(reader: R, writer: W) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        let gone = CancellationToken::new();
        let shared = Arc::new(Shared { outgoing, table: Mutex::default(), gone });
        let mut tasks = JoinSet::new();
        let reading = shared.clone();
        tasks.spawn(async move {
            if let Err(error) = reading.read(reader, arrived).await {
                debug!(error = &error as &dyn std::error::Error, "a SPDY connection ended early");
            }
            reading.end();
        });
        let writing = shared.clone();
        tasks.spawn(async move {
            if let Err(error) = write(writer, frames).await {
                debug!(%error, "a SPDY connection cannot be written to");
                writing.end();
            }
        });
        Connection { arrivals, shared, _tasks: tasks }
    }

    /// The next stream that the other side opens; `None` once it is gone.
    pub(crate) async fn accept(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// Refuses all further streams.
    pub(crate) fn accept_no_more(&mut self) {
        self.arrivals.close();
    }

    /// Cancelled when the other side is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.shared.gone.clone()
    }

    /// Asks for a sign of life, so that nobody on the way takes the connection for dead.
    pub(crate) async fn ping(&self) -> Result<(), Gone> {
        self.shared.send(Frame::Ping(2)).await
    }

    /// Says good-bye after all that was sent, and gives the other side time to read that and hang up.
    pub(crate) async fn close(mut self) {
        self.arrivals.close();
        let last = self.shared.table().newest;
        if self.shared.send(Frame::GoAway { last }).await.is_ok() {
            // It may not: the connection ends all the same.
            let _ = timeout(GOOD_BYE, self.shared.gone.cancelled()).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Arrival {
    /// What the other side says of the stream.
    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its number: odd, and above those of the streams before it.
    pub(crate) fn stream(&self) -> u32 {
        self.sender.stream
    }

    /// Takes the stream.
    pub(crate) async fn accept(self) -> Result<(StreamSender, StreamReceiver), Gone> {
        let reply = Frame::SynReply { stream: self.stream(), fin: false, headers: Headers::default() };
        self.sender.shared.send(reply).await?;
        Ok((self.sender, self.receiver))
    }

    /// Does not take it.
    pub(crate) async fn refuse(self) {
        let mut sender = self.sender;
        sender.finished = true;
        sender.shared.reset(sender.stream, Reset::Refused).await;
    }
}

impl StreamSender {
    /// Sends; waits while the other side is slow.
    pub(crate) async fn send(&self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.frame(Frame::Data { stream: self.stream, fin: false, data: piece }).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(mut self) -> Result<(), Gone> {
        self.frame(Frame::Data { stream: self.stream, fin: true, data: Bytes::new() }).await?;
        self.finished = true;
        let mut table = self.shared.table();
        if let Some(open) = table.open.get_mut(&self.stream) {
            open.finished = true;
            if open.to.is_none() {
                table.open.remove(&self.stream);
            }
        }
        Ok(())
    }

    /// Resolves when the other side has reset the stream, or is gone.
    pub(crate) async fn reset(&self) {
        tokio::select! {
            () = self.reset.cancelled() => {}
            () = self.shared.gone.cancelled() => {}
        }
    }

    async fn frame(&self, frame: Frame) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.reset.cancelled() => Err(Gone),
            sent = self.shared.send(frame) => sent,
        }
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(open) = self.shared.table().open.remove(&self.stream) {
            open.reset.cancel();
            // When nothing more can be written it has ended anyway.
            let _ =
                self.shared.outgoing.try_send(Frame::RstStream { stream: self.stream, why: Reset::Cancel });
        }
    }
}

impl StreamReceiver {
    /// The next piece; `None` when the other side has said all, or is gone.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let data = self.from.recv().await?;
        self.unacknowledged += data.len();
        if self.unacknowledged >= ACKNOWLEDGE {
            let bytes = u32::try_from(self.unacknowledged).unwrap_or(u32::MAX >> 1);
            let update = |stream| Frame::WindowUpdate { stream, bytes };
            // Reading must not wait for writing; what was not told is told the next time.
            if self.shared.outgoing.try_send(update(self.stream)).is_ok()
                && self.shared.outgoing.try_send(update(0)).is_ok()
            {
                self.unacknowledged = 0;
            }
        }
        Some(data)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while holding it cannot leave the table half-changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = self.outgoing.send(frame) => sent.map_err(|_| Gone),
        }
    }

    /// Nothing more comes and nothing more can be sent.
    fn end(&self) {
        self.gone.cancel();
        self.table().open.clear();
    }

    async fn reset(&self, stream: u32, why: Reset) {
        if let Some(open) = self.table().open.remove(&stream) {
            open.reset.cancel();
        }
        // Where the connection has ended there is nobody to tell.
        let _ = self.send(Frame::RstStream { stream, why }).await;
    }

    async fn read<R>(self: &Arc<Self>, mut reader: R, arrived: mpsc::Sender<Arrival>) -> Result<(), ReadError>
    where
        R: AsyncRead + Unpin,
    {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = decoder.next(&mut buffer)? {
                self.take(frame, &arrived).await;
            }
            buffer.reserve(PIECE);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(self: &Arc<Self>, frame: Frame, arrived: &mpsc::Sender<Arrival>) {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.arrive(stream, fin, headers, arrived).await,
            Frame::Data { stream, fin, data } => self.data(stream, fin, data).await,
            Frame::Headers { stream, fin: true, .. } => self.finished(stream),
            Frame::RstStream { stream, .. } => {
                if let Some(open) = self.table().open.remove(&stream) {
                    open.reset.cancel();
                }
            }
            // Pings of a client have odd numbers; even ones are answers to ours.
            Frame::Ping(id) if id % 2 == 1 => {
                let _ = self.send(Frame::Ping(id)).await;
            }
            // After GOAWAY a client ends its streams and hangs up.
            Frame::Ping(_)
            | Frame::Headers { .. }
            | Frame::SynReply { .. }
            | Frame::Settings(_)
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. } => {}
        }
    }

    async fn arrive(
        self: &Arc<Self>,
        stream: u32,
        fin: bool,
        headers: Headers,
        arrived: &mpsc::Sender<Arrival>,
    ) {
        let (to, from) = mpsc::channel(WAITING);
        let reset = CancellationToken::new();
        let refused = {
            let mut table = self.table();
            if stream.is_multiple_of(2) || stream <= table.newest {
                Some(Reset::ProtocolError)
            } else if table.open.len() >= MOST_STREAMS {
                Some(Reset::Refused)
            } else {
                table.newest = stream;
                let to = (!fin).then_some(to);
                table.open.insert(stream, Open { to, finished: false, reset: reset.clone() });
                None
            }
        };
        if let Some(why) = refused {
            let _ = self.send(Frame::RstStream { stream, why }).await;
            return;
        }
        let sender = StreamSender { stream, shared: self.clone(), reset, finished: false };
        let receiver = StreamReceiver { stream, shared: self.clone(), from, unacknowledged: 0 };
        if let Err(unwanted) = arrived.send(Arrival { headers, sender, receiver }).await {
            unwanted.0.refuse().await;
        }
    }

    async fn data(&self, stream: u32, fin: bool, data: Bytes) {
        let to = self.table().open.get(&stream).map(|open| (open.to.clone(), open.reset.clone()));
        match to {
            Some((Some(to), reset)) if !data.is_empty() => {
                tokio::select! {
                    // What nobody takes any more is dropped.
                    _ = to.send(data) => {}
                    () = reset.cancelled() => {}
                }
            }
            Some(_) => {}
            None => self.reset(stream, Reset::InvalidStream).await,
        }
        if fin {
            self.finished(stream);
        }
    }

    /// The other side has said all on a stream.
    fn finished(&self, stream: u32) {
        let mut table = self.table();
        if let Some(open) = table.open.get_mut(&stream) {
            open.to = None;
            if open.finished {
                table.open.remove(&stream);
            }
        }
    }
}

/// Writes until the good-bye, what waits together.
async fn write<W>(mut writer: W, mut frames: mpsc::Receiver<Frame>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    while let Some(first) = frames.recv().await {
        out.clear();
        let mut next = Some(first);
        let mut last = false;
        while let Some(frame) = next {
            encoder.write(&frame, &mut out);
            last = matches!(frame, Frame::GoAway { .. });
            next = if last || out.len() >= 2 * PIECE { None } else { frames.try_recv().ok() };
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
        if last {
            return writer.shutdown().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
