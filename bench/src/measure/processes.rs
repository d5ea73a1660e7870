//! A process and all its descendants, as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;

/// The process itself first, then its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in all() {
        children.entry(parent).or_default().push(pid);
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next) {
        let more = children.remove(parent).unwrap_or_default();
        tree.extend(more);
        next += 1;
    }
    tree
}

/// The children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    all().filter(|(_, of)| *of == parent).map(|(pid, _)| pid).collect()
}

/// Every process and its parent.
fn all() -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
    })
}

/// The fourth field; the second one is a name that may contain anything.
fn parent(stat: &str) -> Option<u32> {
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_move_the_fields() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("garbage"), None);
    }

    #[test]
    fn our_own_tree_starts_with_us() {
        assert_eq!(tree(std::process::id())[0], std::process::id());
    }
}
