//! A child process: messages to and from it, its events in order, its end.
//!
//! For tokio. A child is watched through its pidfd, so there is no handler for `SIGCHLD` and nothing global in the
//! process. Neighbours: `fork` starts it, `process` waits for it and signals it, [`crate::parent()`] is the other end of
//! its channel. Without a runtime use [`Fork::spawn_parts`].

mod environment;
mod error;
mod fork;
mod plumbing;
mod process;
mod reaper;

use std::io::{self, PipeReader, PipeWriter};

use everycore_sys::WaitStatus;
use serde::Serialize;

use crate::channel::Channel;
use crate::connection::{ChannelError, Received, SendError};
use crate::handle::Handle;
use crate::message::{Incoming, Message, Outgoing};
pub use environment::OURS_ALONE;
pub(crate) use environment::{CHANNEL_FD, CHANNEL_IDENTITY, SERIALIZATION_MODE, UNIQUE_ID};
pub use error::ForkError;
pub use fork::{ChildParts, Fork, fork};
pub use plumbing::Stdio;
use process::Process;

/// What happens to a child, in the order it is reported: messages, then the end of the channel, then the exit.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message from it.
    Message(Message),
    /// It sent something that is no message, or half of one. [`Event::Disconnect`] follows.
    Error(ChannelError),
    /// The channel is at an end: it closed its side, or it is no more. Never comes for a child without a channel.
    Disconnect,
    /// It has ended. The last event.
    Exit(WaitStatus),
}

/// A program that was started by [`Fork::spawn`].
///
/// Dropping it lets the child go on by itself: the channel and the pipes are closed, which a child may take as its
/// reason to end, but no signal is sent. It is waited for in the background, so it never stays as a zombie.
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if it is a pipe.
    pub stdin: Option<PipeWriter>,
    /// Its standard output, if it is a pipe. For tokio:
    /// `tokio::net::unix::pipe::Receiver::from_owned_fd(stdout.into())`.
    pub stdout: Option<PipeReader>,
    /// Its standard error, if it is a pipe.
    pub stderr: Option<PipeReader>,
    process: Process,
    channel: Option<Channel>,
    stage: Stage,
}

/// How far the events have come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Messages may come.
    Connected,
    /// It has ended; what it had sent before is still to be read, up to this place.
    Draining(u64),
    /// The channel failed, which was said; its end was not.
    Broken,
    /// Without a channel, or its end was said.
    Disconnected,
    /// Everything was said.
    Over,
}

impl Child {
    fn new(parts: ChildParts) -> Self {
        let ChildParts { pidfd, connection, stdin, stdout, stderr } = parts;
        let channel = connection.map(Channel::new);
        let stage = if channel.is_some() { Stage::Connected } else { Stage::Disconnected };
        Self { stdin, stdout, stderr, process: Process::new(pidfd), channel, stage }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The channel, if it was given one. Clones of it may be used beside the child.
    pub fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    /// Sends a value, written as the codec has it. A message sent before the child is ready for it waits in the channel.
    ///
    /// # Errors
    /// As [`Channel::send`]; [`SendError::Closed`] without a channel.
    pub async fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        match &self.channel {
            Some(channel) => channel.send(value).await,
            None => self.send_message(Message::json(value)?).await,
        }
    }

    /// Sends a value together with a socket or another handle.
    ///
    /// # Errors
    /// As [`Child::send`].
    pub async fn send_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        handle: impl Into<Handle>,
    ) -> Result<(), SendError> {
        match &self.channel {
            Some(channel) => channel.send_with(value, handle).await,
            None => self.send_message(Message::json(value)?.with_handle(handle)).await,
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As [`Child::send`].
    pub async fn send_message(&self, message: impl Into<Outgoing>) -> Result<(), SendError> {
        match &self.channel {
            Some(channel) => channel.send_message(message).await,
            None => Err(SendError::Closed(Box::new(message.into()))),
        }
    }

    /// Waits for the next message; `None` when the channel is at an end or there is none.
    ///
    /// A grandchild that inherited the channel keeps it open after the child's end. [`Child::event`] knows better.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub async fn recv(&self) -> Result<Option<Message>, ChannelError> {
        match &self.channel {
            Some(channel) => channel.recv().await,
            None => Ok(None),
        }
    }

    /// Ends our side of the channel, after everything that was sent. Most programs end for it.
    ///
    /// # Errors
    /// As [`Channel::disconnect`].
    pub async fn disconnect(&self) -> Result<(), ChannelError> {
        match &self.channel {
            Some(channel) => channel.disconnect().await,
            None => Ok(()),
        }
    }

    /// Sends a signal, by number; true if there was still somebody to get it.
    ///
    /// # Errors
    /// It runs as another user, or there is no such signal.
    pub fn kill(&self, signal: i32) -> io::Result<bool> {
        self.process.kill(signal)
    }

    /// Sends a signal to the child and everything it started, if it was made the leader of a process group.
    ///
    /// # Errors
    /// As [`Child::kill`].
    pub fn kill_group(&self, signal: i32) -> io::Result<bool> {
        self.process.kill_group(signal)
    }

    /// Waits for its end. Asked again, it gives the same answer. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Not inside a tokio runtime, or out of descriptors.
    pub async fn wait(&self) -> io::Result<WaitStatus> {
        self.process.wait().await
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// None that a caller could act on.
    pub fn try_wait(&self) -> io::Result<Option<WaitStatus>> {
        self.process.try_wait()
    }

    /// Waits for the next event; `None` after [`Event::Exit`].
    ///
    /// Whatever happens first in the world: all messages it sent come before [`Event::Disconnect`], that comes once and
    /// before [`Event::Exit`], and that comes once. Requests and other internal messages are passed over, as in
    /// [`Channel::recv`]. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Not inside a tokio runtime, or out of descriptors.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use everycore_ipc::{Event, fork};
    /// let mut child = fork("./worker").spawn()?;
    /// child.send("hi there").await?;
    /// while let Some(event) = child.event().await? {
    ///     match event {
    ///         Event::Message(message) => println!("{}", message.parse::<String>()?),
    ///         Event::Exit(status) => println!("{status}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn event(&mut self) -> io::Result<Option<Event>> {
        loop {
            match (self.stage, &self.channel) {
                (Stage::Connected, Some(channel)) => match self.process.or_ended(channel.recv()).await? {
                    Ok(received) => {
                        // Somebody else may go on writing for ever.
                        if matches!(received, Ok(Some(_))) && self.process.shows_end() {
                            self.stage = draining(channel);
                        }
                        return Ok(Some(self.received(received)));
                    }
                    Err(_status) => self.stage = draining(channel),
                },
                (Stage::Draining(until), Some(channel)) => {
                    let received = next_already_there(channel, until);
                    return Ok(Some(self.received(received)));
                }
                (Stage::Broken, _) | (Stage::Connected | Stage::Draining(_), None) => {
                    return Ok(Some(self.disconnected()));
                }
                (Stage::Disconnected, _) => {
                    let status = self.process.wait().await?;
                    self.stage = Stage::Over;
                    return Ok(Some(Event::Exit(status)));
                }
                (Stage::Over, _) => return Ok(None),
            }
        }
    }

    fn received(&mut self, received: Result<Option<Message>, ChannelError>) -> Event {
        match received {
            Ok(Some(message)) => Event::Message(message),
            Ok(None) => self.disconnected(),
            Err(error) => {
                self.stage = Stage::Broken;
                Event::Error(error)
            }
        }
    }

    /// The channel stays: we may still be able to write to it, and closing it fully while the child writes would look
    /// like an error over there.
    fn disconnected(&mut self) -> Event {
        self.stage = Stage::Disconnected;
        Event::Disconnect
    }
}

/// What is here by now is what it had sent.
fn draining(channel: &Channel) -> Stage {
    Stage::Draining(channel.with_connection(|connection| connection.arrived()))
}

/// The next of the messages that a child had sent when it ended; they are all here, so nothing is waited for. A
/// grandchild may hold the other end open, and may write without end; what it adds is behind `until`, and nobody's.
fn next_already_there(channel: &Channel, until: u64) -> Result<Option<Message>, ChannelError> {
    channel.with_connection(|connection| {
        let mut blocked = false;
        while !connection.has_received(until) {
            match connection.receive()? {
                Received::Message(Incoming::User(message)) => return Ok(Some(message)),
                Received::Message(_) | Received::More => blocked = false,
                // Once, it may be of a read that was before the last of it came.
                Received::Blocked if !blocked => blocked = true,
                Received::Blocked | Received::Closed => break,
            }
        }
        Ok(None)
    })
}
