//! hyper on tokio's work-stealing runtime: one process, as many threads as we have workers.

#![forbid(unsafe_code)]

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, service::service_fn};
use hyper_util::rt::TokioIo;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().expect("an address");
    let threads = args.next().expect("a number of threads").parse().expect("a number");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve(address))
}

async fn serve(address: String) -> std::io::Result<()> {
    let body = Bytes::from(format!("{}\n", std::process::id()));
    let listener = listen(&address)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let body = body.clone();
        let answer = service_fn(move |_: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(body.clone()))))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// Room for as many waiting connections as every server of the table has.
fn listen(address: &str) -> std::io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().expect("an IPv4 address and a port"))?;
    socket.listen(4096)
}
