//! A worker that answers by hand: the least a program can do with what the library gives it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use everycore::{Listener, Stream, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::burn;
use crate::once::spawn_if_it_waits;
use crate::witness::Witness;

pub(crate) async fn serve(
    worker: Worker,
    mut listener: Listener,
    witness: Option<Witness>,
) -> everycore::Result<()> {
    let answers = Arc::new(Answers::new(worker.pid()));
    while let Ok((stream, peer)) = listener.accept().await {
        if let Some(witness) = &witness {
            witness.took(&peer);
        }
        let (answers, worker) = (Arc::clone(&answers), worker.clone());
        spawn_if_it_waits(async move {
            // A client that goes away in the middle is none of our concern.
            let _ = answer_all(stream, &answers, &worker).await;
        });
    }
    Ok(())
}

/// The two answers there are.
struct Answers {
    stays: Vec<u8>,
    closes: Vec<u8>,
}

impl Answers {
    fn new(pid: u32) -> Self {
        let body = format!("{pid}\n");
        let answer =
            |end: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}{end}\r\n\r\n{body}", body.len());
        Self { stays: answer("").into_bytes(), closes: answer("\r\nConnection: close").into_bytes() }
    }
}

/// As with hyper: a connection at rest is kept almost to the end of the drain.
async fn answer_all(mut stream: Stream, answers: &Answers, worker: &Worker) -> std::io::Result<()> {
    let mut buffer = [0u8; 1024];
    let mut filled = 0;
    let mut drained = pin!(worker.drained());
    loop {
        let mut reading = pin!(stream.read(&mut buffer[filled..]));
        let read = poll_fn(|cx| match reading.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read),
            // The end of the drain counts as the end of the connection.
            Poll::Pending => drained.as_mut().poll(cx).map(|()| Ok(0)),
        })
        .await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let Some(head) = buffer[..filled].strip_suffix(b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(head).unwrap_or_default();
        if let Some(length) = head.split(' ').nth(1).and_then(burn::asked_for) {
            burn::burn(length);
        }
        let closes = head.contains("Connection: close") || worker.is_draining();
        stream.write_all(if closes { &answers.closes } else { &answers.stays }).await?;
        if closes {
            return Ok(());
        }
        filled = 0;
    }
}
