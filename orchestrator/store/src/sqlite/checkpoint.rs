//! Copies the write-ahead log into the database file from a connection of its own, off the commit path.

use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use rusqlite::OpenFlags;

use super::{Options, schema};
use crate::store::StoreError;

/// Starts the thread; it ends when the writer has gone.
pub(super) fn spawn(options: &Options, due: Receiver<()>) -> Result<JoinHandle<()>, StoreError> {
    let connection = schema::connect(options, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    super::spawn("store-checkpoint", move || {
        while due.recv().is_ok() {
            if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                // The log goes on growing and the next commits ask again; nothing is lost.
                tracing::warn!(error = &error as &dyn std::error::Error, "checkpoint");
            }
        }
    })
}
