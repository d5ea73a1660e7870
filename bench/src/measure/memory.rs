//! What a process weighs.

use std::fs;

/// Sizes in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident: every page it has mapped and touched.
    pub(crate) rss: u64,
    /// Proportional: pages shared with others count in parts.
    pub(crate) pss: u64,
}

/// Of one process; zeros when it is gone.
pub(crate) fn of(pid: u32) -> Memory {
    parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default())
}

fn parse(rollup: &str) -> Memory {
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    Memory { rss: field("Rss:").unwrap_or(0), pss: field("Pss:").unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_read() {
        let rollup =
            "55da-7ffc ---p 0 00:00 0 [rollup]\nRss:    1752 kB\nPss:     284 kB\nPss_Dirty: 112 kB\n";
        assert_eq!(parse(rollup), Memory { rss: 1752, pss: 284 });
        assert!(of(std::process::id()).rss > 0);
    }
}
