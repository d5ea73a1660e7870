//! [`Primary`]: how any thread talks to the running primary.
//!
//! Orders are queued and the primary's one thread is woken; nothing here touches a worker itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::Duration;

use everycore_core::Urgency;
use everycore_ipc::{Handle, Message};
use everycore_sys::eventfd::EventFd;
use serde::Serialize;
use tokio::sync::oneshot;

use super::node::{NodeSettings, WorkerPipes};
use super::snapshot::Snapshot;
use crate::error::{Error, Result};

/// Orders waiting for the primary's thread beyond which new ones are refused: a callback that sends in a loop, or
/// a primary that no longer runs, must not grow memory without bound.
const ORDERS: usize = 65_536;

/// Bytes queued to one worker beyond which `send` refuses: it does not read.
pub(crate) const QUEUED_BYTES: usize = 64 << 20;

/// Bytes of the program's on their way to one worker, so that `send` can refuse.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    /// In orders that the primary's thread has not carried out.
    ordered: AtomicUsize,
    /// On the channel, for the worker to read.
    unread: AtomicUsize,
}

impl Queued {
    fn reserve(&self, bytes: usize) -> bool {
        let queued = self.ordered.load(Ordering::Relaxed) + self.unread.load(Ordering::Relaxed);
        if queued > QUEUED_BYTES {
            return false;
        }
        self.ordered.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// An order is carried out, or never given.
    pub(crate) fn release(&self, bytes: usize) {
        self.ordered.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So much waits on the channel now.
    pub(crate) fn unread(&self, bytes: usize) {
        self.unread.store(bytes, Ordering::Relaxed);
    }
}

/// Something the primary's thread is asked to do.
pub(crate) enum Order {
    Send { worker: u32, message: Message },
    Request { worker: u32, message: Message, timeout: Duration, reply: oneshot::Sender<Result<Message>> },
    Reply { worker: u32, id: u64, message: Message },
    Decline { worker: u32, id: u64 },
    Disconnect { worker: u32 },
    DisconnectAll,
    Kill { worker: u32, signal: i32 },
    Reload,
    Scale { workers: u32 },
    RotateSecrets,
    Stop { urgency: Urgency },
    SetupPrimary { settings: Box<NodeSettings> },
    Snapshot { reply: oneshot::Sender<Snapshot> },
}

/// Dropped by the primary's thread however it ends: by a panic too, nobody may wait for it any longer.
pub(crate) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.gone();
    }
}

/// What handles and the primary's thread share.
pub(crate) struct Shared {
    orders: Mutex<Vec<Order>>,
    wake: EventFd,
    /// Bytes on their way to each worker that is connected.
    queued: Mutex<BTreeMap<u32, Arc<Queued>>>,
    state: Mutex<State>,
    /// Our ends of workers' pipes that nobody has taken.
    pipes: Mutex<BTreeMap<u32, WorkerPipes>>,
}

#[derive(Default)]
struct State {
    thread: Option<ThreadId>,
    ended: bool,
    /// As of the event being told, for callbacks that ask from the primary's own thread.
    latest: Option<Snapshot>,
}

impl Shared {
    pub(crate) fn new(wake: EventFd) -> Arc<Self> {
        Arc::new(Self {
            orders: Mutex::default(),
            wake,
            queued: Mutex::default(),
            state: Mutex::default(),
            pipes: Mutex::default(),
        })
    }

    pub(crate) fn wake(&self) -> &EventFd {
        &self.wake
    }

    pub(crate) fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *lock(&self.orders))
    }

    /// The primary runs on this thread until the value is dropped.
    pub(crate) fn started(self: &Arc<Self>) -> Running {
        lock(&self.state).thread = Some(std::thread::current().id());
        Running(Arc::clone(self))
    }

    /// Refuses all further orders and fails those still queued by dropping their reply ends.
    pub(crate) fn ended(&self, last: Snapshot) {
        self.end(Some(last));
    }

    /// The primary's thread runs no more. Without a last word of its own, what it was last like is not how it is.
    fn gone(&self) {
        if !lock(&self.state).ended {
            self.end(None);
        }
    }

    fn end(&self, last: Option<Snapshot>) {
        let mut state = lock(&self.state);
        (state.ended, state.latest) = (true, last);
        drop(state);
        drop(self.take_orders());
    }

    pub(crate) fn remember(&self, snapshot: Snapshot) {
        lock(&self.state).latest = Some(snapshot);
    }

    pub(crate) fn connected(&self, worker: u32) -> Arc<Queued> {
        let queued = Arc::new(Queued::default());
        lock(&self.queued).insert(worker, Arc::clone(&queued));
        queued
    }

    pub(crate) fn piped(&self, worker: u32, pipes: WorkerPipes) {
        lock(&self.pipes).insert(worker, pipes);
    }

    /// The worker is gone; who wanted its pipes has them.
    pub(crate) fn unpiped(&self, worker: u32) {
        lock(&self.pipes).remove(&worker);
    }

    pub(crate) fn disconnected(&self, worker: u32) {
        lock(&self.queued).remove(&worker);
    }

    fn give(&self, order: Order) -> Result<()> {
        let mut orders = lock(&self.orders);
        // Under the lock: an order queued after the last were thrown away would never be answered.
        if lock(&self.state).ended {
            return Err(Error::PrimaryGone);
        }
        if orders.len() >= ORDERS {
            return Err(Error::OrdersFull { waiting: orders.len() });
        }
        orders.push(order);
        if orders.len() == 1 {
            // Behind another one it is found with that one. Fails only if the descriptor is no eventfd.
            let _ = self.wake.ring();
        }
        Ok(())
    }
}

/// A panic elsewhere cannot leave these maps half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running primary, from any thread: send, order, look.
///
/// Cheap to clone. Orders are carried out in the order given; what becomes of them is told by
/// [events](crate::Event). 65,536 may wait; further ones fail with [`Error::OrdersFull`].
#[derive(Clone)]
pub struct Primary {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primary").finish_non_exhaustive()
    }
}

impl Primary {
    /// Sends a message to one worker.
    ///
    /// # Errors
    /// [`Error::NoSuchWorker`] if it is not connected, [`Error::QueueFull`] if 64 MiB wait for it already,
    /// [`Error::Message`] if the value cannot be encoded, [`Error::OrdersFull`]. A message that finds 65,536 others waiting for the worker is
    /// dropped later, with [`Event::Error`](crate::Event::Error).
    pub fn send<T: Serialize + ?Sized>(&self, worker: u32, message: &T) -> Result<()> {
        self.send_message(worker, encode(message)?)
    }

    /// Sends a message together with a handle: a stream moves, a listener or UDP socket is shared.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with<T: Serialize + ?Sized>(
        &self,
        worker: u32,
        message: &T,
        handle: impl Into<Handle>,
    ) -> Result<()> {
        self.send_message(worker, encode(message)?.with_handle(handle))
    }

    /// Sends an encoded message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_message(&self, worker: u32, message: Message) -> Result<()> {
        self.give(worker, message.bytes().len(), Order::Send { worker, message })
    }

    /// Sends a message to every connected worker; returns how many got it queued. A worker whose queue is full is
    /// passed over.
    ///
    /// # Errors
    /// [`Error::Message`] if the value cannot be encoded.
    pub fn broadcast<T: Serialize + ?Sized>(&self, message: &T) -> Result<usize> {
        let message = encode(message)?;
        let workers: Vec<u32> = lock(&self.shared.queued).keys().copied().collect();
        let sent = |worker: &u32| self.send_message(*worker, message.without_handles()).is_ok();
        Ok(workers.iter().filter(|worker| sent(worker)).count())
    }

    /// Asks one worker and gives back its answer to come.
    ///
    /// # Errors
    /// As [`send`](Self::send); the answer fails with [`Error::TimedOut`], with [`Error::Disconnected`] when the
    /// worker leaves first, and with [`Error::QueueFull`] when the worker takes no messages and had to drop this one.
    pub fn request<T: Serialize + ?Sized>(
        &self,
        worker: u32,
        message: &T,
        timeout: Duration,
    ) -> Result<Reply> {
        let message = encode(message)?;
        let (reply, receiver) = oneshot::channel();
        let bytes = message.bytes().len();
        self.give(worker, bytes, Order::Request { worker, message, timeout, reply })?;
        Ok(Reply { receiver, primary: self.clone() })
    }

    /// Answers a worker's [`Event::Request`](crate::Event::Request).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn reply<T: Serialize + ?Sized>(&self, worker: u32, id: u64, message: &T) -> Result<()> {
        let message = encode(message)?;
        self.give(worker, message.bytes().len(), Order::Reply { worker, id, message })
    }

    /// Tells a worker that its [`Event::Request`](crate::Event::Request) will not be answered, so that it need not wait for
    /// its time to pass: there it is [`Error::Unheard`].
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn decline(&self, worker: u32, id: u64) -> Result<()> {
        self.shared.give(Order::Decline { worker, id })
    }

    /// Asks one worker to stop accepting, finish what it has and leave; it is not replaced.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn disconnect(&self, worker: u32) -> Result<()> {
        self.shared.give(Order::Disconnect { worker })
    }

    /// Asks every worker to leave; the cluster ends after the last has.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn disconnect_all(&self) -> Result<()> {
        self.shared.give(Order::DisconnectAll)
    }

    /// Sends a Unix signal to one worker, and `CONT` after `TERM`, which one that is stopped would not hear. A worker that
    /// dies of it is replaced by the restart policy.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn kill(&self, worker: u32, signal: i32) -> Result<()> {
        self.shared.give(Order::Kill { worker, signal })
    }

    /// Changes how Node workers are started, as a further call of Node's `setupPrimary` does: what is set here goes for
    /// workers forked from now on, and those that run stay as they are.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`]. Of a cluster whose workers are no Node programs nothing changes.
    pub fn setup_primary(&self, settings: NodeSettings) -> Result<()> {
        self.shared.give(Order::SetupPrimary { settings: Box::new(settings) })
    }

    /// Our ends of a worker's pipes, where [`NodeSettings`] ask for some. Once; until the worker's exit has been told.
    pub fn take_pipes(&self, worker: u32) -> Option<WorkerPipes> {
        lock(&self.shared.pipes).remove(&worker)
    }

    /// Replaces every worker, new one ready before the old one leaves.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn reload(&self) -> Result<()> {
        self.shared.give(Order::Reload)
    }

    /// Changes the number of slots.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn scale(&self, workers: u32) -> Result<()> {
        self.shared.give(Order::Scale { workers })
    }

    /// Replaces the [secrets](crate::Secrets) that workers share ahead of schedule: the next becomes current. What was
    /// made with the one that was current until now is good for one more rotation; after three nothing is left of what
    /// workers know at present.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn rotate_secrets(&self) -> Result<()> {
        self.shared.give(Order::RotateSecrets)
    }

    /// Stops the cluster.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`].
    pub fn stop(&self, urgency: Urgency) -> Result<()> {
        self.shared.give(Order::Stop { urgency })
    }

    /// The cluster as it stands. Within an event callback: as of that event.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`] before the primary's first event and when its thread has died.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let state = lock(&self.shared.state);
        if state.ended || state.thread == Some(std::thread::current().id()) {
            return state.latest.clone().ok_or(Error::PrimaryGone);
        }
        drop(state);
        let (reply, receiver) = oneshot::channel();
        self.shared.give(Order::Snapshot { reply })?;
        // Not `blocking_recv`: that panics inside a runtime, where a snapshot is wanted too.
        futures_block_on(receiver).map_err(|_| Error::PrimaryGone)
    }

    /// Gives an order that queues so many bytes to a worker.
    fn give(&self, worker: u32, bytes: usize, order: Order) -> Result<()> {
        let queued = lock(&self.shared.queued).get(&worker).cloned().ok_or(Error::NoSuchWorker { worker })?;
        if !queued.reserve(bytes) {
            return Err(Error::QueueFull { worker });
        }
        self.shared.give(order).inspect_err(|_| queued.release(bytes))
    }
}

/// A worker's answer to come: a future, or [`wait`](Self::wait) for it.
#[must_use = "the answer is lost unless awaited"]
pub struct Reply {
    receiver: oneshot::Receiver<Result<Message>>,
    primary: Primary,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl Reply {
    /// Blocks until the answer or its deadline.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], or [`Error::Setting`] when called from an event callback: the
    /// primary's thread cannot wait for itself.
    pub fn wait(self) -> Result<Message> {
        if lock(&self.primary.shared.state).thread == Some(std::thread::current().id()) {
            return Err(Error::Setting(
                "an event callback cannot wait for a reply: hand the Reply to another thread or task".into(),
            ));
        }
        futures_block_on(self.receiver).unwrap_or(Err(Error::Disconnected))
    }
}

impl Future for Reply {
    type Output = Result<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|answer| answer.unwrap_or(Err(Error::Disconnected)))
    }
}

/// Polls a future on this thread, parked in between.
fn futures_block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Message> {
    Message::json(message).map_err(|error| Error::Message(error.to_string()))
}
