//! Every framework under one cluster: a killed worker is replaced, and reloads under load lose nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../everycore/tests/support/mod.rs"]
mod support;
#[path = "../examples/tonic_grpc/whoami.rs"]
#[allow(dead_code, unreachable_pub, reason = "the server's half stays unused here")]
mod whoami;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everycore_sys::signals::number::{HUP, KILL, TERM};
use support::{Example, PATIENCE, get, number_after, signal_pid};

fn start(example: &str) -> (Example, SocketAddr, [u32; 2]) {
    let server = Example::start(example, &["127.0.0.1:0", "2"]);
    let lines = [server.line_with("listens on"), server.line_with("listens on")];
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    (server, address, lines.map(|line| number_after(&line, "(pid")))
}

fn stop(mut server: Example) {
    server.signal(TERM);
    server.rest();
    assert!(server.wait().success());
}

/// A kill, then reloads under load.
fn try_http(example: &str) {
    let (server, address, workers) = start(example);
    assert!(workers.contains(&get(address, "/").unwrap().parse().unwrap()));
    signal_pid(workers[0], KILL);
    let replacement = number_after(&server.line_with("listens on"), "(pid");
    let serving = [workers[1], replacement];
    let answered: HashSet<u32> = (0..20).map(|_| get(address, "/").unwrap().parse().unwrap()).collect();
    assert!(answered.iter().all(|pid| serving.contains(pid)), "{answered:?}");
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let mut answered = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    answered += converse(address);
                }
                answered
            })
        })
        .collect();
    for _ in 0..2 {
        server.signal(HUP);
        server.line_with("serves");
    }
    over.store(true, Ordering::Relaxed);
    let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 0);
    stop(server);
}

/// Up to five requests on one connection, every one answered.
fn converse(address: SocketAddr) -> u64 {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    for count in 1..=5 {
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let (mut line, mut last) = (String::new(), false);
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "lost at request {count}");
            last |= line.eq_ignore_ascii_case("connection: close\r\n");
        }
        assert_ne!(stream.read_line(&mut line).unwrap(), 0);
        if last {
            return count;
        }
    }
    5
}

#[test]
fn hyper_loses_nothing() {
    try_http("hyper_http");
}

#[test]
fn blocking_threads_lose_nothing() {
    try_http("blocking_http");
}

#[test]
fn actix_web_loses_nothing() {
    try_http("actix_http");
}

#[test]
fn tonic_serves_on_through_a_kill_and_reloads() {
    let (server, address, workers) = start("tonic_grpc");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(workers.contains(&ask(address).await));
    });
    signal_pid(workers[0], KILL);
    let replacement = number_after(&server.line_with("listens on"), "(pid");
    runtime.block_on(async {
        for _ in 0..10 {
            assert!([workers[1], replacement].contains(&ask(address).await));
        }
    });
    let over = Arc::new(AtomicBool::new(false));
    let client = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut answered = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    ask(address).await;
                    answered += 1;
                }
                answered
            })
        })
    };
    for _ in 0..2 {
        server.signal(HUP);
        server.line_with("serves");
    }
    over.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 0);
    stop(server);
}

/// One call on a connection of its own.
async fn ask(address: SocketAddr) -> u32 {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<whoami::Question, whoami::Answer>::default();
    let path = http::uri::PathAndQuery::from_static("/whoami.WhoAmI/Ask");
    let answer = grpc.unary(tonic::Request::new(whoami::Question {}), path, codec).await.unwrap();
    answer.into_inner().pid
}
