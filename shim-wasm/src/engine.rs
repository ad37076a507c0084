//! Engines: one per tier of features, process-wide, and the ticker of their epochs. The compile role
//! and the host build them from the same settings, so that compiled files fit.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::ticker::Ticker;

/// Instances that may live at a time in a shared host, per tier.
const POOL_SLOTS: u32 = 2000;
/// Core instances of one component: some toolchains use a dozen.
const CORE_PER_SLOT: u32 = 32;
/// Entries a table may have.
const TABLE_ELEMENTS: usize = 100_000;
/// Memory of a slot that stays mapped when only its dirty pages are reset.
const KEEP_RESIDENT: usize = 2 << 20;

/// What an engine can run. The smallest tier that accepts a binary is used: fewer features are
/// fewer ways to break out of the sandbox, and calls without concurrency cost less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tier {
    /// WASI 0.2 components and WASI p1 modules.
    P2,
    /// The same, with garbage collection and exceptions.
    P2Gc,
    /// WASI 0.3 components (component model with async).
    P3,
}

impl Tier {
    /// In the order in which they are tried.
    pub(crate) const ALL: [Self; 3] = [Self::P2, Self::P3, Self::P2Gc];
}

/// Whether many pods share the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Many pods: instances come from a pool, guests' addresses are confined to their pod's.
    Shared,
    /// One pod alone, in the network namespace of that pod.
    Solo,
}

/// Settings that decide the compiled code.
fn base(tier: Tier) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(tier == Tier::P3)
        .gc_support(tier == Tier::P2Gc)
        .wasm_exceptions(tier == Tier::P2Gc)
        .wasm_function_references(tier == Tier::P2Gc)
        .wasm_gc(tier == Tier::P2Gc)
        .wasm_component_model_async(tier == Tier::P3)
        .wasm_memory64(false)
        .native_unwind_info(false)
        .generate_address_map(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20));
    config
}

/// The engine of the compile role.
pub(crate) fn compiling(tier: Tier) -> wasmtime::Result<Engine> {
    Engine::new(&base(tier))
}

fn hosting(tier: Tier, isolation: Isolation) -> wasmtime::Result<Engine> {
    let mut config = base(tier);
    config.enable_compiler(false);
    if isolation == Isolation::Shared {
        config.allocation_strategy(pool(tier, memory_scan()));
    }
    Engine::new(&config)
}

fn pool(tier: Tier, scan: MemoryScan) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOL_SLOTS)
        .total_core_instances(POOL_SLOTS * CORE_PER_SLOT)
        .total_memories(POOL_SLOTS)
        .total_tables(POOL_SLOTS * 4)
        .total_stacks(POOL_SLOTS)
        .total_gc_heaps(if tier == Tier::P2Gc { POOL_SLOTS } else { 1 })
        .table_elements(TABLE_ELEMENTS)
        .max_component_instance_size(8 << 20)
        .max_core_instance_size(8 << 20);
    match scan {
        MemoryScan::Available => pool
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(64 << 10)
            .pagemap_scan(Enabled::Yes),
        MemoryScan::Missing(_) => pool.decommit_batch_size(16),
    };
    pool
}

/// Whether the kernel can tell which pages of an instance's memory are dirty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemoryScan {
    /// It can: resetting an instance costs what it touched.
    Available,
    /// It cannot; the reason. Instances are reset whole: slower, not broken.
    Missing(&'static str),
}

/// Looks at the kernel's version and at swap: a swapped-out dirty page would not be seen.
pub(crate) fn memory_scan() -> MemoryScan {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    judge_memory_scan(&release, &swaps)
}

fn judge_memory_scan(release: &str, swaps: &str) -> MemoryScan {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 7) {
        MemoryScan::Missing("the kernel is older than 6.7")
    } else if swaps.lines().count() > 1 {
        MemoryScan::Missing("swap is on")
    } else {
        MemoryScan::Available
    }
}

/// The engines of a host, made when first needed, and their ticker.
pub(crate) struct Engines {
    isolation: Isolation,
    made: [OnceLock<Result<Engine, String>>; 3],
    ticker: Arc<Ticker>,
}

impl Engines {
    pub(crate) fn new(isolation: Isolation) -> Self {
        Self { isolation, made: Default::default(), ticker: Ticker::start() }
    }

    /// The engine of a tier. An error is the same each time: mostly, address space that is missing.
    pub(crate) fn get(&self, tier: Tier) -> Result<&Engine, String> {
        let make = || {
            let engine = hosting(tier, self.isolation).map_err(|e| format!("{e:#}"))?;
            self.ticker.add(engine.weak());
            Ok(engine)
        };
        self.made[tier as usize].get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Makes the engine that most programs need ahead of the first of them: a few milliseconds.
    pub(crate) fn warm(&self) {
        if let Err(reason) = self.get(Tier::P2) {
            tracing::warn!(reason, "set up the wasm engine: no program will start");
        }
    }

    pub(crate) fn ticker(&self) -> &Arc<Ticker> {
        &self.ticker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_scan_needs_linux_6_7_without_swap() {
        let none = "Filename\tType\tSize\tUsed\tPriority\n";
        let some = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n";
        assert_eq!(judge_memory_scan("6.18.5", none), MemoryScan::Available);
        assert_eq!(judge_memory_scan("6.7.0-rc1", none), MemoryScan::Available);
        assert_eq!(judge_memory_scan("7.0", none), MemoryScan::Available);
        assert!(matches!(judge_memory_scan("6.1.0-31-amd64", none), MemoryScan::Missing(_)));
        assert!(matches!(judge_memory_scan("6.18.5", some), MemoryScan::Missing(_)));
        assert!(matches!(judge_memory_scan("", none), MemoryScan::Missing(_)));
    }
}
