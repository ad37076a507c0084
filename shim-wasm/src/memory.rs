//! Memory of a container: one account over the linear memories and tables of all its instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use wasmtime::ResourceLimiter;

/// Charged for a container as such: compiled code that is its own, buffers, tasks.
pub(crate) const FIXED_CHARGE: u64 = 1 << 20;
/// Bytes of a table entry.
const TABLE_ENTRY: u64 = 8;

/// See the module. Shared by all stores of a container.
#[derive(Debug)]
pub(crate) struct MemoryAccount {
    used: AtomicU64,
    limit: AtomicU64,
    refused: AtomicBool,
    stores: AtomicU64,
}

impl MemoryAccount {
    /// `limit` in bytes; `None` or not positive: none.
    pub(crate) fn new(limit: Option<i64>) -> Arc<Self> {
        let account = Self {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            refused: AtomicBool::new(false),
            stores: AtomicU64::new(0),
        };
        account.set_limit(limit);
        Arc::new(account)
    }

    pub(crate) fn set_limit(&self, limit: Option<i64>) {
        let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        self.limit.store(limit.map_or(u64::MAX, |limit| limit.saturating_sub(FIXED_CHARGE)), Relaxed);
    }

    /// Bytes in use, with the fixed charge.
    pub(crate) fn working_set(&self) -> u64 {
        self.used.load(Relaxed) + FIXED_CHARGE
    }

    /// Whether one instance that begins with so many bytes can ever run.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        bytes <= self.limit.load(Relaxed)
    }

    /// Instances that live.
    pub(crate) fn instances(&self) -> u64 {
        self.stores.load(Relaxed)
    }

    /// Whether growth was refused since this was last asked.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let before = self.used.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) <= self.limit.load(Relaxed) {
            return true;
        }
        self.used.fetch_sub(bytes, Relaxed);
        self.refused.store(true, Relaxed);
        false
    }
}

/// The part of one store; gives it back when the store is dropped.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    account: Arc<MemoryAccount>,
    taken: u64,
    /// What was granted last: given back when the engine cannot grow after all.
    last: u64,
}

impl MemoryLimiter {
    pub(crate) fn new(account: &Arc<MemoryAccount>) -> Self {
        account.stores.fetch_add(1, Relaxed);
        Self { account: Arc::clone(account), taken: 0, last: 0 }
    }

    /// `most` is what the program itself declares; beyond that the engine refuses whatever we say.
    fn grow(&mut self, current: u64, desired: u64, most: Option<u64>) -> bool {
        if most.is_some_and(|most| desired > most) {
            return false;
        }
        let more = desired.saturating_sub(current);
        let granted = self.account.take(more);
        if granted {
            self.taken += more;
            self.last = more;
        }
        granted
    }

    fn give_back_last(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.taken -= last;
        self.account.used.fetch_sub(last, Relaxed);
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.taken, Relaxed);
        self.account.stores.fetch_sub(1, Relaxed);
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current as u64, desired as u64, most.map(|most| most as u64)))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a memory did not grow");
        self.give_back_last();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |entries: usize| (entries as u64).saturating_mul(TABLE_ENTRY);
        Ok(self.grow(bytes(current), bytes(desired), most.map(bytes)))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a table did not grow");
        self.give_back_last();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_stores_is_limited_and_given_back() {
        let account = MemoryAccount::new(Some((FIXED_CHARGE + 1000) as i64));
        let mut one = MemoryLimiter::new(&account);
        let mut two = MemoryLimiter::new(&account);
        assert!(one.memory_growing(0, 600, None).unwrap());
        assert!(!two.memory_growing(0, 600, None).unwrap());
        assert!(account.take_refused() && !account.take_refused());
        assert!(two.table_growing(0, 50, None).unwrap());
        assert_eq!(account.working_set(), FIXED_CHARGE + 1000);
        drop(one);
        assert_eq!(account.working_set(), FIXED_CHARGE + 400);
        assert!(two.memory_growing(0, 600, None).unwrap());
        // More than the program declares is neither counted nor held against it; nor is what the engine refuses.
        assert!(!two.memory_growing(600, 700, Some(650)).unwrap() && !account.take_refused());
        account.set_limit(None);
        let before = account.working_set();
        assert!(two.table_growing(50, 60, None).unwrap());
        two.table_grow_failed(wasmtime::format_err!("no room")).unwrap();
        two.table_grow_failed(wasmtime::format_err!("twice")).unwrap();
        assert_eq!(account.working_set(), before);
        assert!(two.memory_growing(600, 1 << 40, None).unwrap());
    }
}
