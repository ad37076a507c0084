//! The file: its settings, its tables, and reading all present rows at start.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, Row};

use super::{Options, io};
use crate::store::{Entry, Revision, StoreError};

/// Raised when the tables change shape.
const FORMAT: i64 = 1;
/// Marks the file as ours: the letters `ctmr`.
const APPLICATION_ID: i64 = 0x6374_6d72;

/// A 2 KB row fills a 4 KiB page alone; 16 KiB pages pack seven.
const SETTINGS: &str = "
    PRAGMA page_size = 16384;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 0;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -2048;
";

/// `log` holds every state of every key since the last compaction, the newest state always.
/// `value` is NULL for a deletion; `previous` is the revision of the state before, 0 for none.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS log (
        revision INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        value BLOB,
        create_revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        previous INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS log_by_key ON log (key, revision);
    CREATE TABLE IF NOT EXISTS compaction (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT OR IGNORE INTO compaction VALUES (1, 0);
";

/// What the file holds.
pub(super) struct Loaded {
    pub(super) rows: Vec<Entry>,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

/// Opens the writing connection and makes sure that the file is ours.
pub(super) fn open(options: &Options) -> Result<Connection, StoreError> {
    let connection = connect(options, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let format = |reason: String| StoreError::Format { path: options.path.display().to_string(), reason };
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let id = number("PRAGMA application_id").map_err(|e| format(e.to_string()))?;
    let version = number("PRAGMA user_version").map_err(|e| format(e.to_string()))?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(|e| format(e.to_string()))?;
    if tables > 0 && id != APPLICATION_ID {
        return Err(format("it is a database of something else".to_owned()));
    }
    if version > FORMAT {
        return Err(format(format!(
            "it was written by a newer version (format {version}, this one knows {FORMAT})"
        )));
    }
    connection.execute_batch(SETTINGS).map_err(|e| io("set up the database", e))?;
    let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};");
    connection
        .execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {marks} COMMIT;"))
        .map_err(|e| io("create the tables", e))?;
    Ok(connection)
}

/// Opens a further connection to a file that `open` has prepared.
pub(super) fn connect(options: &Options, flags: OpenFlags) -> Result<Connection, StoreError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match &options.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(&options.path, flags, vfs.as_str()),
        None => Connection::open_with_flags(&options.path, flags),
    };
    let connection = opened.map_err(|e| io("open the database", e))?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(|e| io("set up the database", e))?;
    Ok(connection)
}

/// Reads the log once from the oldest to the newest row; what is left standing is the present.
pub(super) fn load(connection: &Connection) -> Result<Loaded, StoreError> {
    let fail = |e| io("read the database", e);
    let compacted: Revision =
        connection.query_row("SELECT revision FROM compaction", [], |row| row.get(0)).map_err(fail)?;
    let mut present: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    let mut revision = compacted;
    let mut statement = connection
        .prepare("SELECT revision, key, value, create_revision, version FROM log ORDER BY revision")
        .map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    while let Some(row) = rows.next().map_err(fail)? {
        revision = revision.max(row.get(0).map_err(fail)?);
        match entry(row).map_err(fail)? {
            (entry, true) => present.insert(entry.key.clone(), entry),
            (entry, false) => present.remove(&entry.key),
        };
    }
    Ok(Loaded { rows: present.into_values().collect(), revision, compacted })
}

/// A row of `revision, key, value, create_revision, version`; false when it is a deletion.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<(Entry, bool)> {
    let value: Option<Vec<u8>> = row.get(2)?;
    let stands = value.is_some();
    let entry = Entry {
        mod_revision: row.get(0)?,
        key: row.get::<_, String>(1)?.into(),
        value: Bytes::from(value.unwrap_or_default()),
        create_revision: row.get(3)?,
        version: row.get(4)?,
    };
    Ok((entry, stands))
}
