//! Figures, each beside what the machine itself or a peer does in the same run (as root, ports 6443 and 5000 free):
//! `cargo run --release -p catamaran-tests --bin bench` for one node, with `wasm` for requests to wasm pods.

mod idle;
mod starts;
mod wasm;

use std::path::Path;
use std::time::{Duration, Instant};

use catamaran_tests::cluster::{Cluster, Demo};
use catamaran_tests::http;

fn main() {
    catamaran_tests::cluster::use_ring();
    let what = std::env::args().nth(1).unwrap_or_default();
    match what.as_str() {
        "" => node(&Cluster::up(Demo::With)),
        "wasm" => wasm::report(&Cluster::up(Demo::With)),
        other => eprintln!("bench: there is no benchmark {other}; `bench` or `bench wasm`"),
    }
}

fn node(cluster: &Cluster) {
    let size = std::fs::metadata(catamaran_tests::cluster::binary()).map_or(0, |file| file.len());
    println!("binary: {:.1} MB", size as f64 / 1e6);
    println!("fdatasync of this disk: {}", spread(fdatasync(cluster.data())));
    first_answer(cluster);
    idle::report(cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(starts::report(cluster));
}

/// From exec of `up` on kept data, images present, to the first answered request.
fn first_answer(cluster: &Cluster) {
    let address = cluster.node_port("hello");
    let down = cluster.run("down", &["--keep-data"]);
    assert_eq!(down.code, 0, "{}{}", down.stdout, down.stderr);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.start(Demo::Without, &[], &[]));
        let answered = loop {
            if http::get(address, "/").is_ok_and(|answer| answer.status == 200) {
                break start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no answer in a minute");
            std::thread::sleep(Duration::from_millis(2));
        };
        println!("exec of `up` to the first answered request (images present): {} ms", answered.as_millis());
    });
    for name in ["hello-wasm", "hello-container"] {
        cluster.wait_available(name);
    }
}

/// What a durable write of 2 KB costs on this disk.
fn fdatasync(directory: &Path) -> Vec<Duration> {
    use std::io::Write;
    let path = directory.join("fdatasync");
    let mut file = std::fs::File::create(&path).expect("a file");
    let once = || {
        let start = Instant::now();
        file.write_all(&[1; 2048]).and_then(|()| file.sync_data()).expect("a write");
        start.elapsed()
    };
    let took = std::iter::repeat_with(once).take(200).collect();
    std::fs::remove_file(path).expect("it is there");
    took
}

/// Median and 99th percentile in words.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms (of {})", at(50), at(99), took.len())
}
