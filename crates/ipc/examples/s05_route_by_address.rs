//! S5: sockets routed by where they come from, to a `normal` or a `special` child.
//!
//! The parent looks at the address alone and reads not one byte: the child finds the request whole. The role of a child
//! is an argument of its program.
//!
//! `cargo run -p everycore-ipc --example s05_route_by_address [address] [special clients…]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::net::IpAddr;

use everycore_ipc::{Channel, Codec, fork, parent};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let parent = parent()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match parent {
        Some(channel) => runtime.block_on(be_child(channel)),
        None => runtime.block_on(be_parent()),
    }
}

async fn be_parent() -> Result {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:1337".into());
    let mut special_clients =
        args.map(|client| client.parse()).collect::<std::result::Result<Vec<IpAddr>, _>>()?;
    if special_clients.is_empty() {
        special_clients.push([127, 0, 0, 2].into());
    }
    let fork = |role: &str| {
        Ok::<_, Box<dyn std::error::Error>>(fork(std::env::current_exe()?).codec(Codec::Native).arg(role))
    };
    let normal = fork("normal")?.spawn()?;
    let special = fork("special")?.spawn()?;
    let listener = TcpListener::bind(&address).await?;
    println!("special treatment for {special_clients:?} on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        let child = if special_clients.contains(&peer.ip()) { &special } else { &normal };
        child.send_with("socket", stream.into_std()?).await?;
    }
}

async fn be_child(channel: Channel) -> Result {
    let role = std::env::args().nth(1).ok_or("no role was given")?;
    while let Some(mut message) = channel.recv().await? {
        let Some(handle) = message.take_handle() else { continue };
        let stream = TcpStream::from_std(handle.try_into()?)?;
        let role = role.clone();
        tokio::spawn(async move {
            // A client that is gone gets no answer.
            let _ = answer(stream, &role).await;
        });
    }
    Ok(())
}

async fn answer(stream: TcpStream, role: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    stream.write_all(format!("request handled with {role} priority: {line}").as_bytes()).await
}
