//! The worker's end of the control channel: one reader that sorts, many who wait.
//!
//! Orders of the primary are carried out as they are read, answers go to whoever asked, messages of the program wait
//! in the inbox; `orders` has that half, here are what goes out and who is told. Nothing here waits: neighbours `driver`
//! (which reads and writes when the channel can) and `messages` (which waits, with and without a runtime). Under a
//! primary of Node's the same words go through `under_node`.

mod orders;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use everycore_ipc::{Connection, Flush, Message, Outgoing, SendError};
use everycore_sys::eventfd::EventFd;
use tokio::sync::{Notify, oneshot};

use super::drain::{Drain, Why};
use super::driver::Driver;
use super::inbox::{Inbox, Item, Room};
use super::load::Load;
use super::registration::{Grant, Index};
use super::secrets::Secrets;
use super::source::Source;
use super::trouble::Troubles;
use super::under_node::UnderNode;
use crate::error::{Error, Result};
use crate::protocol::{FromWorker, ListenFailure, Wanted};

/// What the answer to a `Listen` comes to.
pub(crate) type ListenAnswer = Result<Grant, ListenFailure>;

/// Who has asked for a listener. The index stays taken until the primary has answered, even if nobody waits any more: the
/// question is still out.
pub(crate) struct Asker {
    sender: oneshot::Sender<ListenAnswer>,
    index: Option<Index>,
}

/// See the module. Shared by everything in the worker.
pub(crate) struct Link {
    state: Mutex<State>,
    is_under_node: bool,
    pub(crate) drain: Arc<Drain>,
    pub(crate) load: Arc<Load>,
    troubles: Arc<Troubles>,
    /// Listeners this worker accepts on by itself, by key: the primary may add sockets to them.
    sources: Mutex<HashMap<u32, Weak<Source>>>,
    pub(crate) driver: Driver,
    /// For the driver: there is something to write, or room to read.
    pub(crate) nudged: Notify,
    /// As `nudged`, for a driver that is a thread.
    pub(crate) bell: EventFd,
    /// A message has come, or none will any more.
    pub(crate) arrived: Notify,
    /// Something was written, or never will be.
    pub(crate) room: Notify,
    /// For threads that wait, whatever for.
    changed: Condvar,
}

/// What the lock protects.
pub(crate) struct State {
    connection: Connection,
    inbox: Inbox,
    /// The primary is Node's.
    node: Option<Box<UnderNode>>,
    /// Nothing is read until then, for want of a descriptor.
    starved_until: Option<Instant>,
    /// Since when there has been none.
    starved_since: Option<Instant>,
    /// Words of our own that found the queue full.
    held_back: VecDeque<Message>,
    answers: HashMap<u64, oneshot::Sender<Result<Message>>>,
    listens: HashMap<u64, Asker>,
    /// A primary of Node's answers no question for a listener any more, since it knows that this worker leaves.
    unanswered: bool,
    leave_noted: Vec<oneshot::Sender<()>>,
    /// Once they were asked for and told.
    secrets: Option<Secrets>,
    want_secrets: Vec<oneshot::Sender<Secrets>>,
    next: u64,
    /// The turn of the loop in which a message was last written at once: later ones of that turn go together.
    wrote_in: Option<u64>,
    /// The last round of reading ended before the channel was seen empty.
    broke_off: bool,
    over: bool,
}

/// What the driver has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) to_read: bool,
    pub(crate) to_write: bool,
    pub(crate) until: Option<Instant>,
}

/// How a round of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Nothing more is there.
    Empty,
    /// There may be more; others first.
    More,
    /// The channel has ended.
    Over,
}

impl Link {
    pub(crate) fn new(
        connection: Connection,
        node: Option<Box<UnderNode>>,
        drain: Arc<Drain>,
        load: Arc<Load>,
        troubles: Arc<Troubles>,
    ) -> io::Result<Arc<Self>> {
        let link = Arc::new(Self {
            is_under_node: node.is_some(),
            state: Mutex::new(State {
                connection,
                inbox: Inbox::default(),
                node,
                starved_until: None,
                starved_since: None,
                held_back: VecDeque::new(),
                answers: HashMap::new(),
                listens: HashMap::new(),
                unanswered: false,
                leave_noted: Vec::new(),
                secrets: None,
                want_secrets: Vec::new(),
                next: 0,
                wrote_in: None,
                broke_off: false,
                over: false,
            }),
            drain,
            load,
            troubles,
            sources: Mutex::default(),
            driver: Driver::default(),
            nudged: Notify::new(),
            bell: EventFd::new()?,
            arrived: Notify::new(),
            room: Notify::new(),
            changed: Condvar::new(),
        });
        let due = Arc::downgrade(&link);
        link.lock().connection.on_due(move || {
            if let Some(link) = due.upgrade() {
                link.nudge();
            }
        });
        Ok(link)
    }

    /// A panic elsewhere cannot leave the state half-changed: every change is one call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, as a thread, for any change; `None` waits without end.
    pub(crate) fn wait_change<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match deadline {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// A descriptor to wait on; the channel itself stays here.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.lock().connection.as_fd().try_clone_to_owned()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Whether the primary is Node's `cluster`.
    pub(crate) fn is_under_node(&self) -> bool {
        self.is_under_node
    }

    /// Queues a message and writes it, unless one was written in this turn of the loop already: then it goes with
    /// what else the turn brings. True when something is left that nobody writes: then the channel needs a driver.
    pub(crate) fn post(&self, outgoing: Outgoing) -> Result<bool, SendError> {
        let turn = self.load.turn();
        let mut state = self.lock();
        if state.over {
            return Err(SendError::Closed(Box::new(outgoing)));
        }
        state.connection.queue(outgoing)?;
        if turn.is_some() && turn == state.wrote_in && self.driver.is_running() {
            self.nudge();
        } else {
            state.wrote_in = turn;
            self.flush_or_nudge(&mut state);
        }
        Ok(!state.is_flushed() && !self.driver.is_running())
    }

    /// Says something to the primary's library. Never refused: what finds the queue full goes before the next message.
    pub(crate) fn tell(&self, what: FromWorker) {
        let mut state = self.lock();
        if !state.over {
            state.say(what);
            self.flush_or_nudge(&mut state);
        }
    }

    /// Tells a primary of Node's what became of a connection.
    pub(crate) fn answer(&self, seq: i64, accepted: bool) {
        let mut state = self.lock();
        if !state.over {
            state.answer(seq, accepted);
            self.flush_or_nudge(&mut state);
        }
    }

    /// Gives up all servers of a primary of Node's: what waits on them is refused, and goes to others.
    pub(crate) fn close_servers(&self) {
        let mut state = self.lock();
        let Some(node) = &mut state.node else { return };
        let (words, deliveries) = node.close_all();
        state.held_back.extend(words);
        self.flush_or_nudge(&mut state);
        drop(state);
        // Each is answered as it is dropped, which takes the lock.
        deliveries.iter().for_each(|deliveries| drop(deliveries.clear()));
    }

    /// From now on the program accepts here.
    pub(crate) fn serves(&self, key: u32, source: &Arc<Source>) {
        self.sources().insert(key, Arc::downgrade(source));
    }

    /// The program has dropped its listener.
    pub(crate) fn serves_no_more(&self, key: u32) {
        self.sources().remove(&key);
    }

    fn source(&self, key: u32) -> Option<Arc<Source>> {
        self.sources().get(&key)?.upgrade()
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<u32, Weak<Source>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the primary for a listener.
    pub(crate) fn ask_listener(
        &self,
        what: Wanted,
        index: Option<Index>,
    ) -> Result<oneshot::Receiver<ListenAnswer>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.over {
            return Err(Error::PrimaryGone);
        }
        if state.unanswered {
            let _ = sender.send(Err(leaving()));
            return Ok(receiver);
        }
        state.next += 1;
        let request = state.next;
        state.listens.insert(request, Asker { sender, index });
        state.say(FromWorker::Listen { request, what });
        self.flush_or_nudge(&mut state);
        Ok(receiver)
    }

    /// How many questions for a listener are open.
    #[cfg(test)]
    pub(crate) fn unanswered_listens(&self) -> usize {
        self.lock().listens.len()
    }

    /// Asks the primary for the shared secrets, unless they are known already.
    pub(crate) fn ask_secrets(&self) -> Result<oneshot::Receiver<Secrets>> {
        if self.is_under_node {
            return Err(Error::Setting("the primary is Node's cluster, which shares no secrets".into()));
        }
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.over {
            return Err(Error::PrimaryGone);
        }
        if let Some(secrets) = &state.secrets {
            let _ = sender.send(secrets.clone());
        } else {
            state.want_secrets.push(sender);
            if state.want_secrets.len() == 1 {
                state.say(FromWorker::Secrets);
                self.flush_or_nudge(&mut state);
            }
        }
        Ok(receiver)
    }

    /// Opens a question to the program in the primary; the number goes out with it.
    pub(crate) fn open_request(&self) -> Result<(u64, oneshot::Receiver<Result<Message>>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.over {
            return Err(Error::Disconnected);
        }
        state.next += 1;
        let id = state.next;
        state.answers.insert(id, sender);
        Ok((id, receiver))
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn close_request(&self, id: u64) {
        self.lock().answers.remove(&id);
    }

    /// Tells the primary that this worker leaves by its own wish; the receiver hears when it has been noted.
    pub(crate) fn ask_to_leave(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.leave_noted.push(sender);
        state.say(FromWorker::Leaving);
        self.flush_or_nudge(&mut state);
        Some(receiver)
    }

    /// Takes the oldest message of the program.
    pub(crate) fn take(&self, state: &mut State) -> Option<Item> {
        let (item, room_again) = state.inbox.pop(Instant::now())?;
        if room_again {
            self.nudge();
        }
        Some(item)
    }

    /// Wakes the driver.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
        if self.driver.is_thread() {
            let _ = self.bell.ring();
        }
    }

    /// Writes what is queued; true when nothing is left.
    pub(crate) fn write(&self) -> bool {
        let mut state = self.lock();
        self.flush(&mut state);
        state.is_flushed()
    }

    /// Ends our side, after what was flushed, and goes on reading to the end of the other one.
    pub(crate) fn end_writing(&self) {
        self.lock().connection.shut_down();
        self.nudge();
    }

    /// Closes our side, after what was flushed.
    pub(crate) fn shut_down(&self) {
        let mut state = self.lock();
        state.connection.shut_down();
        self.end(&mut state);
    }

    /// What the driver should wait for.
    pub(crate) fn wait(&self, now: Instant) -> Wait {
        let state = self.lock();
        let room = state.inbox.room(now);
        let full_until = match room {
            Room::Full(until) => Some(until),
            Room::Free | Room::Overdue => None,
        };
        let throttled_until = state.connection.is_throttled().then(|| now + state.connection.retry_delay());
        let starved_until = state.starved_until.filter(|until| *until > now);
        Wait {
            to_read: full_until.is_none() && starved_until.is_none(),
            // Not for what waits until the primary has confirmed a handle: room alone moves none of that.
            to_write: state.connection.wants_write(),
            until: [full_until, throttled_until, starved_until].into_iter().flatten().min(),
        }
    }

    /// Begins the drain: listeners come to their end, and so do loops that wait for messages.
    pub(crate) fn leave(&self, why: Why) {
        self.drain.begin(why);
        self.arrived.notify_waiters();
        self.changed.notify_all();
    }

    /// For everyone but the driver, which finds out by itself that something is left.
    fn flush_or_nudge(&self, state: &mut State) {
        self.flush(state);
        if !state.is_flushed() {
            self.nudge();
        }
    }

    fn flush(&self, state: &mut State) {
        loop {
            state.queue_held_back();
            let before = state.connection.queued_bytes();
            match state.connection.flush() {
                // There was no room for all that was held back, and is now.
                Ok(Flush::Done)
                    if !state.held_back.is_empty() && state.connection.queued_bytes() < before => {}
                // A driver goes on after everybody else's turn; where there is none, nobody would.
                Ok(Flush::More) if !self.driver.is_running() => {}
                Ok(_) => break,
                // What the primary had sent may still be read; the reader finds the end.
                Err(_) => {
                    state.held_back.clear();
                    break;
                }
            }
        }
        self.room.notify_waiters();
        self.changed.notify_all();
    }

    /// The channel is no more: whoever waits for something from it hears so.
    fn end(&self, state: &mut State) {
        if std::mem::replace(&mut state.over, true) {
            return;
        }
        for (_, asker) in state.answers.drain() {
            let _ = asker.send(Err(Error::Disconnected));
        }
        state.listens.clear();
        state.leave_noted.clear();
        state.want_secrets.clear();
        state.held_back.clear();
        self.leave(Why::PrimaryGone);
        self.room.notify_waiters();
        self.changed.notify_all();
        self.nudge();
    }
}

/// Why there is no listener any more for a worker of Node's that leaves.
fn leaving() -> ListenFailure {
    let message = "this worker leaves its cluster, and Node's primary gives it no listener any more".into();
    ListenFailure { errno: 0, message }
}

impl State {
    /// The primary has answered what came before it knew that this worker leaves; the channel keeps the order.
    fn hears_no_more_of_listeners(&mut self) {
        self.unanswered = true;
        for (_, asker) in self.listens.drain() {
            let _ = asker.sender.send(Err(leaving()));
        }
    }

    /// Says something in the primary's words, after what was said before.
    fn say(&mut self, what: FromWorker) {
        self.held_back.extend(match &mut self.node {
            None => Some(Message::raw(what.encode())),
            Some(node) => node.say(what),
        });
    }

    /// Moves what was held back into the queue, as far as there is room.
    fn queue_held_back(&mut self) {
        while let Some(word) = self.held_back.pop_front() {
            match self.connection.queue(Outgoing::internal(word)) {
                Ok(()) => {}
                Err(SendError::Full(back)) => {
                    self.held_back.push_front(back.message);
                    break;
                }
                Err(_) => self.held_back.clear(),
            }
        }
    }

    fn answer(&mut self, seq: i64, accepted: bool) {
        if let Some(node) = &mut self.node {
            self.held_back.push_back(node.answer(seq, accepted));
        }
    }

    /// Whether a message may be queued: those of the program give way to what was held back.
    pub(crate) fn has_room(&self) -> bool {
        self.over || self.is_flushed()
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.held_back.is_empty() && self.connection.queued_bytes() == 0
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}
