//! The clock that interrupts guests: a thread that advances every engine's epoch each millisecond
//! while a guest runs, and sleeps while none does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::EngineWeak;

/// Length of a tick: how long a guest may run before it yields.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a running guest before the thread sleeps. Waking it costs a system call, which a
/// busy service should not pay for each request.
const IDLE_TICKS: u32 = 100;

/// See the module.
#[derive(Default)]
pub(crate) struct Ticker {
    running: AtomicUsize,
    parked: AtomicBool,
    engines: Mutex<Vec<EngineWeak>>,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread; it ends when the ticker is dropped.
    pub(crate) fn start() -> Arc<Self> {
        let ticker = Arc::new(Self::default());
        let weak = Arc::downgrade(&ticker);
        let spawned = std::thread::Builder::new().name("epochs".into()).spawn(move || run(&weak));
        match spawned {
            Ok(handle) => {
                // Set once, here.
                let _ = ticker.thread.set(handle.thread().clone());
            }
            Err(e) => tracing::error!(error = %e, "start the epoch thread: guests will not be interrupted"),
        }
        ticker
    }

    pub(crate) fn add(&self, engine: EngineWeak) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }

    /// A guest runs on this thread until the guard is dropped.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        Running(self)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// One tick; false once the thread may sleep.
    fn tick(&self, idle: &mut u32) -> bool {
        if self.running.load(Ordering::SeqCst) == 0 {
            *idle += 1;
            return *idle < IDLE_TICKS;
        }
        *idle = 0;
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| match engine.upgrade() {
            Some(engine) => {
                engine.increment_epoch();
                true
            }
            None => false,
        });
        true
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.wake();
    }
}

/// See [`Ticker::enter`].
pub(crate) struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run(ticker: &Weak<Ticker>) {
    let mut idle = 0;
    loop {
        let Some(strong) = ticker.upgrade() else { return };
        if strong.tick(&mut idle) {
            drop(strong);
            std::thread::sleep(TICK);
            continue;
        }
        strong.parked.store(true, Ordering::SeqCst);
        // Somebody who entered before the line above does not wake us: look again.
        let sleep = strong.running.load(Ordering::SeqCst) == 0;
        drop(strong);
        if sleep {
            std::thread::park();
        }
        idle = 0;
        if let Some(strong) = ticker.upgrade() {
            strong.parked.store(false, Ordering::SeqCst);
        }
    }
}
