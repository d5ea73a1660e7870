//! actix-web on every core: its application and HTTP service on the worker's own loop, without actix's threads and
//! listeners, which the cluster replaces.
//!
//! `cargo run -p everycore-integrations --example actix_http [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::rc::Rc;
use std::task::Poll;

use actix_http::{HttpService, Protocol};
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, HttpResponse, web};
use everycore::{Stream, Worker};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    everycore_integrations::cluster("http")?.run_with(|worker| async move {
        // actix's services are not Send: they stay on this thread.
        tokio::task::LocalSet::new().run_until(serve(worker)).await
    })?;
    Ok(())
}

async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let asked = worker.clone();
    let app = App::new().route(
        "/",
        web::get().to(move || {
            let mut response = HttpResponse::Ok();
            if asked.is_draining() {
                // The client is told with its answer, and comes back to another worker.
                response.force_close();
            }
            std::future::ready(response.body(format!("{}\n", asked.pid())))
        }),
    );
    let http = HttpService::<Stream, _, _>::new(map_config(app, |()| AppConfig::default()));
    let http = http.new_service(()).await.map_err(|()| "actix: no service")?;
    let http = Rc::new(http);
    let mut listener = worker.listener("http").await?;
    while let Ok((stream, peer)) = listener.accept().await {
        let (http, worker) = (Rc::clone(&http), worker.clone());
        tokio::task::spawn_local(async move {
            let mut connection = std::pin::pin!(http.call((stream, Protocol::Http1, peer.tcp())));
            let mut drained = std::pin::pin!(worker.drained());
            // A client that breaks off is no failure of ours; what is still open when drained has been silent for
            // long.
            std::future::poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => drained.as_mut().poll(cx),
            })
            .await;
        });
    }
    drop(listener);
    worker.finish().await;
    Ok(())
}
