//! Connections that are over before they become tasks.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Serves a connection here and now as far as it goes, and in a task of its own from where it has to wait.
///
/// The request of a short connection has come with it: it is answered and over in the first poll.
pub(crate) fn spawn_if_it_waits(connection: impl Future<Output = ()> + Send + 'static) {
    let mut connection: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(connection);
    // A task is polled when it is spawned: whoever would have been woken by this poll need not be.
    if connection.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending {
        tokio::spawn(connection);
    }
}
