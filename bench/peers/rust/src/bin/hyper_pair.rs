//! Bare hyper: processes with a single-threaded runtime each, all accepting on one socket through tokio's listener.
//!
//! What one would write without everycore. The parent binds, starts the workers with the socket as their standard
//! input, and waits for them.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, service::service_fn};
use hyper_util::rt::TokioIo;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(address) = args.next() else { return serve() };
    let workers: usize = args.next().expect("a number of workers").parse().expect("a number");
    let listener = OwnedFd::from(listen(&address)?);
    let children: Vec<_> = (0..workers)
        .map(|_| Command::new(std::env::current_exe()?).stdin(Stdio::from(listener.try_clone()?)).spawn())
        .collect::<Result<_, _>>()?;
    drop(listener);
    for mut child in children {
        child.wait()?;
    }
    Ok(())
}

fn serve() -> std::io::Result<()> {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let body = Bytes::from(format!("{}\n", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let body = body.clone();
            let answer = service_fn(move |_: Request<Incoming>| {
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(body.clone()))))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
            );
        }
    })
}

/// Room for as many waiting connections as every server of the table has.
fn listen(address: &str) -> std::io::Result<TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().expect("an IPv4 address and a port"))?;
    socket.listen(4096)?.into_std()
}
