//! The supervisor: starts the parts of a cluster of one, starts them again when they end, and finds
//! parts that outlived an earlier supervisor instead of starting them twice.
//!
//! ```text
//!            alive already                    ended
//! (start) ──────────────▶ adopted ─────────────────────┐
//!    │ not there                                       ▼
//!    └──────────▶ running ──────── ended ───▶ waiting (100 ms; doubling to 5 s while runs are short) ──▶ running
//! ```

mod part;
pub(crate) mod process;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(crate) use self::part::{PARTS, Part};
use crate::layout::{Layout, Settings};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A part that ran this long starts from the shortest wait again: something from outside ended it.
const STEADY: Duration = Duration::from_secs(1);
/// How long a part may take to end when told to.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why a part could not be kept running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    #[error("cannot write {path}")]
    ProcessFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the {part}")]
    Start {
        part: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("another supervisor looks after this data directory: {0}")]
    Running(String),
}

/// Runs until told to stop; then stops the parts in reverse order.
pub(crate) async fn run(layout: Layout, settings: Settings) -> Result<(), SuperviseError> {
    let own = layout.process_file("supervisor");
    let _only = process::lock(&layout.run.join("supervisor.lock")).map_err(SuperviseError::Running)?;
    process::write(&own, process::own_pid())
        .map_err(|source| SuperviseError::ProcessFile { path: own.display().to_string(), source })?;
    let mut terminate = signal(SignalKind::terminate()).map_err(SuperviseError::Signals)?;
    let mut keepers = JoinSet::new();
    for part in PARTS {
        keepers.spawn(keep(part, layout.clone(), settings.clone()));
    }
    terminate.recv().await;
    keepers.shutdown().await;
    for part in PARTS.iter().rev() {
        stop(&layout, part.name).await;
    }
    // Nobody is left who would look at it.
    let _ = std::fs::remove_file(own);
    Ok(())
}

/// Keeps one part running for ever.
async fn keep(part: &'static Part, layout: Layout, settings: Settings) {
    let mut wait = None;
    loop {
        let since = Instant::now();
        match part.ensure(&layout, &settings) {
            Ok(identity) => {
                identity.ended().await;
                tracing::warn!(part = part.name, pid = identity.pid, "ended; starting it again");
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, part = part.name),
        }
        let next = next_wait(wait, since.elapsed());
        wait = Some(next);
        sleep(next).await;
    }
}

/// How long to wait before the next start, given the last wait, if there was one, and how long the part ran.
fn next_wait(last: Option<Duration>, ran: Duration) -> Duration {
    last.filter(|_| ran < STEADY).map_or(FIRST_WAIT, |last| (last * 2).min(LONGEST_WAIT))
}

/// Ends a part: TERM, and KILL when it does not end in time.
pub(crate) async fn stop(layout: &Layout, part: &str) {
    let file = layout.process_file(part);
    if let Some(identity) = process::read(&file).filter(process::Identity::is_alive) {
        identity.terminate(STOP_WAIT).await;
    }
    // Missing is as good as removed.
    let _ = std::fs::remove_file(file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_after_a_steady_run() {
        let quick = Duration::from_millis(1);
        let mut waits = vec![next_wait(None, quick)];
        for _ in 0..8 {
            waits.push(next_wait(waits.last().copied(), quick));
        }
        let millis: Vec<_> = waits.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(next_wait(Some(LONGEST_WAIT), STEADY), FIRST_WAIT);
    }
}
