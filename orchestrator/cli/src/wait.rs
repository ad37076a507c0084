//! Waiting for what another part makes first.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

/// Returns when all files are there: the server writes the credentials of the other parts at its first start.
pub(crate) async fn for_files(files: &[&Path]) {
    while files.iter().any(|file| !file.exists()) {
        sleep(Duration::from_millis(10)).await;
    }
}
