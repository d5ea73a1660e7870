//! axum on tokio's work-stealing runtime: one process, as many threads as we have workers.

#![forbid(unsafe_code)]

use axum::{Router, routing::get};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("an address");
    let threads = args.next().expect("a number of threads").parse().expect("a number");
    let body = format!("{}\n", std::process::id());
    let app = Router::new().route("/", get(async move || body));
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?.block_on(
        async {
            let listener = listen(&address)?;
            axum::serve(listener, app).await
        },
    )
}

/// Room for as many waiting connections as every server of the table has.
fn listen(address: &str) -> std::io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().expect("an IPv4 address and a port"))?;
    socket.listen(4096)
}
