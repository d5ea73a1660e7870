//! Who was granted which listener: what workers ask for is found or bound, and held until they give it back or end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use everycore_core::{ListenerKey, WorkerId};
use rustix::io::Errno;
use serde_json::Value;

use super::{Explained, Listeners, Listening};
use crate::address::{Address, BoundAddress};
use crate::cluster::socket::{self, Options};
use crate::cluster::sources::Sources;
use crate::error::Error;
use crate::protocol::{ListenFailure, Wanted};

/// Listeners one worker may have open; a worker that asks for more is out of order, not in need.
pub(super) const PER_WORKER: usize = 1024;

/// How often a worker is told at most who has the address it asks for.
const EXPLAINS: Duration = Duration::from_secs(1);

/// Listeners that may be open for replacements to come.
pub(super) const ORPHANS: usize = 1024;

impl Listeners {
    /// Knows an address that a worker has bound for itself, until it is gone. There may be too many to be true.
    pub(crate) fn note_own(
        &mut self,
        worker: WorkerId,
        address: BoundAddress,
    ) -> Result<ListenerKey, ListenFailure> {
        let has_room =
            self.own.values().filter(|(_, tellers)| tellers.contains(&worker)).count() < PER_WORKER;
        match self.own.iter_mut().find(|(_, (known, _))| *known == address) {
            Some((key, (_, tellers))) if has_room || tellers.contains(&worker) => {
                tellers.insert(worker);
                Ok(*key)
            }
            None if has_room => {
                self.last += 1;
                let key = ListenerKey::new(self.last);
                self.own.insert(key, (address, BTreeSet::from([worker])));
                Ok(key)
            }
            Some(_) | None => {
                let message =
                    format!("worker {worker} has told of {PER_WORKER} addresses of its own already");
                Err(refusal(Errno::MFILE, message))
            }
        }
    }

    /// Finds or binds what a worker asks for.
    pub(crate) fn grant(&mut self, worker: WorkerId, wanted: Wanted) -> Result<ListenerKey, ListenFailure> {
        self.check_limit(worker)?;
        let key = match wanted {
            Wanted::Named { name, place } => {
                let found = self.named(&name).nth(usize::try_from(place).unwrap_or(usize::MAX));
                found.ok_or_else(|| refusal(Errno::NOENT, Error::NoSuchListener { name }.to_string()))?
            }
            Wanted::Bound { address, index, backlog } => {
                self.bound(None, address, index, &Options { backlog, ..Options::default() })?
            }
        };
        if let Some(listening) = self.by_key.get(&key)
            && listening.holders.contains(&worker)
        {
            let address = &listening.bound.address;
            return Err(refusal(
                Errno::ADDRINUSE,
                format!("bind {address}: this worker listens there already"),
            ));
        }
        self.hold(worker, key);
        Ok(key)
    }

    fn hold(&mut self, worker: WorkerId, key: ListenerKey) {
        if let Some(listening) = self.by_key.get_mut(&key) {
            // A worker that asks for it is one that uses the library, and from here on nobody may block on it: the
            // mode belongs to the socket, not to its holders. Of an open socket of ours this cannot fail.
            let _ = rustix::io::ioctl_fionbio(&listening.bound.socket, true);
            listening.holders.insert(worker);
            listening.abandoned = None;
        }
    }

    /// As [`grant`](Self::grant), for an address with all that Node says about it.
    pub(crate) fn grant_bound(
        &mut self,
        worker: WorkerId,
        address: Address,
        index: u32,
        options: &Options,
    ) -> Result<ListenerKey, ListenFailure> {
        self.check_limit(worker)?;
        let key = self.bound(Some(worker), address, index, options)?;
        self.hold(worker, key);
        Ok(key)
    }

    /// As [`grant`](Self::grant), for the inherited descriptor of this number, counted as `LISTEN_FDS` counts.
    pub(crate) fn grant_numbered(
        &mut self,
        worker: WorkerId,
        number: usize,
    ) -> Result<ListenerKey, ListenFailure> {
        self.check_limit(worker)?;
        let key = self.numbered(number).ok_or_else(|| {
            refusal(Errno::BADF, format!("the primary has no listening socket number {number}"))
        })?;
        if self.is_held(key, worker) {
            return Err(refusal(
                Errno::ADDRINUSE,
                format!("socket number {number}: this worker listens on it already"),
            ));
        }
        self.hold(worker, key);
        Ok(key)
    }

    /// The inherited listener at this place.
    fn numbered(&self, place: usize) -> Option<ListenerKey> {
        let permanent = self.by_key.iter().filter(|(_, listening)| listening.name.is_some());
        permanent.map(|(key, _)| *key).nth(place)
    }

    fn check_limit(&self, worker: WorkerId) -> Result<(), ListenFailure> {
        let held = self.by_key.values().filter(|listening| listening.holders.contains(&worker)).count();
        if held >= PER_WORKER {
            return Err(refusal(Errno::MFILE, format!("worker {worker} has {held} listeners open already")));
        }
        Ok(())
    }

    /// The listeners of one name, in the order in which they were bound.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = ListenerKey> + 'a {
        let named = self.by_key.iter().filter(move |(_, listening)| listening.name.as_deref() == Some(name));
        named.map(|(key, _)| *key)
    }

    /// Whether another address follows this one under its name.
    pub(crate) fn has_more(&self, key: ListenerKey) -> bool {
        let name = self.get(key).and_then(|listening| listening.name.as_deref());
        name.is_some_and(|name| self.named(name).any(|other| other > key))
    }

    /// Finds or binds an address; for `another` of this worker's, one that it does not hold yet.
    fn bound(
        &mut self,
        another: Option<WorkerId>,
        address: Address,
        index: u32,
        options: &Options,
    ) -> Result<ListenerKey, ListenFailure> {
        let held = |listening: &Listening| another.is_some_and(|worker| listening.holders.contains(&worker));
        let known = self.by_key.iter().filter(|(_, listening)| listening.is_at(&address, index));
        let (mine, others) = known.partition::<Vec<_>, _>(|(_, listening)| held(listening));
        if let Some((key, _)) = others.first() {
            return Ok(**key);
        }
        if !mine.is_empty() && !options.reuse_address {
            return Err(refusal(
                Errno::ADDRINUSE,
                format!("bind {address}: this worker listens there already"),
            ));
        }
        let named: Vec<String> = self.by_key.values().filter_map(|listening| listening.describe()).collect();
        if !named.is_empty() {
            return Err(refusal(
                Errno::ACCESS,
                format!(
                    "bind {address}: this cluster serves {} only; have the primary bind it, too (Cluster::bind; on the command line: add -b {address}, or leave -b out)",
                    named.join(", ")
                ),
            ));
        }
        if self.permanent_only {
            return Err(refusal(
                Errno::ACCESS,
                format!(
                    "bind {address}: workers run as another user than the primary, which binds for them only what it was told to; add -b {address}, or Cluster::bind"
                ),
            ));
        }
        // Workers may ask in vain without end, and each answer with an owner costs a look at every process.
        let recent = self.explained.as_ref().filter(|last| last.at.elapsed() < EXPLAINS);
        let hurried = recent.is_some();
        match socket::listen(&address, &Options { hurried, ..options.clone() }) {
            Ok(bound) => Ok(self.add(None, (address, index), bound)),
            Err(Error::Bind { source, message, .. }) => {
                let errno = source.raw_os_error().unwrap_or(0);
                let message = match recent.filter(|last| (&last.address, last.errno) == (&address, errno)) {
                    // All workers ask for the same one: the owner was just found.
                    Some(last) => last.message.clone(),
                    None => message,
                };
                if !hurried {
                    self.explained =
                        Some(Explained { at: Instant::now(), address, errno, message: message.clone() });
                }
                Err(ListenFailure { errno, message })
            }
            Err(other) => Err(ListenFailure { errno: 0, message: other.to_string() }),
        }
    }

    /// A worker dropped its listener. The last one to do so of its own will closes the port, unless it is permanent or
    /// somebody waits there, for whom it stays until `until`. One that drops it because it was told to leave does not: its
    /// replacement wants it.
    pub(crate) fn closed_by(
        &mut self,
        worker: WorkerId,
        key: ListenerKey,
        sources: &Sources,
        leaving: bool,
        until: Option<Instant>,
    ) {
        let Some(listening) = self.by_key.get_mut(&key) else { return };
        let last = listening.holders.remove(&worker) && listening.holders.is_empty();
        if !last || listening.name.is_some() {
            return;
        }
        if leaving {
            self.bound_orphans(sources);
        } else if listening.has_nobody() {
            self.close(key, sources);
        } else {
            // Who was accepted already is served by whoever asks for the address next, if that is soon.
            listening.abandoned = listening.abandoned.or(until);
        }
    }

    /// The key of the listener that was bound last.
    pub(crate) fn last_key(&self) -> u32 {
        self.last
    }

    /// A worker was not given what it was granted. One that was there `before` waits for whoever it waited for.
    pub(crate) fn ungrant(&mut self, worker: WorkerId, key: ListenerKey, before: u32, sources: &Sources) {
        if let Some(listening) = self.by_key.get_mut(&key) {
            listening.holders.remove(&worker);
            if key.get() > before && listening.holders.is_empty() && listening.name.is_none() {
                self.close(key, sources);
            }
        }
    }

    /// Listeners without a holder wait for a replacement that asks for them, and there are only so many of them: those
    /// that have waited longest close.
    fn bound_orphans(&mut self, sources: &Sources) {
        let is_orphan = |listening: &Listening| listening.name.is_none() && listening.holders.is_empty();
        let orphans: Vec<ListenerKey> =
            self.by_key.iter().filter(|(_, listening)| is_orphan(listening)).map(|(key, _)| *key).collect();
        for key in orphans.iter().take(orphans.len().saturating_sub(ORPHANS)) {
            self.close(*key, sources);
        }
    }

    /// A worker is gone; its listeners stay open for its replacement.
    pub(crate) fn forget(&mut self, worker: WorkerId, sources: &Sources) {
        for listening in self.by_key.values_mut() {
            listening.holders.remove(&worker);
        }
        self.bound_orphans(sources);
        self.own.retain(|_, (_, tellers)| {
            tellers.remove(&worker);
            !tellers.is_empty()
        });
    }

    /// What the first worker that asked for a listener has kept there for the others.
    pub(crate) fn data(&mut self, key: ListenerKey, first: Value) -> Value {
        match self.by_key.get_mut(&key) {
            Some(listening) => listening.data.get_or_insert(first).clone(),
            None => first,
        }
    }

    /// Keys a worker was granted.
    pub(crate) fn held_by(&self, worker: WorkerId) -> Vec<ListenerKey> {
        let held = self.by_key.iter().filter(|(_, listening)| listening.holders.contains(&worker));
        held.map(|(key, _)| *key).collect()
    }

    /// Whether a worker was granted this listener.
    pub(crate) fn is_held(&self, key: ListenerKey, worker: WorkerId) -> bool {
        self.by_key.get(&key).is_some_and(|listening| listening.holders.contains(&worker))
    }
}

fn refusal(errno: Errno, message: String) -> ListenFailure {
    ListenFailure { errno: errno.raw_os_error(), message }
}
