//! How many processors this process may use.
//!
//! The smaller of two numbers: the processors it may run on (affinity), and the time a control group lets it use, in
//! whole processors, rounded up: at a quota of 1.5 one worker could not use it all.

use std::fs;
use std::path::{Path, PathBuf};

/// The number of processors to make use of; at least 1.
pub fn available_cpus() -> usize {
    let quota = match (fs::read_to_string("/proc/self/cgroup"), fs::read_to_string("/proc/self/mountinfo")) {
        (Ok(groups), Ok(mounts)) => quota(&groups, &mounts, Path::new("/")),
        _ => None,
    };
    affinity().min(quota.unwrap_or(usize::MAX)).max(1)
}

/// Processors this thread may run on.
fn affinity() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set.count() as usize,
        // More processors than the set has room for: the standard library asks in another way.
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The tightest quota on the way from our group to the root, in whole processors; `None` when there is none.
///
/// `groups` and `mounts` are the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`; files are read below `root`.
fn quota(groups: &str, mounts: &str, root: &Path) -> Option<usize> {
    let groups = groups.lines().filter_map(Group::parse);
    let limits = groups.filter_map(|group| {
        let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.has(&group))?;
        group.quota(&mount, root)
    });
    limits.min()
}

/// A line of `/proc/self/cgroup`: `0::/path` for version 2, `4:cpu,cpuacct:/path` for version 1.
struct Group<'a> {
    unified: bool,
    path: &'a Path,
}

impl<'a> Group<'a> {
    /// Only groups that can limit processor time.
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, Path::new(parts.next()?));
        let unified = hierarchy == "0" && controllers.is_empty();
        let limits_cpu = unified || controllers.split(',').any(|name| name == "cpu");
        limits_cpu.then_some(Self { unified, path })
    }

    fn quota(&self, mount: &Mount<'_>, root: &Path) -> Option<usize> {
        // Inside a container the mount shows only a part of the tree. A path outside of it cannot be read at all.
        let below = self.path.strip_prefix(mount.root).or_else(|_| self.path.strip_prefix("/")).ok()?;
        let top = root.join(mount.point.strip_prefix("/").ok()?);
        let mut directory = top.join(below);
        let mut tightest = None;
        loop {
            let limit = if self.unified { read_unified(&directory) } else { read_legacy(&directory) };
            tightest = [tightest, limit].into_iter().flatten().min();
            if directory == top || !directory.pop() {
                return tightest;
            }
        }
    }
}

/// A line of `/proc/self/mountinfo`: `id parent dev root point options … - type source superoptions`.
struct Mount<'a> {
    root: &'a Path,
    point: PathBuf,
    kind: &'a str,
    super_options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mut right = right.split(' ');
        Some(Self {
            root: Path::new(left.next()?),
            // The kernel writes blanks in paths as octal numbers; other odd characters do not occur here.
            point: PathBuf::from(left.next()?.replace("\\040", " ")),
            kind: right.next()?,
            super_options: right.nth(1)?,
        })
    }

    fn has(&self, group: &Group<'_>) -> bool {
        match group.unified {
            true => self.kind == "cgroup2",
            false => self.kind == "cgroup" && self.super_options.split(',').any(|option| option == "cpu"),
        }
    }
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn read_unified(directory: &Path) -> Option<usize> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let mut parts = text.split_whitespace();
    whole_cpus(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)
}

/// `cpu.cfs_quota_us`: -1 or microseconds per period.
fn read_legacy(directory: &Path) -> Option<usize> {
    let read = |name| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<i64>().ok();
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    whole_cpus(u64::try_from(quota).ok()?, u64::try_from(period).ok()?)
}

fn whole_cpus(quota: u64, period: u64) -> Option<usize> {
    (period > 0).then(|| usize::try_from(quota.div_ceil(period).max(1)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("everycore-cpu-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn one_and_a_half_processors_are_two() {
        let tree = Tree::new("ceil", &[("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n")]);
        assert_eq!(quota("0::/a/b", UNIFIED, &tree.0), Some(2));
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let files =
            [("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"), ("sys/fs/cgroup/a/cpu.max", "300000 100000\n")];
        let tree = Tree::new("above", &files);
        assert_eq!(quota("0::/a/b", UNIFIED, &tree.0), Some(3));
    }

    #[test]
    fn no_quota_is_no_limit() {
        let tree = Tree::new("max", &[("sys/fs/cgroup/cpu.max", "max 100000\n")]);
        assert_eq!(quota("0::/", UNIFIED, &tree.0), None);
        assert_eq!(quota("", "", &tree.0), None);
        assert_eq!(quota("nonsense\n1:2", "- - -\n - \n", &tree.0), None);
    }

    #[test]
    fn version_one_inside_a_container() {
        let mounts = "33 29 0:30 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct";
        let files = [
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ];
        let tree = Tree::new("v1", &files);
        assert_eq!(quota("4:cpu,cpuacct:/docker/x\n3:memory:/docker/x", mounts, &tree.0), Some(1));
    }

    #[test]
    fn there_is_always_one() {
        assert!(available_cpus() >= 1);
    }
}
