//! What `up` shows: one line a step, with the time it took.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, interval};

/// Runs a step and shows it: a running clock on a terminal, one line when it is done.
pub(crate) async fn step<T, E>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let start = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut ticks = interval(Duration::from_millis(200));
    let live = std::io::stdout().is_terminal();
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            _ = ticks.tick() => if live { show("\r  ·", what, start.elapsed(), "") },
        }
    };
    let sign = if outcome.is_ok() { "✓" } else { "✗" };
    let head = if live { format!("\r  {sign}") } else { format!("  {sign}") };
    show(&head, what, start.elapsed(), "\n");
    outcome
}

fn show(head: &str, what: &str, took: Duration, end: &str) {
    let mut out = std::io::stdout().lock();
    // A closed terminal is no reason to stop the work.
    let _ = write!(out, "{head} {what:<52} {:>7.2} s{end}", took.as_secs_f64());
    let _ = out.flush();
}
