//! S3: a server sent to two children; the parent closes its own copy, and only the children serve.
//!
//! The port never closes: somebody holds it at every moment. With `--leave` the parent even exits, and the children go
//! on without it.
//!
//! `cargo run -p everycore-ipc --example s03_server_moves [address] [--leave]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore_ipc::{Channel, Codec, Handle, fork, parent};
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
    let (flags, addresses): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg == "--leave");
    let address = addresses.into_iter().next().unwrap_or("127.0.0.1:1337".into());
    let listener = TcpListener::bind(&address).await?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let child = fork(std::env::current_exe()?).codec(Codec::Native).spawn()?;
        child.send_with("server", Handle::duplicate(&listener)?).await?;
        children.push(child);
    }
    for child in &children {
        let ready = child.recv().await?.ok_or("a child did not start")?;
        println!("child {} is {}", child.pid(), ready.parse::<String>()?);
    }
    println!("only the children listen on {}", listener.local_addr()?);
    drop(listener);
    if flags.is_empty() {
        for child in children {
            println!("child {} {}", child.pid(), child.wait().await?);
        }
    }
    Ok(())
}

async fn be_child(channel: Channel) -> Result {
    let mut message = channel.recv().await?.ok_or("the parent sent nothing")?;
    let handle = message.take_handle().ok_or("the server did not arrive")?;
    let listener = TcpListener::from_std(handle.try_into()?)?;
    channel.send("serving").await?;
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let body = format!("served by {}\n", std::process::id());
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
