//! Durable writes a second, beside what the disk itself does in the same run:
//! `cargo run --release -p catamaran-store --example bench [DIR]`.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catamaran_store::sqlite::Options;
use catamaran_store::{Expect, SqliteStore, Store};

const VALUE: usize = 2048;
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let directory = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = directory.join("store-bench");
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let disk = disk(&directory);
    println!("disk: {disk:.0} appends of {VALUE} bytes with fdatasync a second, one after another");
    println!("{:>8} {:>12} {:>10} {:>10} {:>8}", "clients", "writes/s", "p50 ms", "p99 ms", "x disk");
    for clients in [1, 10, 100, 1000] {
        let (rate, p50, p99) = store(&directory, clients);
        println!("{clients:>8} {rate:>12.0} {p50:>10.2} {p99:>10.2} {:>8.2}", rate / disk);
    }
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
}

/// What the disk does without a store: one preallocated file, written and synced again and again.
fn disk(directory: &Path) -> f64 {
    let mut file = std::fs::File::create(directory.join("raw")).expect("a file");
    file.write_all(&vec![0; 64 << 20])
        .and_then(|()| file.sync_all())
        .and_then(|()| file.rewind())
        .expect("room");
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < TIME {
        file.write_all(&[1; VALUE]).and_then(|()| file.sync_data()).expect("a write");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

fn store(directory: &Path, clients: usize) -> (f64, f64, f64) {
    let path = directory.join(format!("{clients}.db"));
    let store = Arc::new(SqliteStore::open(Options::new(&path)).expect("a store"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let start = Instant::now();
    let client = |n: usize| {
        let store = store.clone();
        async move {
            let mut took = Vec::new();
            while start.elapsed() < TIME {
                let key = format!("/bench/{n}/{}", took.len() % 64);
                let began = Instant::now();
                store.put(&key, Bytes::from(vec![1; VALUE]), Expect::Any).await.expect("a write");
                took.push(began.elapsed());
            }
            took
        }
    };
    let tasks: Vec<_> = (0..clients).map(|n| runtime.spawn(client(n))).collect();
    let mut took: Vec<_> =
        tasks.into_iter().flat_map(|task| runtime.block_on(task).expect("no panic")).collect();
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    (rate, at(0.5), at(0.99))
}
