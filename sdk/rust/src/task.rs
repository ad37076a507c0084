//! Waiting for several things at once in an `async` handler. There is one thread, and nothing to spawn: futures run
//! where they are awaited.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Lets time pass.
pub async fn sleep(time: Duration) {
    #[cfg(target_family = "wasm")]
    crate::wasi::poll::sleep(time).await;
    #[cfg(not(target_family = "wasm"))]
    std::thread::sleep(time);
}

/// Runs a future to its end. In a handler `http!(async ...)` does so.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        #[cfg(target_family = "wasm")]
        crate::wasi::poll::wait();
        #[cfg(not(target_family = "wasm"))]
        std::thread::yield_now();
    }
}

/// Runs all of them at the same time; gives their outputs in the order of the futures.
pub async fn join<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    Join { running: futures.into_iter().map(|future| State::Running(Box::pin(future))).collect() }.await
}

struct Join<F: Future> {
    running: Vec<State<F>>,
}

enum State<F: Future> {
    Running(Pin<Box<F>>),
    Done(Option<F::Output>),
}

// Outputs are moved out by value only; the futures are pinned in boxes of their own.
impl<F: Future> Unpin for Join<F> {}

impl<F: Future> Future for Join<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut all = true;
        for state in &mut self.running {
            if let State::Running(future) = state {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *state = State::Done(Some(output)),
                    Poll::Pending => all = false,
                }
            }
        }
        if !all {
            return Poll::Pending;
        }
        let outputs = self.running.drain(..).filter_map(|state| match state {
            State::Done(output) => output,
            State::Running(_) => None,
        });
        Poll::Ready(outputs.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn joined_futures_take_turns_and_keep_their_order() {
        let turn = Cell::new(0);
        let wait_for = |wanted: u32| {
            let turn = &turn;
            std::future::poll_fn(move |_| {
                if turn.get() == wanted {
                    turn.set(wanted + 1);
                    Poll::Ready(wanted)
                } else {
                    Poll::Pending
                }
            })
        };
        assert_eq!(block_on(join([wait_for(2), wait_for(0), wait_for(1)])), [2, 0, 1]);
        assert!(block_on(join(Vec::<std::future::Ready<()>>::new())).is_empty());
    }
}
