//! A worker that serves with axum, as the README shows it.

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use everycore::{Listener, Worker};

use crate::burn;

pub(crate) async fn serve(worker: Worker, listener: Listener) -> everycore::Result<()> {
    let body = format!("{}\n", worker.pid());
    let burning = body.clone();
    let app = Router::new().route("/", get(async move || body)).route(
        "/block",
        get(async move |RawQuery(query): RawQuery| {
            let path = format!("/block?{}", query.unwrap_or_default());
            burn::burn(burn::asked_for(&path).unwrap_or_default());
            burning
        }),
    );
    axum::serve(listener, app)
        .with_graceful_shutdown(worker.draining())
        .await
        .map_err(|source| everycore::Error::System { doing: "serving", source })
}
