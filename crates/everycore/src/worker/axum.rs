//! The worker's listener under axum.

use std::future::pending;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::Connected;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::{Next, from_fn};
use axum::serve::IncomingStream;

use super::Worker;
use super::listener::Listener;
use super::stream::Stream;
use crate::address::BoundAddress;
use crate::error::{Error, Result};

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

impl Worker {
    /// Serves an axum application until the worker shall leave, and lets go of its clients without losing a request.
    ///
    /// While the worker drains every response says `Connection: close`, so that clients go elsewhere with their next
    /// request. Connections that are idle stay open meanwhile, as long as [`drained`](Self::drained) says: closing
    /// one at once could cross a request on its way.
    ///
    /// Handlers may ask for `ConnectInfo<BoundAddress>`: who connected.
    ///
    /// ```no_run
    /// # async fn serve(worker: everycore::Worker) -> everycore::Result<()> {
    /// use axum::{Router, extract::ConnectInfo, routing::get};
    /// use everycore::BoundAddress;
    ///
    /// let whoami = async |ConnectInfo(client): ConnectInfo<BoundAddress>| client.to_string();
    /// let listener = worker.listen("127.0.0.1:8000").await?;
    /// worker.serve(listener, Router::new().route("/", get(whoami))).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::System`] if axum gives up.
    pub async fn serve(&self, listener: Listener, app: Router) -> Result<()> {
        let worker = self.clone();
        let app = app.layer(from_fn(move |request: Request, next: Next| {
            let worker = worker.clone();
            async move {
                let mut response = next.run(request).await;
                if worker.is_draining() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }));
        axum::serve(listener, app.into_make_service_with_connect_info::<BoundAddress>())
            .with_graceful_shutdown(self.drained())
            .await
            .map_err(|source| Error::System { doing: "serving HTTP", source })
    }
}

/// `ConnectInfo<BoundAddress>` in a handler says who connected.
impl Connected<IncomingStream<'_, Listener>> for BoundAddress {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::worker::testing::{FakePrimary, run};

    #[test]
    fn a_handler_hears_who_connected() {
        const ADDRESS: &str = "127.0.0.1:8000";
        let (mut primary, worker) = FakePrimary::with_worker();
        let (listener, hand_off) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| worker.listen_blocking(ADDRESS).unwrap());
            let hand_off = primary.grant_hand_off(4, ADDRESS);
            (asking.join().unwrap(), hand_off)
        });
        let client = std::os::unix::net::UnixStream::from(hand_off.hand(9000));
        client.set_nonblocking(true).unwrap();
        let answer = run(async {
            let whoami = async |ConnectInfo(peer): ConnectInfo<BoundAddress>| peer.to_string();
            let app = Router::new().route("/", get(whoami));
            let served = worker.clone();
            let serving = tokio::spawn(async move { served.serve(listener, app).await });
            let mut client = tokio::net::UnixStream::from_std(client).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            serving.abort();
            answer
        });
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n127.0.0.1:9000"), "{answer}");
    }
}
