//! The same exchange under tokio, on a runtime of one thread as workers have it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use everycore_ipc::{Channel, Codec, Connection, Limits};

use super::Payload;

/// Messages sent and received at a time, and about how many bytes of them are made before they are sent.
const MANY: usize = 64;
const BATCH: usize = 16 * 1024;

/// Both times, as in the blocking case.
pub(super) fn measure(
    socket: OwnedFd,
    codec: Codec,
    payload: &Payload,
    round_trips: usize,
    one_ways: usize,
) -> io::Result<(f64, f64)> {
    runtime()?.block_on(async {
        let channel = Channel::new(Connection::new(socket, codec, Limits::default())?);
        let mut began = Instant::now();
        for round in 0..round_trips + round_trips / 8 {
            if round == round_trips / 8 {
                began = Instant::now();
            }
            send(&channel, payload).await?;
            receive(&channel, codec).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        let round_trip = began.elapsed().as_nanos() as f64 / round_trips.max(1) as f64;

        let nothing = Payload::new(codec, 0);
        send(&channel, &nothing).await?;
        let began = Instant::now();
        let (mut left, mut batch) = (one_ways, VecDeque::new());
        let most = (BATCH / payload.len().max(1)).clamp(1, MANY);
        while left > 0 {
            for _ in 0..left.min(most) {
                batch.push_back(payload.to_message()?);
            }
            left -= batch.len();
            channel.send_many(&mut batch).await.map_err(io::Error::other)?;
        }
        send(&channel, &nothing).await?;
        receive(&channel, codec).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((round_trip, one_ways as f64 / began.elapsed().as_secs_f64()))
    })
}

pub(super) fn echo(socket: OwnedFd, codec: Codec, nothing: &Payload) -> io::Result<()> {
    runtime()?.block_on(async {
        let channel = Channel::new(Connection::new(socket, codec, Limits::default())?);
        let (mut answering, mut messages) = (true, Vec::new());
        while channel.recv_many(&mut messages, MANY).await.map_err(io::Error::other)? > 0 {
            for message in messages.drain(..) {
                let heard = Payload::of(codec, message)?;
                let ends_run = heard == *nothing;
                if answering && !ends_run || !answering && ends_run {
                    send(&channel, &heard).await?;
                }
                answering ^= ends_run;
            }
        }
        Ok(())
    })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn send(channel: &Channel, payload: &Payload) -> io::Result<()> {
    channel.send_message(payload.to_message()?).await.map_err(io::Error::other)
}

async fn receive(channel: &Channel, codec: Codec) -> io::Result<Option<Payload>> {
    let message = channel.recv().await.map_err(io::Error::other)?;
    message.map(|message| Payload::of(codec, message)).transpose()
}
