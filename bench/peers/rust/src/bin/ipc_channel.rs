//! ipc-channel: messages between two processes, each way over a channel of its own.
//!
//! `ipc_channel SIZE ROUND_TRIPS ONE_WAYS` starts itself as the other side and prints two numbers: nanoseconds per round trip and
//! messages per second one way.

#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Instant;

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

type Ends = (IpcBytesSender, IpcBytesReceiver);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, round_trips, one_ways] = args.as_slice() else {
        return echo(&args[0]);
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (size, round_trips, one_ways) = (number(size), number(round_trips), number(one_ways));

    let (server, name) = IpcOneShotServer::<Ends>::new().expect("a server");
    let mut child =
        Command::new(std::env::current_exe().expect("our own path")).arg(name).spawn().expect("a child");
    let (_, (to, from)) = server.accept().expect("the child connects");
    let payload = vec![b'x'; size];

    // The first eighth warms up.
    let mut began = Instant::now();
    for round in 0..round_trips + round_trips / 8 {
        if round == round_trips / 8 {
            began = Instant::now();
        }
        to.send(&payload).expect("the child reads");
        assert_eq!(from.recv().expect("the child answers").len(), size);
    }
    let round_trip = began.elapsed().as_nanos() / round_trips as u128;

    // An empty message ends the run of those that are not answered; its answer says all have arrived.
    to.send(&[]).expect("the child reads");
    let began = Instant::now();
    for _ in 0..one_ways {
        to.send(&payload).expect("the child reads");
    }
    to.send(&[]).expect("the child reads");
    from.recv().expect("the child answers");
    let one_way = one_ways as f64 / began.elapsed().as_secs_f64();
    drop((to, from));
    child.wait().expect("it is our child");
    println!("{round_trip} {one_way:.0}");
}

/// Answers each message, then swallows those between two empty ones.
fn echo(name: &str) {
    let (to_us, receiver) = ipc::bytes_channel().expect("a channel");
    let (sender, to_parent) = ipc::bytes_channel().expect("a channel");
    let parent: IpcSender<Ends> = IpcSender::connect(name.to_owned()).expect("the parent listens");
    parent.send((to_us, to_parent)).expect("the parent reads");
    let mut answering = true;
    while let Ok(message) = receiver.recv() {
        if answering && !message.is_empty() {
            sender.send(&message).expect("the parent reads");
        } else if message.is_empty() {
            if !answering {
                sender.send(&[]).expect("the parent reads");
            }
            answering = !answering;
        }
    }
}
