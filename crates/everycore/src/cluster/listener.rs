//! The cluster's listening sockets, and who waits there.
//!
//! Below: `grants` says who holds which. Neighbours: `socket` binds them, `spread` accepts and hands over.

mod grants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use everycore_core::{ListenerKey, Primary, Slot, Time, WorkerId};
use everycore_sys::accept::{Accepted, accept};
use serde_json::Value;

use super::group::Group;
use super::handoff::Arrival;
use super::member::Member;
use super::peeks::Peeks;
use super::selector::Site;
use super::socket::{self, Bound, Options};
use super::sources::{Sources, Wake};
use super::spread::Drained;
use super::waiting::{ROOM, WaitingRoom};
use crate::address::{Address, BoundAddress};
use crate::error::{Error, advised};

/// First and longest pause after `accept` failed for want of descriptors or memory.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Members by id, as the loop keeps them.
pub(crate) type Members = BTreeMap<WorkerId, Member>;

/// One listening socket.
pub(crate) struct Listening {
    /// Bound before the workers started, under this name; such a listener stays until the cluster ends.
    pub(crate) name: Option<String>,
    asked: (Address, u32),
    pub(crate) bound: Bound,
    holders: BTreeSet<WorkerId>,
    /// Accepted, then given back by a worker, or kept until its first words had come; the next free one gets them first.
    pub(super) homeless: VecDeque<Arrival>,
    /// Accepted, each for a worker or a class that is busy.
    pub(super) room: WaitingRoom,
    /// Accepted, and nothing heard of them yet.
    pub(super) peeks: Peeks,
    /// Used where every slot has a socket of its own.
    group: Group,
    watched: bool,
    /// Connections may wait and nobody was free for them.
    pub(super) starved: bool,
    /// Somebody is free, but not for those who are next, and no more can be kept.
    pub(crate) held_up: bool,
    pub(super) pause: Option<Pause>,
    /// Connections accepted since the last workers were to leave, where their number has a bound.
    pub(super) rest: usize,
    /// All workers are there and none that stays holds it: when it is closed, should none ask for it before.
    abandoned: Option<Instant>,
    /// See [`Listeners::data`].
    data: Option<Value>,
}

pub(super) struct Pause {
    pub(super) until: Instant,
    length: Duration,
    why: String,
}

/// All listening sockets by key.
#[derive(Default)]
pub(crate) struct Listeners {
    pub(super) by_key: BTreeMap<ListenerKey, Listening>,
    /// Those that are looked after in each turn, whether epoll names them or not: starved, paused, or with somebody who was
    /// accepted and waits. A turn must not cost more because there are many others.
    cared_for: BTreeSet<ListenerKey>,
    /// How many the loop wakes for.
    watched: usize,
    last: u32,
    /// Numbers the connections that were peeked at.
    pub(super) last_peek: u32,
    pub(super) touched: Vec<WorkerId>,
    /// Addresses that workers have bound for themselves, each with those who told of it.
    own: BTreeMap<ListenerKey, (BoundAddress, BTreeSet<WorkerId>)>,
    /// Every slot has a socket of its own on each address.
    pub(crate) one_per_slot: bool,
    /// Programs hold the permanent sockets too, and whether a socket blocks is a matter of all who hold it.
    pub(crate) inherited: bool,
    /// Workers run as somebody else, for whom nothing is bound that was not bound before.
    pub(crate) permanent_only: bool,
    /// Connections handed over since the start.
    pub(crate) handed: u64,
    /// When a worker was last told who has the address it asked for.
    explained: Option<Explained>,
}

/// An answer with an owner in it, which is dear to find.
struct Explained {
    at: Instant,
    address: Address,
    errno: i32,
    message: String,
}

impl Listeners {
    /// Binds an address under a name, before any worker runs.
    pub(crate) fn bind(&mut self, name: String, address: Address, options: &Options) -> Result<(), Error> {
        let sockets = match &address {
            Address::Inherited(which) => socket::adopt(which, options)?,
            address => vec![socket::listen(address, options)?],
        };
        for bound in sockets {
            self.add(Some(name.clone()), (address.clone(), 0), bound);
        }
        Ok(())
    }

    fn add(&mut self, name: Option<String>, asked: (Address, u32), bound: Bound) -> ListenerKey {
        self.last += 1;
        let key = ListenerKey::new(self.last);
        self.by_key.insert(
            key,
            Listening {
                name,
                asked,
                bound,
                holders: BTreeSet::new(),
                homeless: VecDeque::new(),
                room: WaitingRoom::default(),
                peeks: Peeks::default(),
                group: Group::default(),
                watched: false,
                starved: false,
                held_up: false,
                pause: None,
                rest: 0,
                abandoned: None,
                data: None,
            },
        );
        key
    }

    /// Where each open listener is bound.
    pub(crate) fn bound_at(&self) -> BTreeMap<ListenerKey, BoundAddress> {
        let opened = self.by_key.iter().map(|(key, listening)| (*key, listening.bound.address.clone()));
        let own = self.own.iter().map(|(key, (address, _))| (*key, address.clone()));
        own.chain(opened).collect()
    }

    /// Where a listener is, whoever has bound it.
    pub(crate) fn address(&self, key: ListenerKey) -> Option<&BoundAddress> {
        self.by_key
            .get(&key)
            .map(|listening| &listening.bound.address)
            .or_else(|| self.own.get(&key).map(|(address, _)| address))
    }

    /// Makes the permanent sockets blocking: a program that inherits one finds it as from systemd.
    pub(crate) fn block(&self) -> io::Result<()> {
        self.permanent().try_for_each(|(_, bound)| Ok(rustix::io::ioctl_fionbio(&bound.socket, false)?))
    }

    pub(crate) fn get(&self, key: ListenerKey) -> Option<&Listening> {
        self.by_key.get(&key)
    }

    /// Those as people are told of them.
    pub(super) fn described(&self) -> impl Iterator<Item = (ListenerKey, String)> {
        self.by_key.iter().filter_map(|(key, listening)| Some((*key, listening.describe()?)))
    }

    /// Listeners bound before the workers started.
    pub(crate) fn permanent(&self) -> impl Iterator<Item = (&str, &Bound)> {
        self.by_key.values().filter_map(|listening| Some((listening.name.as_deref()?, &listening.bound)))
    }

    /// All workers are there: what workers bound and those who stay do not hold belongs to those before, and closes then.
    pub(crate) fn abandon(&mut self, until: Option<Instant>, stays: impl Fn(WorkerId) -> bool) {
        for listening in self.by_key.values_mut().filter(|listening| listening.name.is_none()) {
            if !listening.holders.iter().any(|worker| stays(*worker)) {
                listening.abandoned = listening.abandoned.or(until);
            }
        }
    }

    /// When the next abandoned listener is to be closed.
    pub(crate) fn next_abandoned(&self) -> Option<Instant> {
        self.by_key.values().filter_map(|listening| listening.abandoned).min()
    }

    /// Closes what has been abandoned for long enough.
    pub(crate) fn close_abandoned(&mut self, now: Instant, sources: &Sources) {
        let over = |listening: &Listening| listening.abandoned.is_some_and(|until| until <= now);
        let over: Vec<ListenerKey> =
            self.by_key.iter().filter(|(_, listening)| over(listening)).map(|(key, _)| *key).collect();
        over.into_iter().for_each(|key| self.close(key, sources));
    }

    /// The socket for a worker that accepts for itself, never to be blocked on.
    pub(crate) fn share(&mut self, key: ListenerKey, slot: u32) -> io::Result<OwnedFd> {
        let listening = self.by_key.get_mut(&key).ok_or(io::ErrorKind::NotFound)?;
        // Of a Unix socket there is but one.
        let is_inet = !matches!(listening.bound.address, BoundAddress::Unix(_));
        let socket = match self.one_per_slot && is_inet {
            true => listening.group.socket(&listening.bound, slot)?,
            false => listening.bound.socket.as_fd(),
        };
        rustix::io::ioctl_fionbio(socket, true)?;
        socket.try_clone_to_owned()
    }

    /// Makes the sockets that a worker of this slot inherits.
    pub(crate) fn prepare(&mut self, slot: u32) -> io::Result<()> {
        if self.one_per_slot {
            let mut permanent = self.by_key.values_mut().filter(|listening| listening.name.is_some());
            permanent.try_for_each(|listening| match listening.bound.address {
                BoundAddress::Unix(_) => Ok(()),
                _ => listening.group.socket(&listening.bound, slot).map(drop),
            })?;
        }
        Ok(())
    }

    /// The permanent sockets as a worker of this slot has them.
    pub(crate) fn inherited_by(&self, slot: u32) -> impl Iterator<Item = BorrowedFd<'_>> {
        let permanent = self.by_key.values().filter(|listening| listening.name.is_some());
        permanent.map(move |listening| listening.group.get(&listening.bound, slot))
    }

    /// A slot is gone, for good or for a while. Its sockets are closed where nobody else can serve them: what the kernel
    /// has for it goes to the others. Those of `programs`, which know no adoption, only if it `is_gone` for good.
    pub(crate) fn give_up(&mut self, slot: u32, is_gone: bool, programs: bool) {
        for listening in self.by_key.values_mut() {
            let is_udp = matches!(listening.bound.address, BoundAddress::Udp(_));
            if is_udp || programs && is_gone {
                listening.group.give_up(&mut listening.bound, slot);
            }
        }
    }

    /// Slots that have sockets of their own.
    pub(crate) fn known_slots(&self) -> impl Iterator<Item = u32> {
        self.by_key.values().flat_map(|listening| listening.group.slots())
    }

    /// Every socket that listens for one slot alone.
    pub(crate) fn slot_sockets(&self) -> impl Iterator<Item = (ListenerKey, Slot)> {
        let tcp = self.by_key.iter().filter(|(_, l)| matches!(l.bound.address, BoundAddress::Tcp(_)));
        tcp.flat_map(|(key, listening)| listening.group.slots().map(|slot| (*key, Slot::new(slot))))
    }

    /// To be called when what a listener needs may have changed.
    pub(super) fn care(&mut self, key: ListenerKey) {
        if self.by_key.get(&key).is_some_and(Listening::needs_care) {
            self.cared_for.insert(key);
        } else {
            self.cared_for.remove(&key);
        }
    }

    /// Those that are looked after in each turn.
    pub(super) fn cared_for(&self) -> impl Iterator<Item = (ListenerKey, &Listening)> {
        self.cared_for.iter().filter_map(|key| Some((*key, self.by_key.get(key)?)))
    }

    /// Lets nobody else into the queue of a listener that is to be closed; who is in it stays.
    pub(crate) fn admit_no_more(&mut self, key: ListenerKey) {
        // Whoever else holds an inherited socket goes on with it.
        if let Some(listening) = self.by_key.get(&key).filter(|listening| listening.bound.is_ours) {
            // A queue that admits none fills up at once: the kernel lets who comes later try again, and so find the
            // port closed, instead of being reset. If that fails, the time is the bound that workers have to drain.
            for socket in listening.group.all(&listening.bound) {
                let _ = rustix::net::listen(socket, 0);
            }
        }
    }

    /// Gives up a port.
    pub(crate) fn close(&mut self, key: ListenerKey, sources: &Sources) {
        let Some(mut listening) = self.by_key.remove(&key) else { return };
        listening.peeks.take_all(sources);
        if listening.watched {
            self.watched -= 1;
            sources.remove(&listening.bound.socket, Wake::Listener(key));
        }
        self.care(key);
    }

    /// Gives up every port.
    pub(crate) fn close_all(&mut self, sources: &Sources) {
        for key in self.by_key.keys().copied().collect::<Vec<_>>() {
            self.close(key, sources);
        }
    }

    /// Connections come back from a worker that did not take them: they are next, in their old order.
    pub(crate) fn take_back(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals.into_iter().rev() {
            if let Some(listening) = self.by_key.get_mut(&arrival.on) {
                let key = arrival.on;
                listening.homeless.push_front(arrival);
                listening.starved = true;
                self.care(key);
            }
        }
    }

    /// Keys whose connections wait for a free worker.
    pub(crate) fn starved(&self) -> Vec<ListenerKey> {
        self.cared_for().filter(|(_, listening)| listening.starved).map(|(key, _)| key).collect()
    }

    pub(crate) fn has_starved(&self) -> bool {
        self.cared_for().any(|(_, listening)| listening.starved)
    }

    /// Whether every listener that the loop wakes for is starved.
    pub(crate) fn all_starved(&self) -> bool {
        self.watched > 0
            && self.cared_for().filter(|(_, one)| one.watched && one.starved).count() == self.watched
    }

    /// The one listener that the loop wakes for, if it is just one.
    pub(crate) fn only_watched(&self) -> Option<ListenerKey> {
        let mut watched = self.by_key.iter().filter(|(_, listening)| listening.watched);
        if self.watched == 1 { watched.next().map(|(key, _)| *key) } else { None }
    }

    /// Keys with connections that wait for one worker each.
    pub(crate) fn waited_on(&self) -> impl Iterator<Item = ListenerKey> {
        self.cared_for().filter(|(_, listening)| !listening.room.is_empty()).map(|(key, _)| key)
    }

    /// Keys where such a wait is over.
    pub(crate) fn waits_over(&self, core: &Primary, now: Time) -> Vec<ListenerKey> {
        let over = self.cared_for().filter(|(key, listening)| listening.room.is_over(*key, core, now));
        over.map(|(key, _)| key).collect()
    }

    /// Watches a listener that is handed off, or stops watching it: between the two a worker that becomes free is
    /// the only thing that matters.
    pub(crate) fn watch(&mut self, key: ListenerKey, watch: bool, sources: &Sources) -> io::Result<()> {
        let Some(listening) = self.by_key.get_mut(&key) else { return Ok(()) };
        if listening.watched != watch {
            match watch {
                true => sources.add(&listening.bound.socket, Wake::Listener(key))?,
                false => sources.remove(&listening.bound.socket, Wake::Listener(key)),
            }
            listening.watched = watch;
            self.watched = if watch { self.watched + 1 } else { self.watched - 1 };
        }
        Ok(())
    }

    /// Nobody serves this listener for now: what waits there waits for the next worker.
    pub(crate) fn starve(&mut self, key: ListenerKey) -> Drained {
        if let Some(listening) = self.by_key.get_mut(&key) {
            listening.starved = true;
            self.care(key);
        }
        Drained::Unserved
    }

    /// When a paused listener is to be tried again, or a client has not said anything in time.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        // One that nobody could serve is looked at when somebody can.
        let waiting = self.cared_for().filter(|(_, listening)| !listening.starved);
        let retries = waiting.filter_map(|(_, listening)| Some(listening.pause.as_ref()?.until));
        let peeks = self.cared_for().filter_map(|(_, listening)| listening.peeks.next_deadline());
        retries.chain(peeks).min()
    }

    /// Listeners whose pause is over.
    pub(crate) fn retries(&self, now: Instant) -> Vec<ListenerKey> {
        let over = |listening: &Listening| listening.pause.as_ref().is_some_and(|pause| pause.until <= now);
        self.cared_for().filter(|(_, listening)| over(listening)).map(|(key, _)| key).collect()
    }

    /// Workers that were handed something since this was last asked.
    pub(crate) fn touched(&mut self) -> Option<WorkerId> {
        self.touched.pop()
    }
}

impl Listening {
    fn needs_care(&self) -> bool {
        self.starved || self.pause.is_some() || !self.has_nobody()
    }

    /// Whether the loop wakes for its connections.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether this is what a worker means by an address: as it was asked for, or as it was bound.
    fn is_at(&self, address: &Address, index: u32) -> bool {
        let (asked, asked_index) = &self.asked;
        // Several listeners on one address make sense only where each gets a port of its own.
        let same_index =
            *asked_index == index || self.name.is_some() || self.bound.address.port() == port(address);
        (asked == address && same_index)
            || matches!((address, &self.bound.address), (Address::Tcp(a), BoundAddress::Tcp(b)) if a == b)
    }

    /// `name (address)` of a permanent listener.
    fn describe(&self) -> Option<String> {
        Some(format!("{} ({})", self.name.as_deref()?, self.bound.address))
    }

    /// Nobody waits here who was accepted already.
    fn has_nobody(&self) -> bool {
        self.homeless.is_empty() && self.room.is_empty() && self.peeks.len() == 0
    }

    /// Whether one more can be kept waiting.
    pub(super) fn has_place(&self) -> bool {
        self.room.len() + self.peeks.len() < ROOM
    }

    /// What routing has to know of it.
    pub(super) fn site(&self) -> Site<'_> {
        Site { listener: self.name.as_deref().unwrap_or_default(), address: &self.bound.address }
    }

    /// The next connection, `None` when none waits.
    pub(super) fn next(&mut self, key: ListenerKey) -> io::Result<Option<Arrival>> {
        if let Some(arrival) = self.homeless.pop_front() {
            return Ok(Some(arrival));
        }
        if matches!(self.bound.address, BoundAddress::Udp(_)) {
            // Nothing is accepted here.
            return Ok(None);
        }
        match accept(self.bound.socket.as_fd()) {
            Ok(accepted) => {
                self.pause = None;
                Ok(accepted.map(|Accepted { socket, peer }| Arrival { on: key, peer, class: None, socket }))
            }
            Err(error) => {
                self.pause(&error);
                Err(error)
            }
        }
    }

    /// Whether it is too early to try to accept again.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.until > Instant::now())
    }

    /// Has `accept` not wait on a socket that others have, whatever they have made of it.
    pub(super) fn unblock(&self) {
        // Of an open socket of ours this cannot fail.
        let _ = rustix::io::ioctl_fionbio(&self.bound.socket, true);
    }

    /// Pauses, each time for longer.
    pub(super) fn pause(&mut self, error: &io::Error) {
        let length = self.pause.as_ref().map_or(PAUSE.0, |pause| (pause.length * 2).min(PAUSE.1));
        self.pause = Some(Pause { until: Instant::now() + length, length, why: advised(error) });
    }

    /// What kept it from accepting, while it pauses.
    pub(super) fn pauses_for(&self) -> Option<&str> {
        self.pause.as_ref().map(|pause| pause.why.as_str())
    }
}

/// The port asked for, 0 where there is none.
fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp(at) | Address::Udp(at) => Some(at.port()),
        Address::Any { port } => Some(*port),
        Address::Unix(_) | Address::Inherited(_) => None,
    }
}
