//! Futures over the host's pollables: what a task waits for is noted here, and one call waits for all of it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{Pollable, poll};

thread_local! {
    static WAITING: RefCell<Vec<(Rc<Pollable>, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// Becomes ready when the pollable is.
pub(crate) struct Ready(Rc<Pollable>);

impl Ready {
    pub(crate) fn new(pollable: Pollable) -> Self {
        Ready(Rc::new(pollable))
    }
}

impl Future for Ready {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.ready() {
            return Poll::Ready(());
        }
        let entry = (Rc::clone(&self.0), context.waker().clone());
        WAITING.with_borrow_mut(|waiting| match waiting.iter_mut().find(|(of, _)| Rc::ptr_eq(of, &self.0)) {
            Some(noted) => *noted = entry,
            None => waiting.push(entry),
        });
        Poll::Pending
    }
}

/// A pollable must go before the resource that it is of; a future that is dropped early takes its note along.
impl Drop for Ready {
    fn drop(&mut self) {
        WAITING.with_borrow_mut(|waiting| waiting.retain(|(of, _)| !Rc::ptr_eq(of, &self.0)));
    }
}

/// Blocks until something that a task waits for is ready, and wakes its task.
pub(crate) fn wait() {
    let noted: Vec<_> = WAITING.with_borrow(|waiting| waiting.iter().map(|(of, _)| Rc::clone(of)).collect());
    if noted.is_empty() {
        // A future that waits for something else asks to be polled again; there is no other thread that could wake it.
        return;
    }
    let ready = poll(&noted.iter().map(|pollable| &**pollable).collect::<Vec<_>>());
    let is_ready = |of: &Rc<Pollable>| {
        ready.iter().any(|at| noted.get(*at as usize).is_some_and(|pollable| Rc::ptr_eq(pollable, of)))
    };
    let woken: Vec<_> = WAITING.with_borrow_mut(|waiting| {
        let (done, still) = std::mem::take(waiting).into_iter().partition(|(of, _)| is_ready(of));
        *waiting = still;
        done
    });
    for (_, waker) in woken {
        waker.wake();
    }
}

pub(crate) async fn sleep(time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ready::new(subscribe_duration(nanoseconds)).await;
}
