//! hyper on every core: HTTP/1.1 by way of hyper-util, and nothing lost when the worker leaves.
//!
//! `cargo run -p everycore-integrations --example hyper_http [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::convert::Infallible;

use bytes::Bytes;
use everycore::{Stream, Worker};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

fn main() -> everycore::Result<()> {
    everycore_integrations::cluster("http")?.run_with(serve)?;
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let mut listener = worker.listener("http").await?;
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(worker.clone(), stream));
    }
    // The connections that are left: `block_on` waits for them as long as the drain may take.
    Ok(())
}

async fn converse(worker: Worker, stream: Stream) {
    let answer = |_request: Request<Incoming>| {
        let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", worker.pid()))));
        if worker.is_draining() {
            // The client is told with its answer, and comes back to another worker.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        async { Ok::<_, Infallible>(response) }
    };
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    let mut drained = std::pin::pin!(worker.drained());
    let mut told = false;
    // A client that breaks off mid-request is no failure of ours.
    let _ = std::future::poll_fn(|cx| {
        // Idle connections are closed only when the clients know: one that is closed sooner may cross a request.
        if !told && drained.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
}
