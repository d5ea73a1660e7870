//! S4: accepted sockets sent to children, in turn; each answers after 100 ms.
//!
//! A stream moves with its message: the parent's copy is closed once it has gone.
//!
//! `cargo run -p everycore-ipc --example s04_spread_sockets [address] [children]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use everycore_ipc::{Channel, Codec, fork, parent};
use tokio::io::AsyncWriteExt;
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
    let count = match args.next() {
        Some(count) => count.parse()?,
        None => everycore_sys::cpu::available_cpus(),
    };
    let fork = fork(std::env::current_exe()?).codec(Codec::Native);
    let children = (0..count).map(|_| fork.spawn()).collect::<std::result::Result<Vec<_>, _>>()?;
    let listener = TcpListener::bind(&address).await?;
    println!("{count} children answer on {}", listener.local_addr()?);
    for child in children.iter().cycle() {
        let (stream, _peer) = listener.accept().await?;
        child.send_with("socket", stream.into_std()?).await?;
    }
    Ok(())
}

async fn be_child(channel: Channel) -> Result {
    while let Some(mut message) = channel.recv().await? {
        let Some(handle) = message.take_handle() else { continue };
        let stream = TcpStream::from_std(handle.try_into()?)?;
        tokio::spawn(answer(stream));
    }
    Ok(())
}

async fn answer(mut stream: TcpStream) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The client may have lost patience.
    let _ = stream.write_all(format!("handled by child {}\n", std::process::id()).as_bytes()).await;
}
