//! A worker that serves with hyper: the HTTP server of the table.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use everycore::{Listener, Stream, Worker};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::burn;
use crate::once::spawn_if_it_waits;
use crate::witness::Witness;

pub(crate) async fn serve(
    worker: Worker,
    mut listener: Listener,
    witness: Option<Witness>,
) -> everycore::Result<()> {
    let body = Bytes::from(format!("{}\n", worker.pid()));
    while let Ok((stream, peer)) = listener.accept().await {
        if let Some(witness) = &witness {
            witness.took(&peer);
        }
        spawn_if_it_waits(answer_all(stream, body.clone(), worker.clone()));
    }
    Ok(())
}

/// Answers until the client is done, or, once the worker drains, until the answer that announces the end.
///
/// A connection at rest is kept almost to the end of the drain: to close it at once could cross a request on its way.
async fn answer_all(stream: Stream, body: Bytes, worker: Worker) {
    let drains = worker.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        if let Some(length) = request.uri().path_and_query().and_then(|path| burn::asked_for(path.as_str())) {
            burn::burn(length);
        }
        let mut response = Response::new(Full::new(body.clone()));
        if drains.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    let mut drained = pin!(worker.drained());
    let mut told = false;
    poll_fn(|cx| {
        // The connection first: a short one is over without ever looking whether the worker drains.
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if told || drained.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        told = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}
