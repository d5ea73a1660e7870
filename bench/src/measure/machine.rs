//! Who else was about while something was measured, and what machine it was.

use std::fs;
use std::time::Duration;

/// Clock ticks per second in `/proc/stat`; fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// The machine's accounts at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accounts {
    /// Time in which some process or the kernel ran, all CPUs.
    busy: Duration,
    /// Time the hypervisor gave to others.
    stolen: Duration,
}

impl Accounts {
    /// Reads them.
    pub(crate) fn now() -> Self {
        parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The share of the machine, 0 to 1, that went neither to idling nor to `ours` since `before`.
    pub(crate) fn foreign_share(&self, before: &Self, ours: Duration, elapsed: Duration) -> f64 {
        let busy = self.busy.saturating_sub(before.busy).saturating_sub(ours);
        let stolen = self.stolen.saturating_sub(before.stolen);
        (busy + stolen).as_secs_f64() / (elapsed.as_secs_f64() * cpus() as f64).max(1e-9)
    }
}

/// CPUs of this machine.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A line about the machine, and one about its kernel.
pub(crate) fn description() -> Vec<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |m| m.1);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        format!("{} CPUs ({model}), {} GiB", cpus(), kib.unwrap_or(0).div_ceil(1 << 20)),
        format!("Linux {} {}", release.trim(), std::env::consts::ARCH),
    ]
}

/// user nice system idle iowait irq softirq steal guest guest_nice; guest time is in user already.
fn parse(stat: &str) -> Accounts {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0);
    let seconds = |ticks: f64| Duration::from_secs_f64(ticks / TICKS);
    Accounts { busy: seconds(at(0) + at(1) + at(2) + at(5) + at(6)), stolen: seconds(at(7)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_ours_is_foreign() {
        let before = parse("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 2 3");
        let after = parse("cpu  200 0 200 1000 0 0 0 20 0 0\n");
        let second = Duration::from_secs(1);
        // 2 s were used, 1.8 s of them by us, 0.2 s were stolen: 0.4 s of the machine's.
        let share = after.foreign_share(&before, Duration::from_millis(1800), second);
        assert!((share - 0.4 / cpus() as f64).abs() < 1e-9, "{share}");
    }
}
