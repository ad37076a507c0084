//! The end of a part: SIGTERM or SIGINT.

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is told to stop. A signal that cannot be listened for ends it the hard way.
pub(crate) async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
