//! Cuts the power at ten thousand random points of a concurrent load. The disk keeps what was synced and
//! a random part of what was not. Whatever was acknowledged, and whatever a watcher saw, must be there
//! when the store is opened again, and what is there must be a state that there was.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod vfs;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use catamaran_store::sqlite::Options;
use catamaran_store::{EventKind, Expect, Range, SqliteStore, Store};
use vfs::{Disk, Image, Op, SECTOR};

const RUNS: u64 = 20;
const CUTS_PER_RUN: usize = 500;
const WRITERS: u64 = 8;
const WRITES: u64 = 30;

/// A change as told by the store: revision, key, value (none for a deletion).
type Change = (u64, String, Option<Vec<u8>>);

/// A small random number generator, so that a failing run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

fn open(disk: &Disk, directory: &Path) -> SqliteStore {
    let options = Options {
        vfs: Some(disk.name.clone()),
        memory_log_bytes: 4096,
        checkpoint_bytes: 64 << 10,
        ..Options::new(directory.join("store.db"))
    };
    SqliteStore::open(options).expect("the store opens on what the disk kept")
}

/// Runs the load to its end. Returns what happened, and the whole history as the live store told it.
async fn load(seed: u64, directory: &Path) -> (Vec<Op>, Vec<Change>) {
    let disk = Disk::register(Image::new());
    let store = Arc::new(open(&disk, directory));
    let watcher = tokio::spawn(watch(store.clone(), disk.clone(), WRITERS * WRITES));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, disk, mut dice) = (store.clone(), disk.clone(), Dice(seed * 1000 + writer + 1));
            tokio::spawn(async move {
                for n in 0..WRITES {
                    let key = format!("/k/{}", dice.below(12));
                    let value = format!("{writer}:{n}:{}", "x".repeat(dice.below(3000)));
                    let deleted = match dice.below(5) {
                        0 => store.delete(&key, Expect::Any).await.ok(),
                        _ => None,
                    };
                    let done = match deleted {
                        Some(entry) => entry,
                        None => store.put(&key, value.into(), Expect::Any).await.unwrap(),
                    };
                    disk.note(Op::Acknowledged(done.mod_revision));
                    if seed.is_multiple_of(2) && writer == 0 && n % 10 == 9 {
                        store.compact(store.revision() / 2).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let history = watcher.await.unwrap();
    (disk.take_log(), history)
}

async fn watch(store: Arc<SqliteStore>, disk: Arc<Disk>, changes: u64) -> Vec<Change> {
    let mut watch = store.watch("/", 0).await.unwrap();
    drop(store);
    let mut history = Vec::new();
    while history.len() < changes as usize {
        for event in watch.next().await.unwrap().unwrap() {
            disk.note(Op::Seen(event.entry.mod_revision));
            history.push(change(&event));
        }
    }
    history
}

fn change(event: &catamaran_store::Event) -> Change {
    let value = (event.kind == EventKind::Put).then(|| event.entry.value.to_vec());
    (event.entry.mod_revision, event.entry.key.to_string(), value)
}

/// What the platter holds, and what is on its way to it, after some of the record.
#[derive(Default)]
struct Platter {
    synced: Image,
    waiting: BTreeMap<String, Vec<Op>>,
    promised: u64,
}

impl Platter {
    fn happen(&mut self, op: &Op) {
        match op {
            Op::Write { file, .. } | Op::Truncate { file, .. } => {
                self.waiting.entry(file.clone()).or_default().push(op.clone());
            }
            Op::Sync { file } => {
                let content = self.synced.entry(file.clone()).or_default();
                let waiting = self.waiting.remove(file).unwrap_or_default();
                waiting.iter().for_each(|op| vfs::apply(content, op));
            }
            Op::Delete { file } => {
                self.synced.remove(file);
                self.waiting.remove(file);
            }
            Op::Acknowledged(revision) | Op::Seen(revision) => self.promised = self.promised.max(*revision),
        }
    }

    /// The contents after a cut: of each unsynced write some sectors arrived, others did not.
    fn cut(&self, dice: &mut Dice) -> Image {
        let mut image = self.synced.clone();
        for (file, ops) in &self.waiting {
            let content = image.entry(file.clone()).or_default();
            for op in ops {
                match op {
                    Op::Write { file, offset, data } => {
                        for (n, sector) in data.chunks(SECTOR).enumerate() {
                            if dice.below(2) == 0 {
                                let part = Op::Write {
                                    file: file.clone(),
                                    offset: offset + n * SECTOR,
                                    data: sector.to_vec(),
                                };
                                vfs::apply(content, &part);
                            }
                        }
                    }
                    other if dice.below(2) == 0 => vfs::apply(content, other),
                    _ => {}
                }
            }
        }
        image
    }
}

/// Opens the store on what a cut left and compares it with what was promised.
async fn check(image: Image, promised: u64, history: &[Change], directory: &Path, place: &str) {
    let disk = Disk::register(image);
    let store = open(&disk, directory);
    let (revision, compacted) = (store.revision(), store.compacted());
    assert!(revision >= promised, "{place}: {promised} was acknowledged or seen, {revision} is kept");
    let kept = history.iter().take_while(|(r, ..)| *r <= revision);
    let mut present = BTreeMap::new();
    for (at, key, value) in kept.clone() {
        match value {
            Some(value) => present.insert(key.clone(), (*at, value.clone())),
            None => present.remove(key),
        };
    }
    let page = store.range(Range { prefix: "/".to_owned(), ..Range::default() }).await.unwrap();
    let found: BTreeMap<_, _> =
        page.entries.iter().map(|e| (e.key.to_string(), (e.mod_revision, e.value.to_vec()))).collect();
    assert!(found == present, "{place}: the rows are not those of revision {revision}");
    let expected: Vec<Change> = kept.filter(|(at, ..)| *at > compacted).cloned().collect();
    let mut replayed = Vec::new();
    if !expected.is_empty() {
        let mut watch = store.watch("/", compacted).await.unwrap();
        while replayed.len() < expected.len() {
            replayed.extend(watch.next().await.unwrap().unwrap().iter().map(|event| change(event)));
        }
    }
    assert!(replayed == expected, "{place}: a watcher would be told another history");
    drop(store);
    disk.clear();
}

#[test]
fn no_cut_loses_what_was_promised() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut cuts = 0;
    for seed in 1..=RUNS {
        let directory = tempfile::tempdir().unwrap();
        let (log, history) = runtime.block_on(load(seed, directory.path()));
        assert!(log.iter().filter(|op| matches!(op, Op::Sync { .. })).count() > 20);
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9));
        let mut points: Vec<_> = (0..CUTS_PER_RUN).map(|_| dice.below(log.len() + 1)).collect();
        points.sort_unstable();
        let (mut platter, mut happened) = (Platter::default(), 0);
        for point in points {
            log[happened..point].iter().for_each(|op| platter.happen(op));
            happened = point;
            let image = platter.cut(&mut dice);
            let place = format!("seed {seed}, cut at {point} of {}", log.len());
            runtime.block_on(check(image, platter.promised, &history, directory.path(), &place));
            cuts += 1;
        }
    }
    assert_eq!(cuts, RUNS as usize * CUTS_PER_RUN);
}

/// The test must be able to fail: a disk that lies about syncs loses acknowledged writes.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (log, history) = runtime.block_on(load(1, directory.path()));
    let mut lost = 0;
    for point in (log.len() / 2..log.len()).step_by(log.len() / 20) {
        let mut platter = Platter::default();
        // The first syncs are true, so that there is a database at all; all later ones are lies.
        let honest = log.len() / 4;
        for (n, op) in log[..point].iter().enumerate() {
            if n < honest || !matches!(op, Op::Sync { .. }) {
                platter.happen(op);
            }
        }
        let (synced, promised) = (platter.synced, platter.promised);
        let outcome = runtime.block_on(async {
            let (path, history) = (directory.path().to_owned(), history.clone());
            tokio::spawn(async move { check(synced, promised, &history, &path, "lying disk").await }).await
        });
        lost += usize::from(outcome.is_err());
    }
    assert!(lost > 0, "the check does not notice lost writes");
}
