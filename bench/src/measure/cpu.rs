//! CPU time of a server, from the scheduler's accounts: nanoseconds, all threads of all processes.
//!
//! A thread that ends takes its account along, so the figure is for stretches in which nobody ends. Kernel work done on
//! behalf of a process is in it, including what loopback makes it do for its peer.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// CPU time the living threads of these processes have used.
pub(crate) fn used(processes: &[u32]) -> Duration {
    used_each(processes).values().sum()
}

/// The same, one by one.
pub(crate) fn used_each(processes: &[u32]) -> BTreeMap<u32, Duration> {
    processes.iter().map(|pid| (*pid, process(*pid))).collect()
}

/// CPU time the calling process has used.
pub(crate) fn own() -> Duration {
    process(std::process::id())
}

fn process(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos: u64 = threads
        .filter_map(|thread| {
            let account = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            account.split_ascii_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_account() {
        let before = own();
        let mut sum = 0u64;
        // What a thread of another test has used goes with it when it ends.
        while own().saturating_sub(before) < Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
