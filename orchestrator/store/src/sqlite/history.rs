//! Reads of history that memory no longer holds, by a connection of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{Options, io, schema};
use crate::index::paginate;
use crate::store::{Entry, Event, EventKind, Page, Range, Revision, StoreError, prefix_end};

const COLUMNS: &str = "revision, key, value, create_revision, version";

/// The log table, read-only.
pub(super) struct History {
    connection: Mutex<Connection>,
}

impl History {
    pub(super) fn open(options: &Options) -> Result<Self, StoreError> {
        let connection = schema::connect(options, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection
            .execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -256;")
            .map_err(|e| io("set up the database", e))?;
        Ok(History { connection: Mutex::new(connection) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("no read panics while it holds the connection")
    }

    /// The state of a key as of a revision.
    pub(super) fn get_at(&self, key: &str, revision: Revision) -> Result<Option<Entry>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM log WHERE key = ?1 AND revision <= ?2 ORDER BY revision DESC LIMIT 1"
        );
        let found = self.connection().query_row(&sql, params![key, revision], schema::entry).optional();
        Ok(found.map_err(|e| io("read history", e))?.and_then(|(entry, stands)| stands.then_some(entry)))
    }

    /// The entries of a prefix as of a revision: the newest row of each key up to it.
    pub(super) fn range(&self, range: &Range, revision: Revision) -> Result<Page, StoreError> {
        let fail = |e| io("read history", e);
        let from = range.start_after.as_deref().filter(|key| *key >= range.prefix.as_str());
        let sql = "SELECT max(revision), key, value, create_revision, version FROM log
             WHERE key >= ?1 AND key > ?2 AND (?3 IS NULL OR key < ?3) AND revision <= ?4
             GROUP BY key ORDER BY key";
        let connection = self.connection();
        let mut statement = connection.prepare(sql).map_err(fail)?;
        let rows = statement
            .query_map(
                params![range.prefix, from.unwrap_or_default(), upper_bound(&range.prefix), revision],
                schema::entry,
            )
            .map_err(fail)?;
        let mut entries = Vec::new();
        for row in rows {
            let (entry, stands) = row.map_err(fail)?;
            if stands {
                entries.push(entry);
            }
        }
        Ok(paginate(entries.iter(), range.limit, revision))
    }

    /// Events of a prefix with `after < revision <= until`, oldest first.
    pub(super) fn events(
        &self,
        prefix: &str,
        after: Revision,
        until: Revision,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let fail = |e| io("read history", e);
        let mut before: HashMap<Arc<str>, Option<Entry>> = HashMap::new();
        let sql = format!(
            "SELECT {COLUMNS} FROM log WHERE revision > ?1 AND revision <= ?2 AND key >= ?3
             AND (?4 IS NULL OR key < ?4) ORDER BY revision"
        );
        let rows: Vec<(Entry, bool)> = {
            let connection = self.connection();
            let mut statement = connection.prepare(&sql).map_err(fail)?;
            let rows = statement
                .query_map(params![after, until, prefix, upper_bound(prefix)], schema::entry)
                .map_err(fail)?;
            rows.collect::<Result<_, _>>().map_err(fail)?
        };
        let mut events = Vec::with_capacity(rows.len());
        for (row, stands) in rows {
            let previous = match before.remove(&row.key) {
                Some(known) => known,
                None => self.get_at(&row.key, after)?,
            };
            before.insert(row.key.clone(), stands.then(|| row.clone()));
            events.push(Arc::new(event(row, stands, previous)));
        }
        Ok(events)
    }
}

fn event(row: Entry, stands: bool, previous: Option<Entry>) -> Event {
    if stands {
        return Event { kind: EventKind::Put, entry: row, previous };
    }
    let last = previous.clone().unwrap_or_else(|| row.clone());
    let entry = Entry { mod_revision: row.mod_revision, ..last };
    Event { kind: EventKind::Delete, entry, previous }
}

/// The exclusive upper bound of a prefix as text; keys are text, so a bound that cuts a character
/// cannot arise from the ASCII separators that prefixes end with.
fn upper_bound(prefix: &str) -> Option<String> {
    prefix_end(prefix).and_then(|end| String::from_utf8(end).ok())
}
