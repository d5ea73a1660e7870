//! The demo's worker: a small axum service that says who answers and lets people break it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use everycore::{Error, Listener, Message, Worker};
use serde_json::{Value, json};

use crate::config::DEFAULT_LISTENER;
use crate::exit::Failure;

/// What there is besides `/`.
pub(super) const PATHS: [&str; 3] = ["/crash", "/block?ms=500", "/slow?ms=500"];

/// Longest `ms`: a demo must not be blocked for an afternoon by one request.
const MAX_MS: u64 = 30_000;

/// How often the primary hears how many requests were served.
const REPORT: Duration = Duration::from_millis(250);

/// Where a worker of a primary without an address named `http` listens.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// Serves until the primary says otherwise.
pub(crate) fn serve(worker: Worker, bind: Option<String>) -> Result<(), Failure> {
    worker
        .block_on(async move |worker| {
            let listener = listen(&worker, bind.as_deref()).await?;
            let service = Service::new(&worker);
            let requests = Arc::clone(&service.requests);
            let app = Router::new().fallback(serve_one).with_state(service);
            let reporting = tokio::spawn(report_now_and_then(worker.clone(), Arc::clone(&requests)));
            let served = worker.serve(listener, app).await;
            reporting.abort();
            let _ = worker.send(&json!({"requests": requests.load(Ordering::Relaxed)})).await;
            served
        })
        .map_err(Failure::from)
}

/// The address the primary bound, or under a primary that bound none the one asked for.
async fn listen(worker: &Worker, bind: Option<&str>) -> Result<Listener, Error> {
    match worker.listener(DEFAULT_LISTENER).await {
        Err(Error::NoSuchListener { .. }) => worker.listen(bind.unwrap_or(DEFAULT_ADDRESS)).await,
        other => other,
    }
}

/// The requests a worker says it has served, if this is such a message.
pub(super) fn report(message: &Message) -> Option<u64> {
    message.parse::<Value>().ok()?.get("requests")?.as_u64()
}

async fn report_now_and_then(worker: Worker, requests: Arc<AtomicU64>) {
    let mut told = 0;
    loop {
        tokio::time::sleep(REPORT).await;
        let served = requests.load(Ordering::Relaxed);
        if served != told {
            told = served;
            if worker.send(&json!({"requests": served})).await.is_err() {
                return;
            }
        }
    }
}

/// What every request needs.
#[derive(Clone)]
struct Service {
    who: Arc<str>,
    requests: Arc<AtomicU64>,
}

impl Service {
    fn new(worker: &Worker) -> Self {
        let who = format!("worker {} (pid {})", worker.id(), std::process::id());
        Self { who: who.into(), requests: Arc::default() }
    }
}

async fn serve_one(State(service): State<Service>, uri: Uri) -> Response {
    service.requests.fetch_add(1, Ordering::Relaxed);
    answer(&service.who, &uri).await
}

async fn answer(who: &str, uri: &Uri) -> Response {
    let ms = match milliseconds(uri) {
        Ok(ms) => ms,
        Err(problem) => return (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    };
    match uri.path() {
        "/" => format!("hello from {who}\n").into_response(),
        "/crash" => std::process::abort(),
        "/block" => {
            // On purpose: a worker that blocks gets no more connections meanwhile.
            std::thread::sleep(Duration::from_millis(ms));
            format!("{who} was blocked for {ms} ms\n").into_response()
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            format!("{who} took {ms} ms\n").into_response()
        }
        path => {
            let text = format!("there is no {path}; there are / {}\n", PATHS.join(" "));
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

/// The value of `ms` in the query, 1000 without one.
fn milliseconds(uri: &Uri) -> Result<u64, String> {
    let query = uri.query().unwrap_or_default();
    let Some(text) = query.split('&').find_map(|pair| pair.strip_prefix("ms=")) else { return Ok(1000) };
    match text.parse() {
        Ok(ms) if ms <= MAX_MS => Ok(ms),
        _ => Err(format!("ms is a number of milliseconds, at most {MAX_MS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_a_limit() {
        let ms = |uri: &str| milliseconds(&uri.parse().unwrap());
        assert_eq!(ms("/slow"), Ok(1000));
        assert_eq!(ms("/slow?x=1&ms=20"), Ok(20));
        assert!(ms("/slow?ms=30001").is_err());
        assert!(ms("/slow?ms=-1").is_err());
        assert!(ms("/slow?ms=").is_err());
    }
}
