//! Weighs the workers now and then, where their memory is limited.
//!
//! What is in memory of the worker's own process, not of children it has. The core decides what follows.

use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, WorkerId};

use super::driver::Driver;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// When to look again.
pub(super) struct Scales(Option<Instant>);

impl Scales {
    pub(super) fn new(in_use: bool, now: Instant) -> Self {
        Self(in_use.then(|| now + EVERY))
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0
    }
}

impl Driver {
    /// Tells the core how large each worker is, when it is time.
    pub(super) fn weigh(&mut self, now: Instant) {
        if self.scales.0.is_none_or(|next| now < next) {
            return;
        }
        self.scales.0 = Some(now + EVERY);
        let running: Vec<(WorkerId, u32)> = self
            .members
            .iter()
            .filter(|(_, member)| member.process.is_some())
            .filter_map(|(worker, member)| Some((*worker, member.info.pid?)))
            .collect();
        for (worker, pid) in running {
            if let Some(resident) = resident(pid) {
                self.order(CoreEvent::Memory { worker, resident });
            }
        }
    }
}

/// Bytes of a process that are in memory; `None` for one that has just ended.
fn resident(pid: u32) -> Option<u64> {
    let sizes = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = sizes.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_weighs_what_it_has_touched() {
        let before = resident(std::process::id()).unwrap();
        let block = vec![1_u8; 32 << 20];
        let after = resident(std::process::id()).unwrap();
        assert!(after >= before + (24 << 20), "{before} then {after}");
        drop(block);
        assert_eq!(resident(u32::MAX), None);
    }
}
