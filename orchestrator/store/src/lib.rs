//! Revisions of bytes behind a dozen verbs with etcd's semantics. Knows no kinds.
//!
//! | file | what |
//! | --- | --- |
//! | `store` | the verbs and their contract |
//! | `index` | current rows and the recent log in memory; what every driver reads from |
//! | `watch` | subscriptions: backlog, live events, slow watchers |
//! | `memory` | the reference driver |
//! | `sqlite` | the default driver: one writer, grouped durable commits |
//! | `compact` | forgets history by age |

pub mod compact;
mod index;
pub mod memory;
pub mod sqlite;
pub mod store;
pub mod watch;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;
pub use store::{Entry, Event, EventKind, Expect, Page, Put, Range, Revision, Store, StoreError};
pub use watch::Watch;
