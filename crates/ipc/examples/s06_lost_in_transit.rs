//! S6: what can go wrong on the way, and how the receiver copes.
//!
//! A message that should carry a socket may come without one: the sender had none, or the receiver has no room for another
//! descriptor. A client may be gone by the time its socket arrives; then the first read or write says so. In all cases
//! the child reports back, because the parent counts a socket that it handed off until its close is reported: its limit
//! holds for both processes together.
//!
//! `cargo run -p everycore-ipc --example s06_lost_in_transit [address] [limit]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore_ipc::{Channel, Child, Codec, Message, fork, parent};
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
    let limit: usize = args.next().unwrap_or("2".into()).parse()?;
    let child = fork(std::env::current_exe()?).codec(Codec::Native).spawn()?;
    let listener = TcpListener::bind(&address).await?;
    println!("at most {limit} connections on {}", listener.local_addr()?);
    // A message about a socket, without the socket.
    child.send("socket").await?;
    println!("parent: {}", report(&child).await?);

    let mut open = 0;
    loop {
        // At the limit only the child is listened to; clients wait in the kernel's queue.
        if open < limit {
            let (stream, _peer) = listener.accept().await?;
            child.send_with("socket", stream.into_std()?).await?;
            open += 1;
        } else {
            println!("parent: {}", report(&child).await?);
            open -= 1;
        }
    }
}

async fn report(child: &Child) -> Result<String> {
    Ok(child.recv().await?.ok_or("the child is gone")?.parse()?)
}

async fn be_child(channel: Channel) -> Result {
    while let Some(message) = channel.recv().await? {
        let channel = channel.clone();
        tokio::spawn(async move {
            let outcome = handle(message).await;
            let _ = channel.send(&outcome).await;
        });
    }
    Ok(())
}

/// What became of one message, in words.
async fn handle(mut message: Message) -> String {
    if message.lost_handles() > 0 {
        // The kernel has closed the socket, so the client is told. More room, or fewer clients, would help.
        return "a socket was lost: this process is out of descriptors".into();
    }
    let Some(handle) = message.take_handle() else {
        return "a message about a socket came without it".into();
    };
    let stream = match handle.try_into().map_err(std::io::Error::other).and_then(TcpStream::from_std) {
        Ok(stream) => stream,
        Err(error) => return format!("something that is no connection came: {error}"),
    };
    match answer(stream).await {
        Ok(()) => "a connection was served and closed".into(),
        Err(error) => format!("a connection was closed: {error}"),
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the client was gone"));
    }
    stream.write_all(format!("you said: {line}").as_bytes()).await
}
