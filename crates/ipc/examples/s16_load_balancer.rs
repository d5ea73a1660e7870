//! S16: a load-balanced web server made of fork, messages and handles alone.
//!
//! The parent accepts and sends each socket to the child with the fewest open connections, among equals in turn. Children
//! report each connection they have closed. One that dies is replaced, and what it had is forgotten.
//!
//! `cargo run -p everycore-ipc --example s16_load_balancer [address] [children]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use everycore_ipc::{Channel, Codec, Event, fork, parent};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let parent = parent()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match parent {
        Some(channel) => runtime.block_on(be_child(channel)),
        None => runtime.block_on(LocalSet::new().run_until(be_parent())),
    }
}

/// A running child as the balancer sees it.
struct Member {
    pid: u32,
    channel: Channel,
    open: usize,
}

/// In turn: whoever was chosen goes to the back.
type Members = Rc<RefCell<VecDeque<Member>>>;

async fn be_parent() -> Result {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:1337".into());
    let count = match args.next() {
        Some(count) => count.parse()?,
        None => everycore_sys::cpu::available_cpus(),
    };
    let members = Members::default();
    for _ in 0..count {
        tokio::task::spawn_local(keep_one_running(members.clone()));
    }
    let listener = TcpListener::bind(&address).await?;
    println!("http://{} with {count} children", listener.local_addr()?);
    loop {
        let (stream, _peer) = listener.accept().await?;
        let Some(channel) = choose(&members) else { continue };
        // A child that has just died: its connection is lost, the next goes to another.
        let _ = channel.send_with("connection", stream.into_std()?).await;
    }
}

fn choose(members: &Members) -> Option<Channel> {
    let mut members = members.borrow_mut();
    let (index, _) = members.iter().enumerate().min_by_key(|(_, member)| member.open)?;
    let mut member = members.remove(index)?;
    member.open += 1;
    let channel = member.channel.clone();
    members.push_back(member);
    Some(channel)
}

/// Forks a child, follows its events to the end, and starts again.
async fn keep_one_running(members: Members) {
    loop {
        match run_one(&members).await {
            Ok(end) => println!("{end}, forking another"),
            Err(error) => return println!("cannot run a child: {error}"),
        }
    }
}

async fn run_one(members: &Members) -> Result<String> {
    let mut child = fork(std::env::current_exe()?).codec(Codec::Native).spawn()?;
    let pid = child.pid();
    let channel = child.channel().ok_or("a fork has a channel")?.clone();
    members.borrow_mut().push_back(Member { pid, channel, open: 0 });
    while let Some(event) = child.event().await? {
        match event {
            Event::Message(_closed) => {
                if let Some(member) = members.borrow_mut().iter_mut().find(|member| member.pid == pid) {
                    member.open = member.open.saturating_sub(1);
                }
            }
            Event::Disconnect => members.borrow_mut().retain(|member| member.pid != pid),
            Event::Exit(status) => return Ok(format!("child {pid} {status}")),
            _ => {}
        }
    }
    Ok(format!("child {pid} is gone"))
}

async fn be_child(channel: Channel) -> Result {
    while let Some(mut message) = channel.recv().await? {
        let Some(handle) = message.take_handle() else { continue };
        let stream = TcpStream::from_std(handle.try_into()?)?;
        let channel = channel.clone();
        tokio::spawn(async move {
            let _ = answer(stream).await;
            let _ = channel.send("closed").await;
        });
    }
    Ok(())
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let body = format!("child {}\n", std::process::id());
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
