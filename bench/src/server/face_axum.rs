//! A worker that serves with axum, as the README shows it.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use everycore::{Listener, Worker};

use crate::burn;

pub(crate) async fn serve(worker: Worker, listener: Listener) -> everycore::Result<()> {
    let app = Router::new()
        .route("/", get(answer))
        .route("/block", get(burn_and_answer))
        .with_state(worker.clone());
    axum::serve(listener, app)
        .with_graceful_shutdown(worker.drained())
        .await
        .map_err(|source| everycore::Error::System { doing: "serving", source })
}

async fn answer(State(worker): State<Worker>) -> Response {
    let body = format!("{}\n", worker.pid());
    // Clients that keep their connection are told, instead of finding it closed under a request.
    if worker.is_draining() { ([(CONNECTION, "close")], body).into_response() } else { body.into_response() }
}

async fn burn_and_answer(RawQuery(query): RawQuery, worker: State<Worker>) -> Response {
    let path = format!("/block?{}", query.unwrap_or_default());
    burn::burn(burn::asked_for(&path).unwrap_or_default());
    answer(worker).await
}
