//! The scheduler: which node a pod goes to.
//!
//! | step | file |
//! | --- | --- |
//! | see what changes, packed at once | `watch`, `wire`, `shape` |
//! | who waits, and for what | `queue` |
//! | the nodes as a compact table | `snapshot` |
//! | what its volumes ask | `volumes` |
//! | can it be there, and if not why | `filter`, `filter/` |
//! | how good is it there | `score`, `score/` |
//! | where to | `place` (pure) |
//! | assume it is there, and tell the server | `state` (pure), `bind` |
//! | the loop around all that | `cycle` |
//!
//! Pods of one shape are placed together: the nodes are looked at once for all of them. IO is in `watch`, `bind`
//! and `cycle` alone.

mod bind;
mod cycle;
mod filter;
mod place;
mod queue;
mod score;
mod shape;
mod snapshot;
mod state;
mod volumes;
mod watch;
mod wire;

pub mod bench;

use std::future::Future;

use catamaran_client::runner::TaskEnded;
use catamaran_client::{Client, Recorder, Tasks};
use futures::future::BoxFuture;

/// Runs the scheduler until `stop` is ready.
///
/// # Errors
/// One of its tasks ended by itself, which none does unless it panics.
///
/// Boxed here: the future is then compiled in this crate, and not once more in the binary that awaits it.
pub fn run(
    client: Client,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<(), TaskEnded>> {
    boxed(client, Box::pin(stop))
}

fn boxed(client: Client, stop: BoxFuture<'static, ()>) -> BoxFuture<'static, Result<(), TaskEnded>> {
    Box::pin(run_all(client, stop))
}

async fn run_all(client: Client, stop: BoxFuture<'static, ()>) -> Result<(), TaskEnded> {
    let mut tasks = Tasks::new();
    let (recorder, events) = Recorder::new(client.clone(), "default-scheduler", None);
    tasks.spawn("events", events);
    let updates = cycle::watches(&client, &mut tasks);
    tasks.spawn("scheduler", cycle::run(client, recorder, updates));
    tasks.run(stop).await
}
