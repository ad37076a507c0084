//! Waiting for conditions. Nothing here sleeps for a fixed time and hopes.

use std::time::{Duration, Instant};

/// Looks until `look` has a value; fails with what it said last.
///
/// # Panics
/// When the time is up.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => panic!("{what}: not within {limit:?}; last: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
