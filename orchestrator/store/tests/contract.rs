//! The contract of `Store` as one suite that every driver passes.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::sync::Arc;

use bytes::Bytes;
use catamaran_store::sqlite::Options;
use catamaran_store::{
    Entry, Event, EventKind, Expect, MemoryStore, Put, Range, Revision, SqliteStore, Store, StoreError, Watch,
};

/// A driver under test. The directory lives as long as the store.
struct Driver {
    store: Arc<dyn Store>,
    _directory: Option<tempfile::TempDir>,
}

fn memory() -> Driver {
    Driver { store: Arc::new(MemoryStore::new()), _directory: None }
}

fn sqlite(memory_log_bytes: usize) -> Driver {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { memory_log_bytes, ..Options::new(directory.path().join("store.db")) };
    Driver { store: Arc::new(SqliteStore::open(options).unwrap()), _directory: Some(directory) }
}

/// Each case runs on every driver; the third has no log in memory, so that all history is read back from the file.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_memory { $( #[tokio::test] async fn $case() { super::$case(super::memory()).await } )* }
        mod on_sqlite { $( #[tokio::test] async fn $case() { super::$case(super::sqlite(1 << 20)).await } )* }
        mod on_sqlite_history { $( #[tokio::test] async fn $case() { super::$case(super::sqlite(0)).await } )* }
    };
}

contract!(
    revisions_count_every_write,
    create_demands_absence,
    update_demands_the_revision,
    delete_demands_existence_and_revision,
    lists_are_ordered_and_limited,
    lists_of_the_past_are_as_they_were,
    prefixes_do_not_match_siblings,
    a_watch_has_each_change_once_and_in_order,
    a_watch_from_the_past_starts_behind_it,
    a_deletion_carries_the_last_state,
    compaction_forgets_the_past_and_keeps_the_present,
    the_future_is_refused,
    a_slow_watcher_is_cut_off,
    concurrent_updates_of_one_key_lose_nothing,
    writes_that_belong_together_happen_together,
    writes_that_belong_together_do_not_overtake_each_other,
    progress_is_told_only_when_all_was_handed_out,
);

async fn put(store: &dyn Store, key: &str, value: &str) -> Entry {
    store.put(key, Bytes::from(value.to_owned()), Expect::Any).await.unwrap()
}

fn all(prefix: &str) -> Range {
    Range { prefix: prefix.to_owned(), ..Range::default() }
}

async fn keys(store: &dyn Store, range: Range) -> Vec<String> {
    store.range(range).await.unwrap().entries.iter().map(|e| e.key.to_string()).collect()
}

async fn take(watch: &mut Watch, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), watch.next());
        events.extend(next.await.expect("an event is due").expect("open").unwrap());
    }
    events
}

fn brief(events: &[Arc<Event>]) -> Vec<(EventKind, &str, Revision)> {
    events.iter().map(|e| (e.kind, &*e.entry.key, e.entry.mod_revision)).collect()
}

async fn revisions_count_every_write(driver: Driver) {
    let store = &*driver.store;
    let before = store.revision();
    let first = put(store, "/a", "1").await;
    let second = put(store, "/a", "2").await;
    let deleted = store.delete("/a", Expect::Any).await.unwrap();
    assert_eq!(first.mod_revision, before + 1);
    assert_eq!((second.mod_revision, second.create_revision, second.version), (before + 2, before + 1, 2));
    assert_eq!(deleted.mod_revision, before + 3);
    assert_eq!(store.revision(), before + 3);
    let again = put(store, "/a", "3").await;
    assert_eq!((again.create_revision, again.version), (before + 4, 1));
}

async fn create_demands_absence(driver: Driver) {
    let store = &*driver.store;
    let made = store.put("/a", "1".into(), Expect::Absent).await.unwrap();
    match store.put("/a", "2".into(), Expect::Absent).await {
        Err(StoreError::Conflict { current: Some(current) }) => assert_eq!(current, made),
        other => panic!("expected a conflict, got {other:?}"),
    }
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
    assert_eq!(store.revision(), made.mod_revision, "a refused write uses no revision");
}

async fn update_demands_the_revision(driver: Driver) {
    let store = &*driver.store;
    let made = put(store, "/a", "1").await;
    let changed = store.put("/a", "2".into(), Expect::Revision(made.mod_revision)).await.unwrap();
    let stale = store.put("/a", "3".into(), Expect::Revision(made.mod_revision)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: Some(c) }) if c == changed));
    let missing = store.put("/b", "1".into(), Expect::Revision(1)).await;
    assert!(matches!(missing, Err(StoreError::Conflict { current: None })));
}

async fn delete_demands_existence_and_revision(driver: Driver) {
    let store = &*driver.store;
    assert!(matches!(store.delete("/a", Expect::Any).await, Err(StoreError::NotFound)));
    let made = put(store, "/a", "1").await;
    let wrong = store.delete("/a", Expect::Revision(made.mod_revision + 1)).await;
    assert!(matches!(wrong, Err(StoreError::Conflict { .. })));
    store.delete("/a", Expect::Revision(made.mod_revision)).await.unwrap();
    assert!(store.get("/a").await.unwrap().is_none());
}

async fn lists_are_ordered_and_limited(driver: Driver) {
    let store = &*driver.store;
    for key in ["/p/c", "/p/a", "/q/x", "/p/b", "/p/d"] {
        put(store, key, "v").await;
    }
    let page = store.range(Range { limit: Some(2), ..all("/p/") }).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["/p/a", "/p/b"]);
    assert_eq!((page.remaining, page.revision), (2, store.revision()));
    let rest = Range { start_after: Some("/p/b".to_owned()), ..all("/p/") };
    assert_eq!(keys(store, rest).await, ["/p/c", "/p/d"]);
    assert_eq!(store.count("/p/").await.unwrap(), 4);
}

async fn lists_of_the_past_are_as_they_were(driver: Driver) {
    let store = &*driver.store;
    put(store, "/p/a", "1").await;
    let then = put(store, "/p/b", "1").await.mod_revision;
    put(store, "/p/a", "2").await;
    store.delete("/p/b", Expect::Any).await.unwrap();
    put(store, "/p/c", "1").await;
    let page = store.range(Range { revision: Some(then), ..all("/p/") }).await.unwrap();
    let rows: Vec<_> = page.entries.iter().map(|e| (&*e.key, &e.value[..], e.mod_revision)).collect();
    assert_eq!(rows, [("/p/a", &b"1"[..], then - 1), ("/p/b", &b"1"[..], then)]);
    assert_eq!(page.revision, then);
    assert_eq!(store.get_at("/p/a", then).await.unwrap().unwrap().value, "1");
    assert!(store.get_at("/p/c", then).await.unwrap().is_none());
    let later = Range { revision: Some(then), start_after: Some("/p/a".into()), ..all("/p/") };
    assert_eq!(keys(store, later).await, ["/p/b"]);
}

async fn prefixes_do_not_match_siblings(driver: Driver) {
    let store = &*driver.store;
    for key in ["/pods/a", "/podsx/b", "/pods", "/pod/c"] {
        put(store, key, "v").await;
    }
    assert_eq!(keys(store, all("/pods/")).await, ["/pods/a"]);
}

async fn a_watch_has_each_change_once_and_in_order(driver: Driver) {
    let store = driver.store.clone();
    let start = store.revision();
    let mut watch = store.watch("/p/", start).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    put(&*store, &format!("/p/{writer}-{n}"), "v").await;
                    put(&*store, &format!("/q/{writer}-{n}"), "v").await;
                }
            })
        })
        .collect();
    let live = take(&mut watch, 400).await;
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(live.iter().all(|e| e.entry.key.starts_with("/p/")));
    assert!(live.windows(2).all(|w| w[0].entry.mod_revision < w[1].entry.mod_revision));
    let replayed = take(&mut store.watch("/p/", start).await.unwrap(), 400).await;
    assert_eq!(live, replayed);
}

async fn a_watch_from_the_past_starts_behind_it(driver: Driver) {
    let store = &*driver.store;
    put(store, "/p/a", "1").await;
    let seen = put(store, "/p/a", "2").await.mod_revision;
    put(store, "/p/a", "3").await;
    let mut watch = store.watch("/p/", seen).await.unwrap();
    put(store, "/p/b", "1").await;
    let events = take(&mut watch, 2).await;
    assert_eq!(brief(&events), [(EventKind::Put, "/p/a", seen + 1), (EventKind::Put, "/p/b", seen + 2)]);
    assert_eq!(events[0].previous.as_ref().unwrap().value, "2");
    assert_eq!(events[1].previous, None);
}

async fn a_deletion_carries_the_last_state(driver: Driver) {
    let store = &*driver.store;
    let start = store.revision();
    let made = put(store, "/p/a", "last words").await;
    store.delete("/p/a", Expect::Any).await.unwrap();
    put(store, "/p/a", "again").await;
    let events = take(&mut store.watch("/p/", start).await.unwrap(), 3).await;
    assert_eq!(events[1].kind, EventKind::Delete);
    assert_eq!(events[1].entry.value, "last words");
    assert_eq!(events[1].entry.mod_revision, made.mod_revision + 1);
    assert_eq!(events[1].previous.as_ref(), Some(&made));
    assert_eq!(events[2].previous, None);
}

async fn compaction_forgets_the_past_and_keeps_the_present(driver: Driver) {
    let store = &*driver.store;
    put(store, "/p/a", "1").await;
    put(store, "/p/gone", "1").await;
    store.delete("/p/gone", Expect::Any).await.unwrap();
    let at = put(store, "/p/b", "1").await.mod_revision;
    let after = put(store, "/p/a", "2").await.mod_revision;
    store.compact(at).await.unwrap();
    assert_eq!(store.compacted(), at);
    assert!(matches!(store.compact(at).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.get_at("/p/a", at - 1).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.watch("/p/", at - 1).await, Err(StoreError::Compacted { .. })));
    let past = Range { revision: Some(at - 1), ..all("/p/") };
    assert!(matches!(store.range(past).await, Err(StoreError::Compacted { .. })));
    assert_eq!(store.get_at("/p/a", at).await.unwrap().unwrap().value, "1");
    assert_eq!(keys(store, Range { revision: Some(at), ..all("/p/") }).await, ["/p/a", "/p/b"]);
    assert_eq!(keys(store, all("/p/")).await, ["/p/a", "/p/b"]);
    let events = take(&mut store.watch("/p/", at).await.unwrap(), 1).await;
    assert_eq!(brief(&events), [(EventKind::Put, "/p/a", after)]);
    assert_eq!(events[0].previous.as_ref().unwrap().value, "1");
}

async fn the_future_is_refused(driver: Driver) {
    let store = &*driver.store;
    let now = put(store, "/a", "1").await.mod_revision;
    let next = now + 1;
    assert!(
        matches!(store.get_at("/a", next).await, Err(StoreError::Future { current, .. }) if current == now)
    );
    assert!(matches!(store.watch("/", next).await, Err(StoreError::Future { .. })));
    assert!(matches!(store.compact(next).await, Err(StoreError::Future { .. })));
    let future = Range { revision: Some(next), ..all("/") };
    assert!(matches!(store.range(future).await, Err(StoreError::Future { .. })));
}

async fn a_slow_watcher_is_cut_off(driver: Driver) {
    let store = &*driver.store;
    let mut slow = store.watch("/", store.revision()).await.unwrap();
    for n in 0..5000 {
        put(store, "/a", &n.to_string()).await;
    }
    let mut last = 0;
    let end = loop {
        match slow.next().await {
            Some(Ok(events)) => {
                for event in events {
                    assert!(last == 0 || event.entry.mod_revision == last + 1, "no gap before the cut");
                    last = event.entry.mod_revision;
                }
            }
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(StoreError::SlowWatcher))));
    assert!(slow.next().await.is_none());
    assert!(last < store.revision());
}

async fn concurrent_updates_of_one_key_lose_nothing(driver: Driver) {
    let store = driver.store.clone();
    put(&*store, "/n", "0").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    loop {
                        let now = store.get("/n").await.unwrap().unwrap();
                        let n: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                        let next = Bytes::from((n + 1).to_string());
                        match store.put("/n", next, Expect::Revision(now.mod_revision)).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("/n").await.unwrap().unwrap().value, "200");
}

async fn writes_that_belong_together_happen_together(driver: Driver) {
    let store = &*driver.store;
    let start = put(store, "/p/count", "0").await.mod_revision;
    let one =
        |key: &str, value: &str, expect| Put { key: key.into(), value: value.to_owned().into(), expect };
    let both = |count| vec![one("/p/a", "a", Expect::Absent), one("/p/count", "1", Expect::Revision(count))];
    match store.put_all(both(start + 1)).await {
        Err(StoreError::Conflict { current: Some(current) }) => assert_eq!(&*current.key, "/p/count"),
        other => panic!("expected a conflict, got {other:?}"),
    }
    assert!(store.get("/p/a").await.unwrap().is_none(), "none is written when one is refused");
    assert_eq!(store.revision(), start);
    let entries = store.put_all(both(start)).await.unwrap();
    let revisions: Vec<_> = entries.iter().map(|entry| (&*entry.key, entry.mod_revision)).collect();
    assert_eq!(revisions, [("/p/a", start + 1), ("/p/count", start + 2)]);
    assert_eq!(store.get("/p/a").await.unwrap().unwrap(), entries[0]);
    match store.put_all(both(start + 2)).await {
        Err(StoreError::Conflict { current: Some(current) }) => assert_eq!(&*current.key, "/p/a"),
        other => panic!("expected a conflict, got {other:?}"),
    }
    let events = take(&mut store.watch("/p/", start).await.unwrap(), 2).await;
    assert_eq!(
        brief(&events),
        [(EventKind::Put, "/p/a", start + 1), (EventKind::Put, "/p/count", start + 2)]
    );
    let twice = vec![one("/p/b", "1", Expect::Absent), one("/p/b", "2", Expect::Revision(start + 3))];
    assert_eq!(store.put_all(twice).await.unwrap()[1].version, 2, "the second sees the first");
}

async fn writes_that_belong_together_do_not_overtake_each_other(driver: Driver) {
    let store = driver.store.clone();
    put(&*store, "/count", "0").await;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    loop {
                        let now = store.get("/count").await.unwrap().unwrap();
                        let count: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                        let puts = vec![
                            Put { key: format!("/x/{task}-{n}"), value: "v".into(), expect: Expect::Absent },
                            Put {
                                key: "/count".into(),
                                value: (count + 1).to_string().into(),
                                expect: Expect::Revision(now.mod_revision),
                            },
                        ];
                        match store.put_all(puts).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { current: Some(current) }) => {
                                assert_eq!(&*current.key, "/count");
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("/count").await.unwrap().unwrap().value, "160");
    assert_eq!(store.count("/x/").await.unwrap(), 160);
}

async fn progress_is_told_only_when_all_was_handed_out(driver: Driver) {
    let store = &*driver.store;
    let mut watch = store.watch("/p/", store.revision()).await.unwrap();
    put(store, "/p/a", "1").await;
    assert_eq!(watch.progress(), None, "a change waits");
    take(&mut watch, 1).await;
    put(store, "/q/a", "1").await;
    assert_eq!(watch.progress(), Some(store.revision()), "other keys move it on");
}
