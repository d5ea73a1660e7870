//! How fast messages go between two processes: one way and there and back, by size, codec and face, beside what the
//! system calls alone cost; and the processor time of a message, sent and received by one thread, which a busy machine
//! disturbs least.
//!
//! `cargo run --release -p everycore-ipc --example throughput [seconds per figure] [filter]`
//!
//! Figures of one run may be compared with each other; those of different runs or machines only as ratios.

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everycore_ipc::{
    Channel, Codec, Connection, Flush, Fork, Format, Limits, Message, Received, blocking, fork, inherited,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SIZES: [usize; 3] = [64, 64 * 1024, 1024 * 1024];
const CODECS: [(&str, Option<Codec>); 4] = [
    ("raw", None),
    ("native", Some(Codec::Native)),
    ("json", Some(Codec::Json)),
    ("advanced", Some(Codec::Advanced)),
];
const ROLE: &str = "THROUGHPUT_ROLE";

fn main() -> Result {
    match std::env::var(ROLE) {
        Ok(role) => be_peer(&role),
        Err(_) => measure(),
    }
}

fn measure() -> Result {
    let mut args = std::env::args().skip(1);
    let time = Duration::from_secs_f64(args.next().map_or(Ok(1.0), |seconds| seconds.parse())?);
    let filter = args.next().unwrap_or_default();
    println!("{:<28} {:>14} {:>14} {:>14}", "", "64 B", "64 KiB", "1 MiB");
    for (name, codec) in CODECS {
        let title = format!("{name}, CPU µs");
        if title.contains(&filter) {
            let figures = SIZES.map(|size| match cpu_time(codec, size, time) {
                Ok(micros) => format!("{micros:.3}"),
                Err(error) => error.to_string(),
            });
            println!("{title:<28} {:>14} {:>14} {:>14}", figures[0], figures[1], figures[2]);
        }
    }
    for way in ["one way per second", "round trip µs"] {
        for (name, codec) in CODECS {
            let faces: &[&str] =
                if codec.is_none() { &["blocking"] } else { &["connection", "blocking", "tokio"] };
            for face in faces {
                let title = format!("{name}, {face}, {}", &way[..way.find(' ').unwrap_or(0) + 4]);
                if !title.contains(&filter) {
                    continue;
                }
                let figures = SIZES.map(|size| figure(way, codec, face, size, time));
                println!("{title:<28} {:>14} {:>14} {:>14}", figures[0], figures[1], figures[2]);
            }
        }
    }
    Ok(())
}

/// One figure, or why there is none.
fn figure(way: &str, codec: Option<Codec>, face: &str, size: usize, time: Duration) -> String {
    let measured = if way.starts_with("one") {
        one_way(codec, face, size, time).map(|rate| format!("{rate:.0}"))
    } else {
        round_trip(codec, face, size, time).map(|micros| format!("{micros:.1}"))
    };
    measured.unwrap_or_else(|error| error.to_string())
}

/// The other process: reads what comes, and either counts or sends it back.
fn peer(role: &str, codec: Codec) -> Result<Fork> {
    Ok(fork(std::env::current_exe()?).codec(codec).env(ROLE, role))
}

fn be_peer(role: &str) -> Result {
    let inherited = inherited()?.ok_or("started without a channel")?;
    let (face, echo) = role.split_once(' ').ok_or("no such role")?;
    let echo = echo == "echo";
    match face {
        "raw" => be_raw_peer(inherited.socket.into(), echo),
        "tokio" => {
            let channel = Channel::new(inherited.connection(Limits::default())?);
            runtime()?.block_on(async {
                while let Some(message) = channel.recv().await? {
                    if let Some(reply) = answer(message, echo)? {
                        channel.send_message(reply).await?;
                    }
                }
                Ok(())
            })
        }
        _ => {
            let channel = blocking::Channel::new(inherited.connection(Limits::default())?);
            while let Some(message) = channel.recv()? {
                if let Some(reply) = answer(message, echo)? {
                    channel.send_message(reply)?;
                }
            }
            Ok(())
        }
    }
}

/// What a program says: what it is about, and a text.
type Said = (String, String);

/// Reads a message as a program would. The last of a series is empty, and is always answered.
fn answer(message: Message, echo: bool) -> Result<Option<Message>> {
    if message.format() == Format::Raw {
        let reply = echo || message.bytes().len() == 1;
        return Ok(reply.then_some(message));
    }
    let said: Said = message.parse()?;
    if !echo && !said.0.is_empty() {
        return Ok(None);
    }
    Ok(Some(if message.format() == Format::V8 { Message::v8(&said)? } else { Message::json(&said)? }))
}

/// A message of about this size: bytes between Rust programs, else what a program would say.
fn payload(codec: Codec, size: usize) -> Payload {
    if codec == Codec::Native {
        return Payload::Raw(vec![b'x'; size].into());
    }
    Payload::Said(("notify".to_owned(), "x".repeat(size.saturating_sub(14))))
}

enum Payload {
    Raw(Bytes),
    Said(Said),
}

impl Payload {
    fn message(&self, codec: Codec) -> Result<Message> {
        Ok(match (self, codec) {
            (Self::Raw(bytes), _) => Message::raw(bytes.clone()),
            (Self::Said(said), Codec::Advanced) => Message::v8(said)?,
            (Self::Said(said), _) => Message::json(said)?,
        })
    }

    /// The last of a series.
    fn last(&self) -> Result<Message> {
        Ok(match self {
            Self::Raw(_) => Message::raw("x"),
            Self::Said(_) => Message::json(&("", ""))?,
        })
    }
}

/// Messages per second, sent without waiting for answers.
fn one_way(codec: Option<Codec>, face: &str, size: usize, time: Duration) -> Result<f64> {
    let Some(codec) = codec else { return raw_one_way(size, time) };
    let role = if face == "tokio" { "tokio count" } else { "blocking count" };
    let connection = peer(role, codec)?.spawn_parts()?.connection.ok_or("no channel")?;
    let payload = payload(codec, size);
    let start = Instant::now();
    let mut count = 0_u64;
    match face {
        "tokio" => {
            let channel = Channel::new(connection);
            runtime()?.block_on(async {
                while start.elapsed() < time {
                    for _ in 0..batch(size) {
                        channel.send_message(payload.message(codec)?).await?;
                        count += 1;
                    }
                }
                channel.send_message(payload.last()?).await?;
                channel.recv().await?;
                Ok::<_, Box<dyn std::error::Error>>(())
            })?;
        }
        "blocking" => {
            let channel = blocking::Channel::new(connection);
            while start.elapsed() < time {
                for _ in 0..batch(size) {
                    channel.send_message(payload.message(codec)?)?;
                    count += 1;
                }
            }
            channel.send_message(payload.last()?)?;
            channel.recv()?;
        }
        _ => {
            let mut connection = connection;
            while start.elapsed() < time {
                for _ in 0..batch(size) {
                    connection.queue(payload.message(codec)?)?;
                    count += 1;
                    if connection.queued_bytes() >= 64 * 1024 {
                        flush(&mut connection)?;
                    }
                }
            }
            connection.queue(payload.last()?)?;
            flush(&mut connection)?;
            receive(&mut connection)?;
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Microseconds until a message has come back.
fn round_trip(codec: Option<Codec>, face: &str, size: usize, time: Duration) -> Result<f64> {
    let Some(codec) = codec else { return raw_round_trip(size, time) };
    let role = if face == "tokio" { "tokio echo" } else { "blocking echo" };
    let connection = peer(role, codec)?.spawn_parts()?.connection.ok_or("no channel")?;
    let payload = payload(codec, size);
    let mut count = 0_u32;
    let start;
    match face {
        "tokio" => {
            let channel = Channel::new(connection);
            start = runtime()?.block_on(async {
                channel.send_message(payload.message(codec)?).await?;
                channel.recv().await?;
                let start = Instant::now();
                while start.elapsed() < time {
                    channel.send_message(payload.message(codec)?).await?;
                    check(channel.recv().await?)?;
                    count += 1;
                }
                Ok::<_, Box<dyn std::error::Error>>(start)
            })?;
        }
        "blocking" => {
            let channel = blocking::Channel::new(connection);
            channel.send_message(payload.message(codec)?)?;
            channel.recv()?;
            start = Instant::now();
            while start.elapsed() < time {
                channel.send_message(payload.message(codec)?)?;
                check(channel.recv()?)?;
                count += 1;
            }
        }
        _ => {
            let mut connection = connection;
            connection.queue(payload.message(codec)?)?;
            flush(&mut connection)?;
            receive(&mut connection)?;
            start = Instant::now();
            while start.elapsed() < time {
                connection.queue(payload.message(codec)?)?;
                flush(&mut connection)?;
                check(Some(receive(&mut connection)?))?;
                count += 1;
            }
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// Processor time of one message, written, read and looked at by one thread, 64 KiB or one message at a time.
fn cpu_time(codec: Option<Codec>, size: usize, time: Duration) -> Result<f64> {
    let at_once = (65_536 / (size + 16)).max(1);
    let (start, mut count) = (thread_time(), 0_u32);
    let Some(codec) = codec else {
        let (mut here, mut there) = UnixStream::pair()?;
        let (frame, mut buffer, mut sent) = (raw_frame(size), vec![0; at_once * (4 + size)], Vec::new());
        while thread_time() - start < time {
            sent.clear();
            (0..at_once).for_each(|_| sent.extend_from_slice(&frame));
            for piece in sent.chunks(65_536 + 4) {
                here.write_all(piece)?;
                there.read_exact(&mut buffer[..piece.len()])?;
            }
            count += at_once as u32;
        }
        return Ok((thread_time() - start).as_secs_f64() * 1e6 / f64::from(count));
    };
    let (here, there) = everycore_sys::socket_pair::stream_pair()?;
    let mut here = Connection::new(here, codec, Limits::default())?;
    let mut there = Connection::new(there, codec, Limits::default())?;
    let payload = payload(codec, size);
    while thread_time() - start < time {
        for _ in 0..at_once {
            here.queue(payload.message(codec)?)?;
        }
        let mut got = 0;
        while got < at_once {
            here.flush()?;
            while let Received::Message(incoming) = there.receive()? {
                answer(incoming.into_message(), false)?;
                got += 1;
            }
        }
        count += at_once as u32;
    }
    Ok((thread_time() - start).as_secs_f64() * 1e6 / f64::from(count))
}

fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Reads an answer as a program would.
fn check(message: Option<Message>) -> Result {
    answer(message.ok_or("the peer has gone")?, false)?;
    Ok(())
}

/// How many messages are sent between two looks at the clock.
fn batch(size: usize) -> u32 {
    if size < 1000 { 256 } else { 1 }
}

fn flush(connection: &mut Connection) -> Result {
    loop {
        match connection.flush()? {
            Flush::Done => return Ok(()),
            Flush::More => {}
            Flush::Blocked | Flush::Throttled => wait(connection, rustix::event::PollFlags::OUT)?,
        }
    }
}

fn receive(connection: &mut Connection) -> Result<Message> {
    loop {
        match connection.receive()? {
            Received::Message(incoming) => return Ok(incoming.into_message()),
            Received::More => {}
            Received::Blocked => wait(connection, rustix::event::PollFlags::IN)?,
            Received::Closed => return Err("the peer has gone".into()),
        }
    }
}

fn wait(connection: &Connection, flags: rustix::event::PollFlags) -> Result {
    rustix::event::poll(&mut [rustix::event::PollFd::new(connection, flags)], None)?;
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

// What the system calls cost: length and bytes, blocking, nothing else.

fn raw_peer(role: &str) -> Result<UnixStream> {
    // The socket is taken out of the channel by name of its descriptor alone.
    let (ours, theirs) = UnixStream::pair()?;
    let command = peer(role, Codec::Json)?.without_channel().env("NODE_CHANNEL_FD", "3");
    command.fd(3, std::os::fd::OwnedFd::from(theirs)).spawn_parts()?;
    Ok(ours)
}

fn be_raw_peer(mut socket: UnixStream, echo: bool) -> Result {
    socket.set_nonblocking(false)?;
    let mut buffer = vec![0; 1 << 21];
    let (mut start, mut end) = (0, 0);
    loop {
        let have = &buffer[start..end];
        let total = have.first_chunk::<4>().map(|length| 4 + u32::from_le_bytes(*length) as usize);
        match total {
            Some(total) if have.len() >= total => {
                if echo || total == 5 {
                    socket.write_all(&buffer[start..start + total])?;
                }
                start += total;
            }
            _ => {
                if start == end {
                    (start, end) = (0, 0);
                } else if buffer.len() - start < total.unwrap_or(4) {
                    buffer.copy_within(start..end, 0);
                    (start, end) = (0, end - start);
                }
                let room = buffer.len().min(end + total.map_or(1 << 16, |total| total.max(1 << 16)));
                match socket.read(&mut buffer[end..room])? {
                    0 => return Ok(()),
                    count => end += count,
                }
            }
        }
    }
}

fn raw_frame(size: usize) -> Vec<u8> {
    let mut frame = (size as u32).to_le_bytes().to_vec();
    frame.resize(4 + size, b'x');
    frame
}

fn raw_one_way(size: usize, time: Duration) -> Result<f64> {
    let mut socket = raw_peer("raw count")?;
    let frame = raw_frame(size);
    let (mut count, mut buffer) = (0_u64, Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..batch(size) {
            count += 1;
            if size >= 1 << 16 {
                socket.write_all(&frame)?;
                continue;
            }
            buffer.extend_from_slice(&frame);
            if buffer.len() >= 1 << 16 {
                socket.write_all(&buffer)?;
                buffer.clear();
            }
        }
    }
    buffer.extend_from_slice(&raw_frame(1));
    socket.write_all(&buffer)?;
    socket.read_exact(&mut [0; 5])?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn raw_round_trip(size: usize, time: Duration) -> Result<f64> {
    let mut socket = raw_peer("raw echo")?;
    let mut frame = raw_frame(size);
    socket.write_all(&frame)?;
    socket.read_exact(&mut frame)?;
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < time {
        socket.write_all(&frame)?;
        socket.read_exact(&mut frame)?;
        count += 1;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}
