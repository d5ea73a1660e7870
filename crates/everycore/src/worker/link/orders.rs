//! What comes in on the channel: sorted, and orders carried out.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everycore_ipc::{ChannelError, Connection, Incoming, Message, Received};

use super::{Asker, Link, Read, State};
use crate::address::BoundAddress;
use crate::error::Error;
use crate::protocol::{FromWorker, ListenFailure, Mode, ToWorker};
use crate::worker::deliveries::{Answer, Deliveries, Delivery};
use crate::worker::drain::Why;
use crate::worker::inbox::{Item, Room};
use crate::worker::registration::{Claim, Grant, Registration};
use crate::worker::secrets::Secrets;
use crate::worker::source::Means;
use crate::worker::trouble::Trouble;
use crate::worker::under_node::{Heard, UnderNode};

/// Messages read in one go; then others get their turn.
const READ_AT_ONCE: usize = 128;

/// Words that may wait for room in the channel before a dropped question is left to its deadline: a primary that does
/// not read its channel either must not fill our memory.
const HELD_BACK: usize = 1024;

/// How long a worker without a free descriptor leaves the channel of a Node primary unread before it looks for one again.
const STARVED: Duration = Duration::from_millis(10);

/// After so long without one it reads all the same: the primary may have orders.
const STARVED_LONGEST: Duration = Duration::from_secs(5);

/// What is dropped when the lock is released, because it takes the lock itself.
#[derive(Default)]
struct Afterwards {
    /// Listeners nobody waits for any more.
    unwanted: Vec<Claim>,
    /// Perhaps the last that knew of these.
    deliveries: Vec<Arc<Deliveries>>,
    /// How the primary broke the protocol: for the program's hook, which may do anything.
    broke: Option<String>,
}

impl Link {
    /// Reads and sorts what has come.
    pub(crate) fn read(self: &Arc<Self>, now: Instant) -> Read {
        let mut afterwards = Afterwards::default();
        let mut state = self.lock();
        let (dropped, lost) = (state.inbox.dropped(), state.lost());
        let mut read = Read::More;
        for _ in 0..READ_AT_ONCE {
            if state.over {
                read = Read::Over;
                break;
            }
            if matches!(state.inbox.room(now), Room::Full(_)) || state.is_starved(now) {
                break;
            }
            match state.receive() {
                Ok(Received::Message(incoming)) => self.sort(&mut state, incoming, now, &mut afterwards),
                // A large message is on its way.
                Ok(Received::More) => break,
                // Might still be what it saw when the last round broke off; what has come since rang only once.
                Ok(Received::Blocked) if std::mem::take(&mut state.broke_off) => {}
                Ok(Received::Blocked) => {
                    read = Read::Empty;
                    break;
                }
                // `PartialFrame`: it died in the middle of a word.
                Ok(Received::Closed) | Err(ChannelError::PartialFrame { .. }) => self.end(&mut state),
                Err(error) => afterwards.broke = Some(error.to_string()),
            }
            if afterwards.broke.is_some() {
                break;
            }
        }
        state.broke_off = read == Read::More;
        if state.node.is_some() {
            // Node sends nothing more until it hears that a handle has arrived.
            self.flush(&mut state);
            // A driver that is a thread looks again before it sleeps, and its bell would keep it from that.
            if !state.is_flushed() && !self.driver.is_thread() {
                self.nudge();
            }
        }
        let (count, now_lost) = (state.inbox.dropped(), state.lost());
        let broke = afterwards.broke.take();
        drop(state);
        drop(afterwards);
        self.changed.notify_all();
        if let Some(reason) = broke {
            // A primary that breaks the protocol is no primary: drain and leave, as if it had died, but not without a word.
            self.troubles.tell(&Trouble::PrimaryBroke { reason });
            self.end(&mut self.lock());
            return Read::Over;
        }
        if count > dropped {
            self.troubles.tell(&Trouble::MessagesDropped { count });
        }
        if now_lost > lost {
            self.troubles.tell(&Trouble::HandlesLost { count: now_lost });
        }
        read
    }

    fn sort(
        self: &Arc<Self>,
        state: &mut State,
        incoming: Incoming,
        now: Instant,
        afterwards: &mut Afterwards,
    ) {
        match incoming {
            Incoming::User(message) => self.keep(state, Item { message, request: None }, now),
            Incoming::Request { id, message } => self.keep(state, Item { message, request: Some(id) }, now),
            Incoming::Reply { id, message } => {
                if let Some(asker) = state.answers.remove(&id) {
                    let _ = asker.send(Ok(message));
                }
            }
            Incoming::Internal(message) => match &mut state.node {
                Some(node) => {
                    let heard = node.hear(message);
                    self.obey_node(state, heard, afterwards);
                }
                None => match ToWorker::decode(message.bytes()) {
                    Ok(order) => afterwards.unwanted.extend(self.obey(state, order, message)),
                    Err(error) => afterwards.broke = Some(error.to_string()),
                },
            },
        }
    }

    /// Carries out what a primary of Node's says.
    fn obey_node(self: &Arc<Self>, state: &mut State, heard: Heard, afterwards: &mut Afterwards) {
        match heard {
            Heard::Granted { request, key, means, address } => {
                if let Means::Delivered(deliveries) = &means {
                    afterwards.deliveries.push(Arc::clone(deliveries));
                }
                let registration = Registration::new(Arc::clone(self), key);
                let asker = state.listens.remove(&request);
                afterwards.unwanted.extend(give(asker, registration, Ok((means, address, false))));
            }
            Heard::Refused { request, failure, close } => {
                state.held_back.extend(close);
                refuse(state.listens.remove(&request), failure);
            }
            Heard::Connection { on, seq, socket } => {
                on.push(Delivery { socket, answer: Answer::new(Arc::clone(self), seq) });
                afterwards.deliveries.push(on);
            }
            Heard::Unwanted { seq } => state.answer(seq, false),
            Heard::Disconnect => {
                state.hears_no_more_of_listeners();
                self.leave(Why::Asked);
            }
            Heard::LeaveNoted => {
                state.hears_no_more_of_listeners();
                state.leave_noted();
            }
            Heard::Other => {}
        }
    }

    fn keep(&self, state: &mut State, item: Item, now: Instant) {
        let request = item.request;
        if state.inbox.push(item, now) {
            self.arrived.notify_one();
        } else if let Some(request) = request
            && state.held_back.len() < HELD_BACK
        {
            // Whoever asked hears so now, not at the deadline.
            state.say(FromWorker::Unheard { request });
            self.nudge();
        }
    }

    /// Carries out an order; gives back a listener that nobody waits for.
    fn obey(self: &Arc<Self>, state: &mut State, order: ToWorker, mut message: Message) -> Option<Claim> {
        match order {
            ToWorker::Disconnect { stopping } => {
                self.leave(if stopping { Why::Stopping } else { Why::Asked });
            }
            ToWorker::LeaveNoted => state.leave_noted(),
            ToWorker::Granted { request, key, mode, address, more } => {
                let registration = Registration::new(Arc::clone(self), key);
                let asker = state.listens.remove(&request);
                let Some(handle) = message.take_handle() else {
                    return give(asker, registration, Err(no_room_for_listener()));
                };
                let means = match mode {
                    Mode::HandOff => Means::HandOff(handle.into_fd()),
                    Mode::Shared => Means::Shared(handle.into_fd()),
                };
                return give(asker, registration, Ok((means, address, more)));
            }
            ToWorker::Adopt { key, slot } => {
                // Without its descriptor, or without the listener, it is as if it had not been asked: the slot waits for
                // its own worker, and the primary hears of a listener that was dropped.
                if let (Some(source), Some(handle)) = (self.source(key), message.take_handle()) {
                    let _ = source.adopt(slot, handle.into_fd());
                }
            }
            ToWorker::Release { key, slot } => {
                if let Some(source) = self.source(key) {
                    source.release(slot);
                }
            }
            ToWorker::Refused { request, failure } => {
                refuse(state.listens.remove(&request), failure);
            }
            ToWorker::Secrets(set) => match &state.secrets {
                Some(secrets) => secrets.replace(set),
                None => {
                    let secrets = state.secrets.insert(Secrets::new(set)).clone();
                    for asker in state.want_secrets.drain(..) {
                        let _ = asker.send(secrets.clone());
                    }
                }
            },
            ToWorker::Unheard { request } => {
                if let Some(asker) = state.answers.remove(&request) {
                    let _ = asker.send(Err(Error::Unheard));
                }
            }
            // There is one, and it was the first frame.
            ToWorker::Welcome(_) => {}
        }
        None
    }
}

impl State {
    /// A primary of Node's never again sends a connection to a worker that had no room for one: so nothing is read while
    /// there is none. What it sends waits in the channel.
    fn is_starved(&mut self, now: Instant) -> bool {
        let Self { node: Some(node), connection, starved_since, starved_until, .. } = self else {
            return false;
        };
        if starved_until.is_some_and(|until| now < until) {
            return true;
        }
        let since = *starved_since.get_or_insert(now);
        if node.spare.make_room(&*connection).is_ok() || now >= since + STARVED_LONGEST {
            (*starved_since, *starved_until) = (None, None);
            return false;
        }
        *starved_until = Some(now + STARVED);
        true
    }

    fn lost(&self) -> u64 {
        self.node.as_ref().map_or(0, |node| node.lost)
    }

    fn receive(&mut self) -> Result<Received, ChannelError> {
        let received = self.connection.receive();
        if let Some(node) = &mut self.node {
            learn(node, &self.connection, received.as_ref().ok());
        }
        received
    }

    /// Whoever waits for the primary to know that this worker leaves waits no longer.
    fn leave_noted(&mut self) {
        for asker in self.leave_noted.drain(..) {
            let _ = asker.send(());
        }
    }
}

/// Sees how close this process is to its limit, and holds a descriptor in reserve where it is.
fn learn(node: &mut UnderNode, connection: &Connection, received: Option<&Received>) {
    let lost = connection.faults().lost_handles;
    if std::mem::replace(&mut node.lost, lost) < lost {
        node.spare.learn(None);
    }
    if let Some(Received::Message(incoming)) = received
        && let Some(handle) = incoming.message().handles().first()
    {
        node.spare.learn(Some(handle.as_fd()));
    }
    node.spare.restore(connection);
}

/// Answers whoever asked for a listener that was granted; gives it back when nobody does any more, or it cannot be used.
fn give(
    asker: Option<Asker>,
    registration: Registration,
    granted: Result<(Means, BoundAddress, bool), ListenFailure>,
) -> Option<Claim> {
    let Some(Asker { sender, index }) = asker else { return Some(Claim { registration, _index: None }) };
    let claim = Claim { registration, _index: index };
    match granted {
        Ok((means, address, more)) => {
            let unwanted = sender.send(Ok(Grant { means, address, more, claim })).err()?;
            unwanted.ok().map(|grant| grant.claim)
        }
        Err(failure) => {
            let _ = sender.send(Err(failure));
            Some(claim)
        }
    }
}

/// Tells whoever asked for a listener that there is none.
fn refuse(asker: Option<Asker>, failure: ListenFailure) {
    // The index is free before the answer is seen: who asks again at once gets the same.
    if let Some(Asker { sender, index }) = asker {
        drop(index);
        let _ = sender.send(Err(failure));
    }
}

fn no_room_for_listener() -> ListenFailure {
    let error = io::Error::from(rustix::io::Errno::MFILE);
    ListenFailure {
        errno: rustix::io::Errno::MFILE.raw_os_error(),
        message: format!(
            "the listener was granted, but its descriptor did not arrive: {}",
            crate::error::advised(&error)
        ),
    }
}
