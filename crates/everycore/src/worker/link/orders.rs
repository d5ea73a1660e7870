//! What comes in on the channel: sorted, and orders carried out.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use everycore_ipc::{Incoming, Message, Received};
use tokio::sync::oneshot;

use super::{Link, ListenAnswer, Read, State};
use crate::protocol::{ListenFailure, ToWorker};
use crate::worker::drain::Why;
use crate::worker::inbox::{Item, Room};
use crate::worker::registration::{Grant, Registration};
use crate::worker::secrets::Secrets;
use crate::worker::trouble::Trouble;

/// Messages read in one go; then others get their turn.
const READ_AT_ONCE: usize = 128;

impl Link {
    /// Reads and sorts what has come.
    pub(crate) fn read(self: &Arc<Self>, now: Instant) -> Read {
        // Listeners nobody waits for any more: dropping them takes the lock.
        let mut unwanted = Vec::new();
        let mut state = self.lock();
        let dropped = state.inbox.dropped();
        let mut read = Read::More;
        for _ in 0..READ_AT_ONCE {
            if state.over {
                read = Read::Over;
                break;
            }
            if matches!(state.inbox.room(now), Room::Full(_)) {
                break;
            }
            match state.connection.receive() {
                Ok(Received::Message(incoming)) => self.sort(&mut state, incoming, now, &mut unwanted),
                // A large message is on its way.
                Ok(Received::More) => break,
                // Might still be what it saw when the last round broke off; what has come since rang only once.
                Ok(Received::Blocked) if std::mem::take(&mut state.broke_off) => {}
                Ok(Received::Blocked) => {
                    read = Read::Empty;
                    break;
                }
                // A primary that breaks the protocol is no primary: drain and leave, as if it had died.
                Ok(Received::Closed) | Err(_) => self.end(&mut state),
            }
        }
        state.broke_off = read == Read::More;
        let count = state.inbox.dropped();
        drop(state);
        drop(unwanted);
        self.changed.notify_all();
        if count > dropped {
            self.troubles.tell(&Trouble::MessagesDropped { count });
        }
        read
    }

    fn sort(
        self: &Arc<Self>,
        state: &mut State,
        incoming: Incoming,
        now: Instant,
        unwanted: &mut Vec<Registration>,
    ) {
        match incoming {
            Incoming::User(message) => self.keep(state, Item { message, request: None }, now),
            Incoming::Request { id, message } => self.keep(state, Item { message, request: Some(id) }, now),
            Incoming::Reply { id, message } => {
                if let Some(asker) = state.answers.remove(&id) {
                    let _ = asker.send(Ok(message));
                }
            }
            Incoming::Internal(message) => match ToWorker::decode(message.bytes()) {
                Ok(order) => unwanted.extend(self.obey(state, order, message)),
                Err(_) => self.end(state),
            },
        }
    }

    fn keep(&self, state: &mut State, item: Item, now: Instant) {
        if state.inbox.push(item, now) {
            self.arrived.notify_one();
        }
    }

    /// Carries out an order; gives back a listener that nobody waits for.
    fn obey(
        self: &Arc<Self>,
        state: &mut State,
        order: ToWorker,
        mut message: Message,
    ) -> Option<Registration> {
        match order {
            ToWorker::Disconnect { stopping } => {
                self.leave(if stopping { Why::Stopping } else { Why::Asked });
            }
            ToWorker::LeaveNoted => {
                for asker in state.leave_noted.drain(..) {
                    let _ = asker.send(());
                }
            }
            ToWorker::Granted { request, key, mode, address, more } => {
                let registration = Registration::new(Arc::clone(self), key);
                let asker = state.listens.remove(&request);
                let Some(handle) = message.take_handle() else {
                    give(asker, Err(no_room_for_listener()));
                    return Some(registration);
                };
                return give(
                    asker,
                    Ok(Grant { handle: handle.into_fd(), mode, address, more, registration }),
                );
            }
            ToWorker::Refused { request, failure } => {
                give(state.listens.remove(&request), Err(failure));
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
            // There is one, and it was the first frame.
            ToWorker::Welcome(_) => {}
        }
        None
    }
}

/// Answers whoever asked for a listener; gives it back when nobody does any more.
fn give(asker: Option<oneshot::Sender<ListenAnswer>>, answer: ListenAnswer) -> Option<Registration> {
    let unwanted = match asker {
        Some(asker) => asker.send(answer).err()?,
        None => answer,
    };
    unwanted.ok().map(|grant| grant.registration)
}

fn no_room_for_listener() -> ListenFailure {
    let error = io::Error::from(rustix::io::Errno::MFILE);
    ListenFailure {
        errno: rustix::io::Errno::MFILE.raw_os_error(),
        message: format!("the listener was granted, but its descriptor did not arrive: {error}"),
    }
}
