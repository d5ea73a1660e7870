//! S2: a listening server sent to a child; parent and child both accept on the same port.
//!
//! A listener is shared: the child gets a duplicate and the parent keeps its own. Who is quicker gets the connection.
//!
//! `cargo run -p everycore-ipc --example s02_shared_server [address]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore_ipc::{Channel, Codec, Handle, fork, parent};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

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
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:1337".into());
    let listener = TcpListener::bind(&address).await?;
    let child = fork(std::env::current_exe()?).codec(Codec::Native).spawn()?;
    child.send_with("server", Handle::duplicate(&listener)?).await?;
    println!("parent and child {} listen on {}", child.pid(), listener.local_addr()?);
    serve(listener, "parent").await
}

async fn be_child(channel: Channel) -> Result {
    let Some(mut message) = channel.recv().await? else { return Ok(()) };
    if message.parse::<String>()? != "server" {
        return Err("expected a server".into());
    }
    let handle = message.take_handle().ok_or("the server did not arrive")?;
    let listener = TcpListener::from_std(handle.try_into()?)?;
    tokio::spawn(async move {
        if let Err(error) = serve(listener, "child").await {
            println!("child: {error}");
        }
    });
    // Serves until the parent is gone.
    while channel.recv().await?.is_some() {}
    Ok(())
}

async fn serve(listener: TcpListener, name: &str) -> Result {
    loop {
        let (mut stream, _peer) = listener.accept().await?;
        // A client that is gone already is no reason to stop.
        let _ = stream.write_all(format!("handled by {name}\n").as_bytes()).await;
    }
}
