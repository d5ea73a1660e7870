//! What workers say on their channels, and how they end.

use std::collections::VecDeque;

use everycore_core::{Event as CoreEvent, ExitStatus, ListenerKey, WorkerId};
use everycore_ipc::{ChannelError, Incoming, Message, Outgoing, Received, SendError};
use everycore_sys::signals::number::KILL;

use super::driver::{Driver, later};
use super::event::Event;
use super::handoff::HandOff;
use super::member::{Side, Written};
use super::node::unconfirmed;
use super::sources::Wake;
use crate::address::BoundAddress;
use crate::error::{Error, advised};
use crate::protocol::{FromWorker, ListenFailure, Mode, ToWorker, VERSION, Wanted};

/// What is read and written in one turn of the loop, whoever the workers are, in messages and in units of [`UNIT`] bytes:
/// however much they have to say, connections do not wait for it.
const TURN: usize = 256;

/// See [`TURN`].
const UNIT: usize = 1024;

/// Turns read of a worker that has ended: more than its channel can hold, unless somebody else still writes to it.
const LAST_TURNS: usize = 64;

/// Bytes queued to one worker from which on they are written without waiting for the end of the turn.
const EARLY: usize = 64 * 1024;

/// Workers whose channels the loop has something to do with.
#[derive(Default)]
pub(super) struct Channels {
    /// To be looked after, in turn: something came, or one turn was not enough.
    waiting: VecDeque<WorkerId>,
    /// With words queued in this turn: all of one worker's go out together.
    unsent: Vec<WorkerId>,
}

impl Channels {
    /// Whether none is to be looked after.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn attend(&mut self, worker: WorkerId) {
        if !self.waiting.contains(&worker) {
            self.waiting.push_back(worker);
        }
    }

    fn send_later(&mut self, worker: WorkerId) {
        if !self.unsent.contains(&worker) {
            self.unsent.push(worker);
        }
    }
}

impl Driver {
    /// Sees to a worker's channel in this turn, or in one of the next when others have more to say than one turn takes.
    pub(super) fn attend(&mut self, worker: WorkerId) {
        self.channels.attend(worker);
    }

    /// Reads what workers have said and writes what there is room for, one worker after the other, as much as is fair to
    /// everything else.
    pub(super) fn serve_channels(&mut self) {
        let mut left = TURN;
        for _ in 0..self.channels.waiting.len() {
            if left == 0 {
                return;
            }
            let Some(worker) = self.channels.waiting.pop_front() else { return };
            if self.read_turn(worker, &mut left) {
                self.attend(worker);
            }
        }
    }

    /// One worker's part of it; true when there may be more to read. Writes as well: what it said may have let more go.
    fn read_turn(&mut self, worker: WorkerId, left: &mut usize) -> bool {
        let wrote = self.flush_channel(worker);
        let more = self.read_messages(worker, left);
        self.take_undelivered(worker);
        if wrote == Written::Some {
            *left = 0;
        } else {
            self.flush_channel(worker);
        }
        more
    }

    fn read_messages(&mut self, worker: WorkerId, left: &mut usize) -> bool {
        while *left > 0 {
            let Some(link) = self.members.get_mut(&worker).and_then(|member| member.link.as_mut()) else {
                return false;
            };
            match link.connection.receive() {
                Ok(Received::Message(incoming)) => {
                    *left = left.saturating_sub(1 + incoming.message().bytes().len() / UNIT);
                    self.receive(worker, incoming);
                    self.carry_out_effects();
                }
                Ok(Received::More) => {
                    *left = 0;
                    return true;
                }
                Ok(Received::Blocked) => return false,
                // `PartialFrame`: it died in the middle of a word.
                Ok(Received::Closed) | Err(ChannelError::PartialFrame { .. }) => {
                    self.disconnected(worker);
                    return false;
                }
                Err(error) => {
                    self.break_off(worker, error.to_string());
                    return false;
                }
            }
        }
        true
    }

    /// Queues words to a worker, to be written with all others of this turn.
    pub(super) fn queue(&mut self, worker: WorkerId, outgoing: Outgoing) -> Result<(), SendError> {
        let Some(member) = self.members.get_mut(&worker) else { return Ok(()) };
        member.queue(outgoing)?;
        if member.link.as_ref().is_some_and(|link| link.connection.queued_bytes() >= EARLY) {
            self.flush_channel(worker);
        } else {
            self.channels.send_later(worker);
        }
        Ok(())
    }

    /// Writes what was queued in this turn.
    pub(super) fn send_unsent(&mut self) {
        while let Some(worker) = self.channels.unsent.pop() {
            self.flush_channel(worker);
        }
    }

    /// Writes what is queued, as far as there is room and as much as is fair; of more than that, the rest in the next turn.
    pub(super) fn flush_channel(&mut self, worker: WorkerId) -> Written {
        let Some(link) = self.members.get_mut(&worker).and_then(|member| member.link.as_mut()) else {
            return Written::All;
        };
        let watched = link.watches_writes;
        // The end of the channel shows when it is read, with whatever came before it.
        let Ok(written) = link.flush() else { return Written::All };
        if link.watches_writes != watched {
            // Not being told of room delays a message until the worker next says something; nothing is lost.
            let _ = self.sources.watch_writes(&link.connection, worker, link.watches_writes);
        }
        if written == Written::Some {
            self.attend(worker);
        }
        written
    }

    fn receive(&mut self, worker: WorkerId, incoming: Incoming) {
        match incoming {
            Incoming::Internal(message) => match self.members.get(&worker).map(|member| &member.side) {
                Some(Side::Library(_)) => match FromWorker::decode(message.bytes()) {
                    Ok(message) => self.hear(worker, message),
                    Err(error) => self.break_off(worker, error.to_string()),
                },
                Some(Side::Node(_)) => self.hear_node(worker, &message),
                None => {}
            },
            Incoming::User(message) => self.receive_user(worker, message),
            Incoming::Request { id, .. } if self.is_unobserved() => self.decline(worker, id),
            Incoming::Request { id, message } => {
                let worker = self.info(worker);
                self.tell(Event::Request { worker, id, message });
            }
            Incoming::Reply { id, message } => {
                if let Some(member) = self.members.get_mut(&worker) {
                    member.requests.close(id, Ok(message));
                }
            }
        }
    }

    /// Nobody will answer this question of a worker's. A Node worker asks none.
    pub(super) fn decline(&mut self, worker: WorkerId, request: u64) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        if !matches!(member.side, Side::Library(_)) {
            return;
        }
        match member.tell(&ToWorker::Unheard { request }, Vec::new()) {
            Ok(()) => {
                self.flush_channel(worker);
            }
            // It does not read; what it asked is over for it when its own time is.
            Err(error) => {
                let reason = format!("cannot be told that nobody answers request {request}: {error}");
                let worker = self.info(worker);
                self.tell(Event::Error { worker, reason });
            }
        }
    }

    fn receive_user(&mut self, worker: WorkerId, message: Message) {
        if self.readying.is_told_by_message() && says_ready(&message) {
            self.order(CoreEvent::Ready { worker });
        }
        let worker = self.info(worker);
        self.tell(Event::Message { worker, message });
    }

    fn hear(&mut self, worker: WorkerId, message: FromWorker) {
        match message {
            FromWorker::Hello { version } => self.join(worker, version),
            FromWorker::Listen { request, what } => self.listen(worker, request, what),
            FromWorker::Listening { key } => {
                let listener = ListenerKey::new(key);
                if !self.listeners.is_held(listener, worker) {
                    return self
                        .break_off(worker, format!("says it listens on {key}, which it was never given"));
                }
                self.listening(worker, listener);
            }
            FromWorker::Closed { key } => {
                let listener = ListenerKey::new(key);
                // It may have closed here meanwhile. Of one it was never given there is nothing to close either.
                if self.listeners.is_held(listener, worker) {
                    self.closed_listener(worker, listener);
                }
            }
            FromWorker::Secrets => self.share_secrets(worker),
            FromWorker::Ready => self.order(CoreEvent::Ready { worker }),
            FromWorker::Leaving => {
                self.order(CoreEvent::Leaving { worker });
                self.reply(worker, &ToWorker::LeaveNoted, Vec::new());
            }
            FromWorker::Unheard { request } => {
                if let Some(member) = self.members.get_mut(&worker) {
                    member.requests.close(request, Err(Error::QueueFull { worker: worker.get() }));
                }
            }
        }
    }

    /// The worker serves this listener.
    pub(super) fn listening(&mut self, worker: WorkerId, listener: ListenerKey) {
        self.order(CoreEvent::Listening { worker, listener });
        if self.members.get(&worker).is_some_and(|member| member.holds(listener)) {
            // Handed over: looked at in this turn, and watched from then on.
            self.listeners.starve(listener);
        }
        if self.readying.is_seen() {
            self.order(CoreEvent::Ready { worker });
        }
    }

    /// The worker serves this listener no longer.
    pub(super) fn closed_listener(&mut self, worker: WorkerId, listener: ListenerKey) {
        self.order(CoreEvent::StoppedListening { worker, listener });
        if let Some(channel) = self.members.get_mut(&worker).and_then(|member| member.close_handoff(listener))
        {
            self.remains.push((worker, channel));
            self.read_remains();
        }
        let leaving = self.core.is_leaving(worker);
        self.listeners.closed_by(worker, listener, &self.sources, leaving, later(self.deadlines.drain));
    }

    fn join(&mut self, worker: WorkerId, version: u64) {
        if version != VERSION {
            return self.break_off(
                worker,
                format!("speaks version {version} of the channel, this primary {VERSION}; build both from one release"),
            );
        }
        if let Some(member) = self.members.get_mut(&worker)
            && member.joined
        {
            return self.break_off(worker, "said hello twice".into());
        }
        self.online(worker);
    }

    /// The worker is there.
    pub(super) fn online(&mut self, worker: WorkerId) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.joined = true;
        }
        self.readying.joined(worker);
        self.order(CoreEvent::Online { worker });
    }

    fn listen(&mut self, worker: WorkerId, request: u64, what: Wanted) {
        let granted = self.granting(worker, |driver| driver.grant(worker, request, what));
        let (answer, handles) = match granted {
            Ok((answer, handle)) => (answer, vec![handle]),
            Err(failure) => (ToWorker::Refused { request, failure }, Vec::new()),
        };
        self.reply(worker, &answer, handles);
    }

    /// Has `grant` open a listener for a worker, all of it or nothing: what the worker was to have and did not get is
    /// nobody's.
    pub(super) fn granting<T>(
        &mut self,
        worker: WorkerId,
        grant: impl FnOnce(&mut Self) -> Result<T, ListenFailure>,
    ) -> Result<T, ListenFailure> {
        let (held, before) = (self.listeners.held_by(worker), self.listeners.last_key());
        let granted = grant(self);
        if granted.is_err() {
            for key in self.listeners.held_by(worker).into_iter().filter(|key| !held.contains(key)) {
                self.listeners.ungrant(worker, key, before, &self.sources);
            }
        }
        granted
    }

    fn grant(
        &mut self,
        worker: WorkerId,
        request: u64,
        what: Wanted,
    ) -> Result<(ToWorker, std::os::fd::OwnedFd), ListenFailure> {
        let system = |error: std::io::Error| ListenFailure {
            errno: error.raw_os_error().unwrap_or(0),
            message: format!("the primary cannot pass the listener on: {}", advised(&error)),
        };
        let key = self.listeners.grant(worker, what)?;
        let Some(listening) = self.listeners.get(key) else {
            return Err(ListenFailure { errno: 0, message: "the listener closed meanwhile".into() });
        };
        let address = listening.bound.address.clone();
        let slot = self.info(worker).slot;
        let more = self.listeners.has_more(key);
        // Nothing is accepted from a datagram socket: whoever reads it gets the datagram.
        let mode = if matches!(address, BoundAddress::Udp(_)) { Mode::Shared } else { self.mode };
        let handle = match mode {
            Mode::Shared => self.listeners.share(key, slot).map_err(system)?,
            Mode::HandOff => {
                let Some(member) = self.members.get_mut(&worker) else {
                    return Err(ListenFailure { errno: 0, message: "the worker is gone".into() });
                };
                let (channel, workers_end) = HandOff::new(key).map_err(system)?;
                if let Side::Library(library) = &mut member.side {
                    library.open(channel);
                }
                workers_end
            }
        };
        Ok((ToWorker::Granted { request, key: key.get(), mode, address, more }, handle))
    }

    fn reply(&mut self, worker: WorkerId, message: &ToWorker, handles: Vec<std::os::fd::OwnedFd>) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.tell(message, handles) {
            Ok(()) => {
                self.flush_channel(worker);
            }
            Err(error) => self.break_off(worker, format!("cannot be answered: {error}")),
        }
    }

    /// Ends the channel of a worker that does not keep to the protocol: it costs only itself.
    pub(super) fn break_off(&mut self, worker: WorkerId, reason: String) {
        let info = self.info(worker);
        self.tell(Event::Error { worker: info, reason });
        let joined = self.members.get(&worker).is_some_and(|member| member.joined);
        self.disconnected(worker);
        if !joined {
            // It never became a worker, so nothing waits for it to leave.
            self.order(CoreEvent::Kill { worker, signal: KILL });
        }
    }

    fn disconnected(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        member.requests.disconnect();
        if let Some(mut link) = member.link.take() {
            self.sources.remove(&link.connection, Wake::Channel(worker));
            if let Side::Node(node) = &mut member.side {
                link.connection.shut_down();
                let unconfirmed = unconfirmed(&link.connection.take_undelivered());
                self.core.returned(worker, node.end(&unconfirmed));
            }
        }
        // A program that never joined has no use for its channel: its end says nothing about the program.
        let joined = member.joined;
        self.shared.disconnected(worker.get());
        if joined {
            self.order(CoreEvent::Disconnected { worker });
        }
    }

    /// A worker process has ended: what it wrote before comes first.
    pub(super) fn reap(&mut self, worker: WorkerId) {
        let Some(process) = self.members.get(&worker).and_then(|member| member.process.as_ref()) else {
            return;
        };
        let status = match process.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => return,
            Err(_) => everycore_sys::WaitStatus::Unknown,
        };
        self.sources.remove(process, Wake::Process(worker));
        // Everything it wrote is here by now. A grandchild that holds the channel open does not keep us waiting, nor one
        // that writes without end.
        for _ in 0..LAST_TURNS {
            if !self.read_turn(worker, &mut TURN.clone()) {
                break;
            }
        }
        if let Some(member) = self.members.get_mut(&worker) {
            member.process = None;
        }
        self.end_group(self.info(worker));
        self.disconnected(worker);
        self.carry_out_effects();
        let status = match status {
            everycore_sys::WaitStatus::Code(code) => ExitStatus::Code(code),
            everycore_sys::WaitStatus::Signal { signal, .. } => ExitStatus::Signal(signal),
            everycore_sys::WaitStatus::Unknown => ExitStatus::Unknown,
        };
        // A program that does its work and ends is no failure, however ready it was.
        if !status.is_success() && self.readying.was_mistaken(worker, std::time::Instant::now()) {
            self.order(CoreEvent::Mistaken { worker });
        }
        self.order(CoreEvent::Exited { worker, status });
    }
}

/// PM2's habit, in its two spellings.
fn says_ready(message: &Message) -> bool {
    match message.parse::<serde_json::Value>() {
        Ok(serde_json::Value::String(text)) => text == "ready",
        Ok(value) => value.get("ready").and_then(serde_json::Value::as_bool).unwrap_or(false),
        Err(_) => false,
    }
}
