//! The worker's listener under axum.

use std::future::pending;
use std::io;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use super::listener::Listener;
use super::stream::Stream;
use crate::address::BoundAddress;

/// After an error that accepting cannot go on from at once.
const AFTER_ERROR: Duration = Duration::from_secs(1);

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = BoundAddress;

    /// Never ends: when the worker drains and nothing is left it waits for axum to be told, which
    /// [`Worker::draining`](crate::Worker::draining) does.
    async fn accept(&mut self) -> (Stream, BoundAddress) {
        loop {
            match Listener::accept(self).await {
                Ok(accepted) => return accepted,
                Err(_) if self.is_ended() => pending::<()>().await,
                Err(_) => tokio::time::sleep(AFTER_ERROR).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<BoundAddress> {
        Ok(Listener::local_addr(self).clone())
    }
}

/// `ConnectInfo<BoundAddress>` in a handler says who connected.
impl Connected<IncomingStream<'_, Listener>> for BoundAddress {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}
