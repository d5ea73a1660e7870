//! S1: one child per processor, messages both ways.
//!
//! The first message is sent before the child has even started; it waits in the channel. Each child prints what it got
//! and its pid, and sends it back.
//!
//! `cargo run -p everycore-ipc --example s01_fork_echo`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore_ipc::{Channel, Codec, Event, fork, parent};

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
    let mut children = Vec::new();
    for number in 1..=everycore_sys::cpu::available_cpus() {
        let child = fork(std::env::current_exe()?).codec(Codec::Native).spawn()?;
        child.send(&format!("hello child {number}")).await?;
        children.push(child);
    }
    for mut child in children {
        while let Some(event) = child.event().await? {
            match event {
                Event::Message(message) => {
                    println!("parent: child {} says: {}", child.pid(), message.parse::<String>()?);
                    // It has nothing more to do; the end of the channel tells it so.
                    child.disconnect().await?;
                }
                Event::Exit(status) => println!("parent: child {} {status}", child.pid()),
                Event::Disconnect => {}
                event => return Err(format!("unexpected: {event:?}").into()),
            }
        }
    }
    Ok(())
}

async fn be_child(channel: Channel) -> Result {
    while let Some(message) = channel.recv().await? {
        let text: String = message.parse()?;
        println!("child {}: got: {text}", std::process::id());
        channel.send(&text).await?;
    }
    Ok(())
}
