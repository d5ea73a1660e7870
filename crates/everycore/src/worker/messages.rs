//! Messages between this worker's program and the primary's.
//!
//! Every call exists twice: asynchronous, and with `_blocking` for a program without a runtime. Neighbour: `link` has
//! the channel and the inbox.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everycore_ipc::{Handle, Message, Outgoing, SendError};
use serde::Serialize;
use tokio::sync::oneshot;

use super::Worker;
use super::driver::{ensure_task, ensure_thread};
use super::inbox::Item;
use super::link::Link;
use crate::error::{Error, Result};

impl Worker {
    /// Sends a message to the primary's program: any value that serde can write.
    ///
    /// Waits only while the primary has not read what was sent before (16 MiB, or 65,536 messages). Several messages in
    /// one turn of the loop go out together at its end.
    ///
    /// ```no_run
    /// # async fn notify(worker: everycore::Worker) -> everycore::Result<()> {
    /// worker.send("hi there").await?;
    /// worker.send(&serde_json::json!({"cmd": "notifyRequest"})).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Message`] if it cannot be encoded or is larger than 64 MiB, [`Error::Disconnected`] without a primary.
    pub async fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        self.send_message(encode(message)?).await
    }

    /// Sends a message together with a handle: a stream moves, a listener or UDP socket is shared.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_with<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: impl Into<Handle>,
    ) -> Result<()> {
        self.send_message(encode(message)?.with_handle(handle)).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_bytes(&self, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        self.send_message(Message::raw(bytes)).await
    }

    /// Sends an encoded message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_message(&self, message: Message) -> Result<()> {
        post(&self.core.link, Outgoing::user(message)).await
    }

    /// As [`send`](Self::send), for a thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_blocking<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        self.send_message_blocking(encode(message)?)
    }

    /// As [`send_with`](Self::send_with), for a thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_with_blocking<T: Serialize + ?Sized>(
        &self,
        message: &T,
        handle: impl Into<Handle>,
    ) -> Result<()> {
        self.send_message_blocking(encode(message)?.with_handle(handle))
    }

    /// As [`send_bytes`](Self::send_bytes), for a thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_bytes_blocking(&self, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        self.send_message_blocking(Message::raw(bytes))
    }

    /// As [`send_message`](Self::send_message), for a thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_message_blocking(&self, message: Message) -> Result<()> {
        post_blocking(&self.core.link, Outgoing::user(message))
    }

    /// The next message of the primary's program; `None` once all were taken and the channel has ended or the worker shall
    /// leave, so that a loop over messages comes to its end. Whoever wants what is still sent to it while it drains
    /// calls again.
    ///
    /// May be cancelled: a message is taken only when it is given out. Messages wait for it, 1,024 of them or 16 MiB;
    /// beyond that the primary is held back, and a program that takes none for a second loses the newest
    /// ([`Trouble::MessagesDropped`](crate::Trouble::MessagesDropped)): orders come through the same channel.
    ///
    /// # Errors
    /// It is called outside of a tokio runtime.
    pub async fn recv(&self) -> Result<Option<Delivery>> {
        let link = &self.core.link;
        ensure_task(link)?;
        if let Some(item) = link.take(&mut link.lock()) {
            return Ok(Some(Delivery::new(item, link)));
        }
        loop {
            let mut arrived = pin!(link.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut state = link.lock();
                if let Some(item) = link.take(&mut state) {
                    return Ok(Some(Delivery::new(item, link)));
                }
                if state.is_over() || link.drain.has_begun() {
                    return Ok(None);
                }
            }
            poll_fn(|cx| arrived.as_mut().poll(cx)).await;
        }
    }

    /// As [`recv`](Self::recv), for a thread.
    ///
    /// # Errors
    /// It is called from the runtime that serves the channel.
    pub fn recv_blocking(&self) -> Result<Option<Delivery>> {
        let link = &self.core.link;
        ensure_thread(link)?;
        let mut state = link.lock();
        loop {
            if let Some(item) = link.take(&mut state) {
                return Ok(Some(Delivery::new(item, link)));
            }
            if state.is_over() || link.drain.has_begun() {
                return Ok(None);
            }
            state = link.wait_change(state, None);
        }
    }

    /// Asks the primary's program and waits for its answer.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Unheard`] when nobody answers, or as [`send`](Self::send).
    pub async fn request<T: Serialize + ?Sized>(&self, message: &T, timeout: Duration) -> Result<Message> {
        let message = encode(message)?;
        let link = &self.core.link;
        ensure_task(link)?;
        let answered = async {
            let question = Question::open(link)?;
            post(link, Outgoing::request(question.id, message)).await?;
            question.answer().await
        };
        tokio::time::timeout(timeout, answered).await.unwrap_or(Err(Error::TimedOut { after: timeout }))
    }

    /// As [`request`](Self::request), for a thread.
    ///
    /// # Errors
    /// As `request`.
    pub fn request_blocking<T: Serialize + ?Sized>(&self, message: &T, timeout: Duration) -> Result<Message> {
        let message = encode(message)?;
        let link = &self.core.link;
        ensure_thread(link)?;
        let deadline = Instant::now().checked_add(timeout);
        let mut question = Question::open(link)?;
        if !post_until(link, Outgoing::request(question.id, message), deadline)? {
            return Err(Error::TimedOut { after: timeout });
        }
        match wait_blocking(link, &mut question.answer, deadline) {
            Some(answer) => answer?,
            None => Err(Error::TimedOut { after: timeout }),
        }
    }
}

/// A message of the primary's program, and the way to answer if it wants that.
///
/// It reads like a [`Message`]: `received.parse::<T>()?`, `received.take_handle()`.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    request: Option<(u64, Answering)>,
}

/// Where the answer goes.
struct Answering(Arc<Link>);

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answering")
    }
}

impl Delivery {
    fn new(item: Item, link: &Arc<Link>) -> Self {
        let request = item.request.map(|id| (id, Answering(Arc::clone(link))));
        Self { message: item.message, request }
    }

    /// Whether the sender waits for an answer.
    pub fn is_request(&self) -> bool {
        self.request.is_some()
    }

    /// The message alone; whoever asked gets no answer and is told so by its deadline.
    pub fn into_message(self) -> Message {
        self.message
    }

    /// Answers a request. A request is answered once; what is not a request needs no answer and gets none.
    ///
    /// # Errors
    /// As [`Worker::send`].
    pub async fn reply<T: Serialize + ?Sized>(&mut self, answer: &T) -> Result<()> {
        let answer = encode(answer)?;
        match self.request.take() {
            Some((id, Answering(link))) => post(&link, Outgoing::reply(id, answer)).await,
            None => Ok(()),
        }
    }

    /// As [`reply`](Self::reply), for a thread.
    ///
    /// # Errors
    /// As [`Worker::send`].
    pub fn reply_blocking<T: Serialize + ?Sized>(&mut self, answer: &T) -> Result<()> {
        let answer = encode(answer)?;
        match self.request.take() {
            Some((id, Answering(link))) => post_blocking(&link, Outgoing::reply(id, answer)),
            None => Ok(()),
        }
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl DerefMut for Delivery {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.message
    }
}

/// An open question; forgotten when dropped, so that a late answer goes nowhere.
struct Question<'a> {
    link: &'a Link,
    id: u64,
    answer: oneshot::Receiver<Result<Message>>,
}

impl<'a> Question<'a> {
    fn open(link: &'a Link) -> Result<Self> {
        let (id, answer) = link.open_request()?;
        Ok(Self { link, id, answer })
    }

    async fn answer(mut self) -> Result<Message> {
        (&mut self.answer).await.unwrap_or(Err(Error::Disconnected))
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.link.close_request(self.id);
    }
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Message> {
    Message::json(value).map_err(|error| Error::Message(error.to_string()))
}

/// Queues a message, after waiting for room if there is none.
async fn post(link: &Arc<Link>, outgoing: Outgoing) -> Result<()> {
    let mut outgoing = match link.post(outgoing) {
        Ok(left) => return see_written(link, left),
        Err(SendError::Full(back)) => *back,
        Err(error) => return Err(refused(&error)),
    };
    loop {
        let mut room = pin!(link.room.notified());
        room.as_mut().enable();
        match link.post(outgoing) {
            Ok(left) => return see_written(link, left),
            Err(SendError::Full(back)) => outgoing = *back,
            Err(error) => return Err(refused(&error)),
        }
        ensure_task(link)?;
        poll_fn(|cx| room.as_mut().poll(cx)).await;
    }
}

/// Sees to it that somebody writes what is left of a message that the channel had no room for.
fn see_written(link: &Arc<Link>, left: bool) -> Result<()> {
    match left {
        // A future may be driven by something else than tokio.
        true => ensure_task(link).or_else(|_| ensure_thread(link)),
        false => Ok(()),
    }
}

/// As [`post`], for a thread.
fn post_blocking(link: &Arc<Link>, outgoing: Outgoing) -> Result<()> {
    post_until(link, outgoing, None).map(drop)
}

/// As [`post_blocking`]; false when the deadline came before there was room.
fn post_until(link: &Arc<Link>, mut outgoing: Outgoing, deadline: Option<Instant>) -> Result<bool> {
    loop {
        match link.post(outgoing) {
            Ok(true) => return ensure_thread(link).map(|()| true),
            Ok(false) => return Ok(true),
            Err(SendError::Full(back)) => outgoing = *back,
            Err(error) => return Err(refused(&error)),
        }
        ensure_thread(link)?;
        let state = link.lock();
        if state.has_room() {
            continue;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(false);
        }
        drop(link.wait_change(state, deadline));
    }
}

/// Waits, as a thread, for what the channel's reader will send; `None` when the deadline came first.
pub(crate) fn wait_blocking<T>(
    link: &Link,
    receiver: &mut oneshot::Receiver<T>,
    deadline: Option<Instant>,
) -> Option<Result<T>> {
    let mut state = link.lock();
    loop {
        // Under the lock, which the reader holds while it sends: a change is never missed.
        match receiver.try_recv() {
            Ok(value) => return Some(Ok(value)),
            Err(oneshot::error::TryRecvError::Closed) => return Some(Err(Error::Disconnected)),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return None;
        }
        state = link.wait_change(state, deadline);
    }
}

fn refused(error: &SendError) -> Error {
    match error {
        SendError::Closed(_) => Error::Disconnected,
        other => Error::Message(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
