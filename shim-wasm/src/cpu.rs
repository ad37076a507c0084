//! CPU time of a container: measured around every poll of a guest, and held to its limit by a token
//! bucket that is asked before each poll.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep};

use crate::ticker::Ticker;

/// What may be used at once after a pause, as time at the limit's rate.
const BURST: Duration = Duration::from_millis(20);

/// How often a container is judged, nanoseconds.
const WINDOW: u64 = 250_000_000;
/// A poll this long is computing, not answering, nanoseconds.
const LONG: u64 = 800_000;
/// Share of a CPU in long polls above which a container counts as computing.
const HEAVY_SHARE: f64 = 0.3;

/// Tokens are nanoseconds of CPU time. A pure function of its calls.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    /// CPUs, 0.5 for 500m.
    rate: f64,
    level: f64,
    /// Nanoseconds on the caller's clock.
    at: u64,
}

impl Bucket {
    fn new(rate: f64, now: u64) -> Self {
        Self { rate, level: rate * BURST.as_nanos() as f64, at: now }
    }

    /// How long to wait before the next poll; zero: go on.
    fn wait(&mut self, now: u64) -> Duration {
        let full = self.rate * BURST.as_nanos() as f64;
        let gained = now.saturating_sub(self.at) as f64 * self.rate;
        self.level = (self.level + gained).min(full);
        self.at = now;
        if self.level > 0.0 {
            Duration::ZERO
        } else {
            Duration::from_nanos((-self.level / self.rate) as u64 + 1)
        }
    }

    fn charge(&mut self, nanoseconds: u64) {
        self.level -= nanoseconds as f64;
    }
}

/// CPU time of one container, over all its instances.
#[derive(Debug)]
pub(crate) struct CpuMeter {
    used: AtomicU64,
    /// The part of it in long polls.
    long: AtomicU64,
    bucket: Mutex<Option<Bucket>>,
    recent: Mutex<Recent>,
    started: Instant,
}

/// How much was used in long polls lately, to tell programs that compute from those that answer.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    /// Nanoseconds on the meter's clock.
    since: u64,
    used_then: u64,
    heavy: bool,
}

impl Recent {
    /// Judges anew once a window is over.
    fn look(&mut self, now: u64, used: u64) -> bool {
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= WINDOW {
            let share = used.saturating_sub(self.used_then) as f64 / elapsed as f64;
            *self = Self { since: now, used_then: used, heavy: share > HEAVY_SHARE };
        }
        self.heavy
    }
}

impl CpuMeter {
    /// `cpus`: the limit, `None` for none.
    pub(crate) fn new(cpus: Option<f64>) -> Arc<Self> {
        let meter = Self {
            used: AtomicU64::new(0),
            long: AtomicU64::new(0),
            bucket: Mutex::new(None),
            recent: Mutex::default(),
            started: Instant::now(),
        };
        meter.set_limit(cpus);
        Arc::new(meter)
    }

    pub(crate) fn set_limit(&self, cpus: Option<f64>) {
        let bucket = cpus.filter(|cpus| *cpus > 0.0).map(|cpus| Bucket::new(cpus, self.now()));
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = bucket;
    }

    /// CPU time used so far, nanoseconds.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Whether it has lately computed: many short requests do not count, wherever they add up to.
    pub(crate) fn is_heavy(&self) -> bool {
        let long = self.long.load(Relaxed);
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).look(self.now(), long)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wait(&self) -> Duration {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(self.now()))
    }

    fn charge(&self, nanoseconds: u64) {
        self.used.fetch_add(nanoseconds, Relaxed);
        if nanoseconds >= LONG {
            self.long.fetch_add(nanoseconds, Relaxed);
        }
        if let Some(bucket) = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            bucket.charge(nanoseconds);
        }
    }
}

fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A guest's future: gate, poll, charge.
pub(crate) struct Metered<F> {
    inner: Pin<Box<F>>,
    meter: Arc<CpuMeter>,
    ticker: Arc<Ticker>,
    gate: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Metered<F> {
    pub(crate) fn new(inner: F, meter: &Arc<CpuMeter>, ticker: &Arc<Ticker>) -> Self {
        Self { inner: Box::pin(inner), meter: Arc::clone(meter), ticker: Arc::clone(ticker), gate: None }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        loop {
            if let Some(gate) = &mut this.gate {
                ready!(gate.as_mut().poll(cx));
                this.gate = None;
            }
            let wait = this.meter.wait();
            if wait.is_zero() {
                break;
            }
            this.gate = Some(Box::pin(tokio::time::sleep(wait)));
        }
        let _running = this.ticker.enter();
        let before = thread_time();
        let polled = this.inner.as_mut().poll(cx);
        this.meter.charge(thread_time().saturating_sub(before));
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_spinning_guest_gets_its_share() {
        for (rate, tolerance) in [(0.1, 0.03), (0.5, 0.03), (1.5, 0.03)] {
            let mut bucket = Bucket::new(rate, 0);
            let (mut now, mut used) = (0u64, 0u64);
            while now < 10_000 * MS {
                let wait = bucket.wait(now);
                if wait.is_zero() {
                    bucket.charge(MS);
                    used += MS;
                    // 1.5 CPUs are two threads' worth: here the clock runs half as fast.
                    now += if rate > 1.0 { MS / 2 } else { MS };
                } else {
                    now += wait.as_nanos() as u64;
                }
            }
            let share = used as f64 / now as f64;
            assert!((share - rate).abs() < tolerance, "{share} of {rate}");
        }
    }

    #[test]
    fn who_computes_is_heavy_until_it_stops() {
        let mut recent = Recent::default();
        assert!(!recent.look(100 * MS, 100 * MS));
        assert!(recent.look(300 * MS, 200 * MS));
        assert!(recent.look(400 * MS, 200 * MS));
        assert!(!recent.look(600 * MS, 200 * MS));
    }

    #[test]
    fn a_pause_saves_no_more_than_the_burst() {
        let mut bucket = Bucket::new(0.5, 0);
        assert_eq!(bucket.wait(3_600_000 * MS), Duration::ZERO);
        bucket.charge(11 * MS);
        assert!(bucket.wait(3_600_000 * MS) >= Duration::from_millis(2));
    }

    #[tokio::test]
    async fn without_a_limit_time_is_only_counted() {
        let meter = CpuMeter::new(None);
        let ticker = Ticker::start();
        let spin = async {
            let end = std::time::Instant::now() + Duration::from_millis(20);
            while std::time::Instant::now() < end {}
        };
        Metered::new(spin, &meter, &ticker).await;
        assert!(meter.used() > 5 * MS, "{}", meter.used());
    }
}
