//! The end of writing, put off to the end of the loop's turn.
//!
//! HTTP servers shut down the write side of a connection and drop it in the next moment. Closing it says the same to the
//! peer, so the system call for the first is saved: within the worker's own loop a shutdown is noted here, and a task of
//! that loop carries out what is still open when it gets its turn. Neighbours: [`Stream`](crate::Stream) notes, and
//! carries out by itself what it is asked to read after it; `runtime` spawns the task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};

use rustix::net::{Shutdown, shutdown};

thread_local! {
    static DUE: RefCell<Due> = const { RefCell::new(Due { sockets: Vec::new(), task: None }) };
}

/// What this thread's loop has put off.
struct Due {
    sockets: Vec<Weak<OwnedFd>>,
    /// The task that carries it out; `None` on threads without one.
    task: Option<Task>,
}

/// Whether the task has been woken already.
enum Task {
    Waiting(Waker),
    Woken,
}

/// Puts off the shutdown of a socket; false where nobody would carry it out.
pub(super) fn put_off(socket: &Arc<OwnedFd>) -> bool {
    DUE.with_borrow_mut(|due| {
        match due.task.take() {
            None => return false,
            Some(Task::Waiting(waker)) => waker.wake(),
            Some(Task::Woken) => {}
        }
        due.task = Some(Task::Woken);
        due.sockets.push(Arc::downgrade(socket));
        true
    })
}

/// Carries out what was put off on this thread, until dropped.
pub(super) async fn carry_out() {
    let _on_this_thread = Present;
    poll_fn(|cx| {
        let sockets = DUE.with_borrow_mut(|due| {
            due.task = Some(Task::Waiting(cx.waker().clone()));
            std::mem::take(&mut due.sockets)
        });
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            // Of a peer that has gone there is nothing left to tell.
            let _ = shutdown(&*socket, Shutdown::Write);
        }
        Poll::Pending
    })
    .await
}

/// While it lives, this thread has a task that carries out.
struct Present;

impl Drop for Present {
    fn drop(&mut self) {
        // At the end of a thread there may be nothing left to clear.
        let _ = DUE.try_with(|due| due.borrow_mut().task = None);
    }
}
