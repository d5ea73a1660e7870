//! actix-web: one process, one single-threaded runtime per worker thread.

#![forbid(unsafe_code)]

use actix_web::{App, HttpServer, web};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("an address");
    let workers = args.next().expect("a number of workers").parse().expect("a number");
    let body = format!("{}\n", std::process::id());
    actix_web::rt::System::new().block_on(
        HttpServer::new(move || {
            let body = body.clone();
            App::new().route("/", web::get().to(move || std::future::ready(body.clone())))
        })
        .workers(workers)
        .backlog(4096)
        .bind(address)?
        .run(),
    )
}
