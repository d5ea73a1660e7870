//! The environment of a child: ours with changes, without what was meant for us alone.
//!
//! Where a name occurs twice programs take the first, so a stale variable ahead of the right one would break a child's
//! channel. Nothing occurs twice here.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

/// The number of the channel's descriptor. Node's name for it; ours too, so that either finds it.
pub(crate) const CHANNEL_FD: &str = "NODE_CHANNEL_FD";

/// How messages are written: `json` and `advanced` as Node says it, `native` between Rust programs.
pub(crate) const SERIALIZATION_MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// Which socket the channel is, so that the child can tell it from another one that happens to have its number. Only
/// with `native`: a Node process in between would pass it on to children that it does not belong to. Not
/// `EVERYCORE_CHANNEL`: that is a cluster's, and its workers look for both.
pub(crate) const CHANNEL_IDENTITY: &str = "EVERYCORE_CHANNEL_IDENTITY";

/// Makes a Node program the worker of a cluster.
pub(crate) const UNIQUE_ID: &str = "NODE_UNIQUE_ID";

/// Variables that were meant for this process and nobody it starts: a child that found them would take a descriptor it
/// has not for its channel, say that somebody else is ready, or count itself among a cluster's workers. A child of ours,
/// forked or a cluster's, has them only where they are set for it.
pub const OURS_ALONE: &[&str] = &[
    // Of a parent, Node or not, and of `node --watch`.
    CHANNEL_FD,
    SERIALIZATION_MODE,
    CHANNEL_IDENTITY,
    UNIQUE_ID,
    "WATCH_REPORT_DEPENDENCIES",
    // Of a service manager, and of a cluster in its place.
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    // Of a cluster.
    "EVERYCORE_CHANNEL",
    "EVERYCORE_NAME",
    "EVERYCORE_WORKER",
    "EVERYCORE_SLOT",
    "EVERYCORE_GENERATION",
    "EVERYCORE_CLASS",
    "EVERYCORE_PRELOAD",
];

/// How a child's environment differs from ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    cleared: bool,
    /// In the order they were asked for; `None` removes.
    changes: Vec<(OsString, Option<OsString>)>,
}

impl Environment {
    pub(super) fn change(&mut self, name: OsString, value: Option<OsString>) {
        self.changes.retain(|(changed, _)| *changed != name);
        self.changes.push((name, value));
    }

    /// Nothing is inherited, and what was changed so far is forgotten.
    pub(super) fn clear(&mut self) {
        self.cleared = true;
        self.changes.clear();
    }

    /// The whole block: `first` (the channel's variables), the changes, then what is inherited.
    pub(super) fn build(&self, first: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
        self.build_from(first, std::env::vars_os())
    }

    fn build_from(
        &self,
        first: Vec<(OsString, OsString)>,
        inherited: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let mut seen: HashSet<OsString> = self.changes.iter().map(|(name, _)| name.clone()).collect();
        seen.extend(OURS_ALONE.iter().map(OsString::from));
        let mut block = first;
        let own: HashSet<OsString> = block.iter().map(|(name, _)| name.clone()).collect();
        let changes = self.changes.iter().filter(|(name, _)| !own.contains(name.as_os_str()));
        block.extend(changes.filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
        if !self.cleared {
            // Names without a letter, as a shell may leave them, are nothing that could be set again.
            block.extend(inherited.filter(|(name, _)| name != OsStr::new("") && seen.insert(name.clone())));
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn inherited_once_changed_and_without_what_was_ours() {
        let inherited = pairs(&[
            ("PATH", "/bin"),
            ("A", "old"),
            ("B", "first"),
            ("B", "second"),
            ("GONE", "x"),
            (CHANNEL_FD, "9"),
            (UNIQUE_ID, "4"),
            ("NOTIFY_SOCKET", "@x"),
            ("EVERYCORE_CHANNEL", "3,1:2"),
        ]);
        let mut environment = Environment::default();
        environment.change("A".into(), Some("older".into()));
        environment.change("A".into(), Some("new".into()));
        environment.change("GONE".into(), None);
        let block = environment.build_from(pairs(&[(CHANNEL_FD, "3")]), inherited.into_iter());
        assert_eq!(block, pairs(&[(CHANNEL_FD, "3"), ("A", "new"), ("PATH", "/bin"), ("B", "first")]));
    }

    #[test]
    fn what_is_set_for_the_child_reaches_it_but_not_over_the_channel() {
        let mut environment = Environment::default();
        environment.clear();
        environment.change(UNIQUE_ID.into(), Some("1".into()));
        environment.change(CHANNEL_FD.into(), Some("7".into()));
        let block =
            environment.build_from(pairs(&[(CHANNEL_FD, "3")]), pairs(&[("PATH", "/bin")]).into_iter());
        assert_eq!(block, pairs(&[(CHANNEL_FD, "3"), (UNIQUE_ID, "1")]));
    }
}
