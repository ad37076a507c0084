//! A long answer holds its seat until the client has taken it: what waits in memory is then bounded by the seats, and
//! not by the number of clients that ask for long lists and read slowly. A client that is too slow for that keeps its
//! answer and loses the seat, so that it holds up nobody.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::JoinHandle;

use super::level::Seat;
use crate::body::{Body, BoxError};

/// Shorter answers fit into the buffers of the connection.
const LONG: u64 = 256 * 1024;
/// Handed to the connection at one time.
const PIECE: usize = 64 * 1024;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets a long answer hold the seat.
pub(crate) fn hold(response: Response<Body>, seat: Option<Seat>) -> Response<Body> {
    let long = response.body().size_hint().exact().is_some_and(|size| size >= LONG);
    match seat {
        Some(seat) if long => response.map(|body| Held::new(body, seat).boxed_unsync()),
        _ => response,
    }
}

struct Held {
    inner: Body,
    rest: Bytes,
    seat: Arc<Mutex<Option<Seat>>>,
    timer: JoinHandle<()>,
}

impl Held {
    fn new(inner: Body, seat: Seat) -> Self {
        let seat = Arc::new(Mutex::new(Some(seat)));
        let late = seat.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            give_back(&late);
        });
        Held { inner, rest: Bytes::new(), seat, timer }
    }
}

fn give_back(seat: &Mutex<Option<Seat>>) {
    drop(seat.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        match self.inner.size_hint().exact() {
            Some(inner) => SizeHint::with_exact(inner.saturating_add(rest)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.timer.abort();
        give_back(&self.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::Level;
    use super::*;
    use crate::body;

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_held_until_the_answer_is_taken_or_time_is_over() {
        let level = Arc::new(Level::new(false));
        level.configure(None, 1);
        let answer = |length: usize| Response::new(body::full(vec![b'a'; length]));
        let short = hold(answer(1000), level.try_enter(1));
        assert_eq!(level.load().0, 0);
        drop(short);

        let mut long = hold(answer(300 * 1024), level.try_enter(1));
        assert_eq!(long.body().size_hint().exact(), Some(300 * 1024));
        assert_eq!(level.load().0, 1);
        let mut taken = 0;
        while let Some(frame) = long.body_mut().frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE);
            taken += data.len();
        }
        assert_eq!((taken, long.body().is_end_stream()), (300 * 1024, true));
        drop(long);
        assert_eq!(level.load().0, 0);

        let slow = hold(answer(300 * 1024), level.try_enter(1));
        tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
        assert_eq!(level.load().0, 0);
        drop(slow);
        assert_eq!(level.load().0, 0);
    }
}
