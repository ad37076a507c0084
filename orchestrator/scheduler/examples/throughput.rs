//! Prints how many pods a second are scheduled, without a server: `cargo run --release --example throughput`.

use catamaran_scheduler::bench::measure;

fn main() {
    println!(
        "{:>7} {:>8} {:>7} {:>9} {:>14} {:>14}",
        "nodes", "pods", "shapes", "placed", "take in /s", "decide /s"
    );
    for (nodes, pods, shapes) in [
        (1, 1_500, 1),
        (100, 50_000, 10),
        (5_000, 100_000, 10),
        (5_000, 100_000, 1_000),
        (5_000, 20_000, 20_000),
    ] {
        let measured = measure(nodes, pods, shapes);
        let rate = |time: std::time::Duration| measured.placed as f64 / time.as_secs_f64();
        println!(
            "{nodes:>7} {pods:>8} {shapes:>7} {:>9} {:>14.0} {:>14.0}",
            measured.placed,
            rate(measured.taking_in),
            rate(measured.deciding)
        );
    }
}
