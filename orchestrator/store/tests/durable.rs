//! What the file keeps: everything acknowledged, across closing, refusal and `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use catamaran_store::sqlite::Options;
use catamaran_store::{Expect, Range, SqliteStore, Store, StoreError};

const CHILD: &str = "CATAMARAN_STORE_TEST_CHILD";

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(Options::new(directory.join("store.db"))).unwrap()
}

async fn rows(store: &SqliteStore) -> BTreeMap<String, (u64, u64, Vec<u8>)> {
    let page = store.range(Range::default()).await.unwrap();
    let row = |e: &catamaran_store::Entry| {
        (e.key.to_string(), (e.mod_revision, e.create_revision, e.value.to_vec()))
    };
    page.entries.iter().map(row).collect()
}

#[tokio::test]
async fn opening_again_finds_the_same_rows_and_history() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for n in 0..100 {
        store.put(&format!("/k/{}", n % 10), format!("{n}").into(), Expect::Any).await.unwrap();
    }
    store.delete("/k/3", Expect::Any).await.unwrap();
    let (before, revision) = (rows(&store).await, store.revision());
    drop(store);
    let store = open(directory.path());
    assert_eq!(rows(&store).await, before);
    assert_eq!(store.revision(), revision);
    assert_eq!(store.get_at("/k/3", 50).await.unwrap().unwrap().value, "43");
    let mut watch = store.watch("/k/", revision - 1).await.unwrap();
    assert_eq!(&*watch.next().await.unwrap().unwrap()[0].entry.key, "/k/3");
}

#[tokio::test]
async fn a_revision_is_never_used_twice_even_when_its_row_was_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put("/a", "1".into(), Expect::Any).await.unwrap();
    let deleted = store.delete("/a", Expect::Any).await.unwrap().mod_revision;
    store.compact(deleted).await.unwrap();
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.compacted(), deleted);
    assert_eq!(store.put("/a", "2".into(), Expect::Absent).await.unwrap().mod_revision, deleted + 1);
}

#[tokio::test]
async fn a_second_server_is_refused_and_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path());
    let Err(refused) = SqliteStore::open(Options::new(directory.path().join("store.db"))) else {
        panic!("two servers opened one store");
    };
    assert!(matches!(refused, StoreError::InUse { .. }));
    assert!(refused.to_string().contains("in use by another server"), "{refused}");
    drop(first);
    open(directory.path());
}

#[test]
fn a_file_of_something_else_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    std::fs::write(&path, b"this is a shopping list, not a database").unwrap();
    let Err(refused) = SqliteStore::open(Options::new(&path)) else { panic!("opened a shopping list") };
    assert!(matches!(refused, StoreError::Format { .. }), "{refused:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"this is a shopping list, not a database");
}

/// The child of the next test: a thousand writers that print each acknowledged write.
#[test]
fn child_of_kill_nine() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(Path::new(&directory)));
        let writers: Vec<_> = (0..1000)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..u64::MAX {
                        let value = format!("{writer}:{n}");
                        let key = format!("/w/{writer}");
                        let entry = store.put(&key, value.into(), Expect::Any).await.unwrap();
                        // One write call for a line: lines of different writers do not mix.
                        use std::io::Write;
                        let line = format!("ACK {writer} {n} {}\n", entry.mod_revision);
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn kill_nine_amid_a_thousand_writers_loses_no_acknowledged_write() {
    for round in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_of_kill_nine", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut take = |line: String| {
            let Some(rest) = line.strip_prefix("ACK ") else { return };
            let n: Vec<u64> = rest.split(' ').map_while(|n| n.parse().ok()).collect();
            if let [writer, n, revision] = n[..] {
                acknowledged.insert(writer, (n, revision));
            }
        };
        (&mut lines).filter(|l| l.starts_with("ACK")).take(3000 + 1700 * round).for_each(&mut take);
        std::thread::sleep(Duration::from_millis(7 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(take);
        assert!(acknowledged.len() > 100);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(directory.path());
            for (writer, (n, revision)) in &acknowledged {
                let entry = store.get(&format!("/w/{writer}")).await.unwrap().expect("acknowledged");
                let kept = String::from_utf8(entry.value.to_vec()).unwrap();
                let kept: u64 = kept.split_once(':').unwrap().1.parse().unwrap();
                assert!(kept >= *n, "writer {writer}: {n} was acknowledged, {kept} is kept");
                assert!(entry.mod_revision >= *revision && store.revision() >= *revision);
            }
        });
    }
}
