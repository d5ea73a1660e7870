//! The same worker for the same source address, as long as it can be.

use std::net::{IpAddr, SocketAddr};

use super::{Candidate, Candidates, LeastConnections, SchedulingPolicy};
use crate::id::{Slot, WorkerId};

/// Ranks the slots for each source address by rendezvous hashing and picks the worker in the first of them, even when
/// it is busy: the connection then waits for it. Ports do not count, and an IPv4 address is the same inside IPv6.
///
/// Slots are ranked and not workers, so a restart or a reload moves nobody for longer than it takes, and a slot more
/// or less moves only those who go to it or come from it. Where there is no source address, as on a Unix socket, the
/// worker with the fewest live connections is picked.
#[derive(Clone, Debug, Default)]
pub struct Sticky {
    without_source: LeastConnections,
}

impl SchedulingPolicy for Sticky {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let Some(from) = candidates.from else { return self.without_source.pick(candidates) };
        let source = digest(from);
        let busy = candidates.busy.iter().filter(|_| !candidates.overflow);
        // During a replacement two workers share a slot: the newer one stays.
        let rank = |candidate: &&Candidate| (weight(source, candidate.slot), candidate.worker);
        candidates.free.iter().chain(busy).max_by_key(rank).map(|candidate| candidate.worker)
    }

    fn may_wait(&self) -> bool {
        true
    }
}

/// Of an address without its port, one number that differs with every bit.
fn digest(from: SocketAddr) -> u64 {
    let bits = match from.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    mix(mix(bits as u64) ^ (bits >> 64) as u64)
}

/// How much a slot wants this source. Independent for every slot: that is what keeps the others where they are.
fn weight(source: u64, slot: Slot) -> u64 {
    mix(source ^ mix(u64::from(slot.get()) + 1))
}

/// SplitMix64's last step after its increment: every bit of the result depends on every bit given.
fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
