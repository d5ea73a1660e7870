//! [`ListenerStream`]: the connections of a listener, one after the other.

use std::future::poll_fn;
use std::io;
#[cfg(feature = "stream")]
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::listener::Listener;
use super::stream::Stream;

/// The connections of a [`Listener`] as a stream; made by [`Listener::into_stream`]. With the feature `stream` it is one of
/// `futures-core`.
#[derive(Debug)]
pub struct ListenerStream {
    listener: Listener,
}

impl ListenerStream {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener }
    }

    /// The next connection; `None` when the worker drains and nothing is left.
    pub async fn next(&mut self) -> Option<io::Result<Stream>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The poll form of [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        Poll::Ready(match ready!(self.listener.poll_accept(cx)) {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(_) if self.listener.is_ended() => None,
            Err(error) => Some(Err(error)),
        })
    }
}

/// For what takes a stream of connections, such as tonic's `serve_with_incoming`.
#[cfg(feature = "stream")]
impl futures_core::Stream for ListenerStream {
    type Item = io::Result<Stream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ListenerStream::poll_next(self.get_mut(), cx)
    }
}
