//! Addresses of pods: ranges, the blocks of a node, and the pool that hands out single addresses. Pure;
//! time is an argument.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

/// Prefix length of the block that a node takes at a time.
pub const BLOCK_PREFIX: u8 = 24;
/// A dead pod's address rests this long before another pod gets it, so that a late packet or a stale name
/// does not reach a stranger.
const REST: Duration = Duration::from_secs(10);
/// Below this number of addresses a node that churns takes a further block instead of reusing early.
const SPARE: usize = 4096;

/// An IPv4 range in CIDR form; its address is the first of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: Ipv4Addr,
    prefix: u8,
}

/// The text is no IPv4 range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no IPv4 range: write ADDRESS/PREFIX with no bits set after the prefix, such as 10.128.0.0/10"
)]
pub struct InvalidCidr(pub String);

impl Cidr {
    /// The range, where `prefix` is at most 32 and `first` has no bit set after it.
    pub const fn new(first: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix > 32 {
            return None;
        }
        let range = Self { first, prefix };
        if first.to_bits() & !range.mask() == 0 { Some(range) } else { None }
    }

    /// The range of one address.
    pub const fn host(address: Ipv4Addr) -> Self {
        Self { first: address, prefix: 32 }
    }

    /// The first address.
    pub const fn first(self) -> Ipv4Addr {
        self.first
    }

    /// Prefix length, 0 to 32.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network mask as bits.
    pub const fn mask(self) -> u32 {
        if self.prefix == 0 { 0 } else { u32::MAX << (32 - self.prefix) }
    }

    /// True if the address is in the range.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.first.to_bits()
    }

    /// The blocks of `prefix` in this range, in order.
    pub fn blocks(self, prefix: u8) -> impl Iterator<Item = Cidr> {
        let count = 1_u64 << prefix.saturating_sub(self.prefix);
        let first = u64::from(self.first.to_bits());
        (0..count).map_while(move |n| {
            let start = first + (n << (32 - prefix));
            u32::try_from(start).ok().and_then(|bits| Cidr::new(Ipv4Addr::from_bits(bits), prefix))
        })
    }

    /// The addresses of a block that may be given to pods: not the first, which is the node's in its first
    /// block and nobody's in the others, nor the last, which some programs take for a broadcast.
    fn hosts(self) -> impl DoubleEndedIterator<Item = Ipv4Addr> {
        let size = 1_u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        (2..size.saturating_sub(1)).map(move |n| Ipv4Addr::from_bits(self.first.to_bits() + n))
    }

    /// The address that the node itself has, where this is its first block.
    pub const fn node_address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + 1)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Cidr::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

/// What [`Pool::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// This address is the caller's now.
    Address(Ipv4Addr),
    /// Claim a further block, give it to [`Pool::add_block`], and ask again.
    NeedsBlock,
}

/// The addresses of this node's blocks. Fresh ones are handed out first, then those that rested longest.
#[derive(Debug, Default)]
pub struct Pool {
    blocks: Vec<Cidr>,
    fresh: VecDeque<Ipv4Addr>,
    resting: VecDeque<(Ipv4Addr, Duration)>,
    used: HashSet<Ipv4Addr>,
}

impl Pool {
    /// Adds a block; the addresses in `used` are taken already. `after` is the address handed out last before
    /// a restart: those up to it come last, so that a restart does not reuse early either.
    pub fn add_block(&mut self, block: Cidr, used: &HashSet<Ipv4Addr>, after: Option<Ipv4Addr>) {
        self.blocks.push(block);
        let (mut later, mut sooner) = (VecDeque::new(), VecDeque::new());
        for address in block.hosts() {
            if used.contains(&address) {
                self.used.insert(address);
            } else if after.is_some_and(|after| block.contains(after) && address <= after) {
                later.push_back(address);
            } else {
                sooner.push_back(address);
            }
        }
        self.fresh.append(&mut sooner);
        self.fresh.append(&mut later);
    }

    /// The blocks in the order in which they were added.
    pub fn blocks(&self) -> &[Cidr] {
        &self.blocks
    }

    /// Number of addresses in use.
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    /// Takes an address. `now` counts from any fixed moment; `more` says whether a further block can be had.
    pub fn take(&mut self, now: Duration, more: MoreBlocks) -> Option<Taken> {
        let rested = self.resting.front().is_some_and(|(_, since)| now.saturating_sub(*since) >= REST);
        let early = more == MoreBlocks::None || self.resting.len() > self.used.len().max(SPARE);
        let address = match self.fresh.pop_front() {
            Some(address) => Some(address),
            None if rested || early => self.resting.pop_front().map(|(address, _)| address),
            None => None,
        };
        match (address, more) {
            (Some(address), _) => {
                self.used.insert(address);
                Some(Taken::Address(address))
            }
            (None, MoreBlocks::Available) => Some(Taken::NeedsBlock),
            (None, MoreBlocks::None) => None,
        }
    }

    /// Gives an address back. One that was not taken is ignored.
    pub fn give_back(&mut self, address: Ipv4Addr, now: Duration) {
        if self.used.remove(&address) {
            self.resting.push_back((address, now));
        }
    }
}

/// Whether the pod range has blocks left for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreBlocks {
    /// A further block can be claimed.
    Available,
    /// The range is used up.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn address(taken: Option<Taken>) -> Ipv4Addr {
        match taken {
            Some(Taken::Address(address)) => address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_are_read_and_shown() {
        for text in ["10.128.0.0/10", "0.0.0.0/0", "1.2.3.4/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "x/8", ""] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr(text.to_owned())));
        }
        assert!(cidr("10.128.0.0/10").contains(Ipv4Addr::new(10, 191, 255, 255)));
        assert!(!cidr("10.128.0.0/10").contains(Ipv4Addr::new(10, 192, 0, 0)));
        assert_eq!(cidr("10.128.0.0/10").blocks(24).count(), 16384);
        assert_eq!(cidr("10.128.0.0/24").node_address(), Ipv4Addr::new(10, 128, 0, 1));
    }

    #[test]
    fn a_dead_pods_address_rests() {
        let mut pool = Pool::default();
        pool.add_block(cidr("10.0.0.0/29"), &HashSet::new(), None);
        let seconds = Duration::from_secs;
        let all: Vec<_> = (0..5).map(|_| address(pool.take(seconds(0), MoreBlocks::Available))).collect();
        assert_eq!(all.first(), Some(&Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(pool.take(seconds(0), MoreBlocks::Available), Some(Taken::NeedsBlock));
        assert_eq!(pool.take(seconds(0), MoreBlocks::None), None);
        pool.give_back(all[3], seconds(1));
        pool.give_back(all[1], seconds(2));
        assert_eq!(pool.take(seconds(5), MoreBlocks::Available), Some(Taken::NeedsBlock));
        assert_eq!(address(pool.take(seconds(11), MoreBlocks::Available)), all[3]);
        assert_eq!(pool.take(seconds(11), MoreBlocks::Available), Some(Taken::NeedsBlock));
        assert_eq!(address(pool.take(seconds(11), MoreBlocks::None)), all[1]);
        assert_eq!(pool.in_use(), 5);
    }

    #[test]
    fn a_restart_goes_on_after_the_last_address() {
        let used = HashSet::from([Ipv4Addr::new(10, 0, 0, 2)]);
        let mut pool = Pool::default();
        pool.add_block(cidr("10.0.0.0/29"), &used, Some(Ipv4Addr::new(10, 0, 0, 4)));
        let order: Vec<_> =
            (0..4).map(|_| address(pool.take(Duration::ZERO, MoreBlocks::None)).octets()[3]).collect();
        assert_eq!(order, [5, 6, 3, 4]);
    }
}
