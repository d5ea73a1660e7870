//! The life of a worker's program under a runtime: built, run, and left in order.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::drain::Why;
use super::driver::{ensure_task, ensure_thread};
use super::fin;
use super::messages::wait_blocking;
use crate::error::{Error, Result};

/// How long the last messages may take to be written, and tasks that block to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Worker {
    /// Runs the worker's program to its end, on a tokio runtime of this one thread, with I/O and time enabled.
    ///
    /// The primary sees when the loop is busy, so it hands connections to workers that are not. When the program has
    /// ended, the worker leaves in order: see [`finish`](Self::finish). Tasks that were spawned go on until then.
    ///
    /// ```no_run
    /// # fn serve(worker: everycore::Worker) -> everycore::Result<()> {
    /// worker.block_on(async |worker| {
    ///     let mut listener = worker.listen("127.0.0.1:8000").await?;
    ///     while let Ok((stream, _)) = listener.accept().await {
    ///         tokio::spawn(async move { drop(stream) });
    ///     }
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The program's own, or the runtime cannot be built.
    pub fn block_on<T, E, P, F>(&self, program: P) -> Result<T, E>
    where
        P: FnOnce(Worker) -> F,
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let load = &self.core.link.load;
        let (parked, unparked) = (Arc::clone(load), Arc::clone(load));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || parked.park())
            .on_thread_unpark(move || unparked.unpark())
            .build()
            .map_err(|source| Error::System { doing: "building the worker's runtime", source })?;
        let in_loop = load.enter_loop();
        let result = runtime.block_on(async {
            ensure_task(&self.core.link)?;
            tokio::spawn(fin::carry_out());
            let result = program(self.clone()).await;
            self.finish().await;
            result
        });
        drop(in_loop);
        runtime.shutdown_timeout(LAST_WORDS);
        result
    }

    /// Leaves the cluster in order: accepts no more, waits until no connection is left or the time to drain is over,
    /// writes the last messages, closes the channel. [`block_on`](Self::block_on) does it by itself; a program with
    /// its own runtime calls it last.
    ///
    /// Under a primary of Node's, a connection that crosses the end of a program nobody has told to leave is lost, as with
    /// `process.exit()` there: such a program calls [`disconnect`](Self::disconnect) first, which Node answers after the last
    /// connection it has sent.
    pub async fn finish(&self) {
        let link = &self.core.link;
        // A program that only ever sent may have none, and the last words may be longer than the channel has room for.
        let _ = ensure_task(link);
        link.leave(Why::Ended);
        let _ = tokio::time::timeout(self.drain_time() + LAST_WORDS, link.load.idle()).await;
        if link.is_under_node() {
            self.take_leave_of_node().await;
        } else {
            let _ = tokio::time::timeout(LAST_WORDS, self.flushed()).await;
        }
        link.shut_down();
    }

    /// Node's primary may have sent a connection just before it heard that a server was closed: only after its answer to
    /// the last word is it certain that all were refused. And it must not write into a channel that is no more.
    async fn take_leave_of_node(&self) {
        let link = &self.core.link;
        link.close_servers();
        if link.drain.is_because(Why::OwnWish)
            && let Some(noted) = link.ask_to_leave()
        {
            let _ = tokio::time::timeout(LAST_WORDS, noted).await;
        }
        let _ = tokio::time::timeout(LAST_WORDS, self.flushed()).await;
        if ensure_task(link).is_ok() {
            link.end_writing();
            let _ = tokio::time::timeout(LAST_WORDS, self.ended()).await;
        }
    }

    async fn ended(&self) {
        let link = &self.core.link;
        loop {
            let mut arrived = pin!(link.arrived.notified());
            arrived.as_mut().enable();
            if link.is_over() {
                return;
            }
            poll_fn(|cx| arrived.as_mut().poll(cx)).await;
        }
    }

    /// As [`finish`](Self::finish), for a program without a runtime; under Node, after
    /// [`disconnect_blocking`](Self::disconnect_blocking).
    pub fn finish_blocking(&self) {
        let link = &self.core.link;
        link.leave(Why::Ended);
        link.load.idle_blocking(Instant::now() + self.drain_time() + LAST_WORDS);
        let deadline = Instant::now() + LAST_WORDS;
        let can_wait = !link.is_under_node() || ensure_thread(link).is_ok();
        if link.is_under_node() && can_wait {
            link.close_servers();
            if link.drain.is_because(Why::OwnWish)
                && let Some(mut noted) = link.ask_to_leave()
            {
                let _ = wait_blocking(link, &mut noted, Some(deadline));
            }
        }
        // Where no thread can be started the last messages go as far as the kernel takes them at once.
        if !link.write() && ensure_thread(link).is_ok() {
            let mut state = link.lock();
            while !state.is_flushed() && !state.is_over() && Instant::now() < deadline {
                state = link.wait_change(state, Some(deadline));
            }
        }
        if link.is_under_node() && can_wait {
            link.end_writing();
            let mut state = link.lock();
            while !state.is_over() && Instant::now() < deadline {
                state = link.wait_change(state, Some(deadline));
            }
        }
        link.shut_down();
    }

    async fn flushed(&self) {
        let link = &self.core.link;
        loop {
            let mut room = pin!(link.room.notified());
            room.as_mut().enable();
            if link.write() || link.is_over() {
                return;
            }
            // `write` has just notified; only the next change counts.
            room.set(link.room.notified());
            room.as_mut().enable();
            poll_fn(|cx| room.as_mut().poll(cx)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use everycore_ipc::Incoming;

    use super::*;
    use crate::protocol::FromWorker;
    use crate::worker::testing::FakePrimary;

    #[test]
    fn the_program_ends_when_its_last_connection_and_its_last_words_have_gone() {
        let (mut primary, worker) = FakePrimary::with_worker();
        let served = std::thread::scope(|scope| {
            let program = scope.spawn(|| {
                worker.block_on(async |worker| {
                    let mut listener = worker.listen("127.0.0.1:80").await?;
                    let (stream, _) = listener.accept().await.expect("one was handed over");
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        drop(stream);
                    });
                    worker.send("last words").await?;
                    Result::<_>::Ok(worker)
                })
            });
            let hand_off = primary.grant_hand_off(1, "127.0.0.1:80");
            let _client = hand_off.hand(5);
            assert_eq!(primary.hear(), FromWorker::Listening { key: 1 });
            match primary.receive() {
                Some(Incoming::User(message)) => assert_eq!(message.parse::<String>().unwrap(), "last words"),
                other => panic!("{other:?}"),
            }
            assert_eq!(primary.hear(), FromWorker::Closed { key: 1 });
            assert!(primary.receive().is_none());
            program.join().unwrap().unwrap()
        });
        assert_eq!(served.connections(), 0);
        let counters = primary.counters();
        assert_eq!((counters.taken, counters.ready, counters.closed, counters.awake), (1, 1, 1, false));
    }

    #[test]
    fn the_primary_sees_the_loop_sleep() {
        let (mut primary, worker) = FakePrimary::with_worker();
        primary.page.set_wake(u64::MAX, true);
        let order = std::thread::scope(|scope| {
            let program = scope.spawn(|| {
                worker.block_on(async |worker| {
                    worker.draining().await;
                    Result::<_>::Ok(())
                })
            });
            // Rung when the loop has nothing to do.
            let mut fds = [rustix::event::PollFd::new(&primary.bell, rustix::event::PollFlags::IN)];
            let patience = crate::worker::timespec(crate::worker::testing::PATIENCE);
            assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1);
            primary.tell(&crate::protocol::ToWorker::Disconnect { stopping: false }, vec![]);
            program.join().unwrap()
        });
        order.unwrap();
        assert!(worker.exited_after_disconnect());
    }

    #[test]
    fn an_error_of_the_program_is_the_callers() {
        let (_primary, worker) = FakePrimary::with_worker();
        let result: Result<(), Box<dyn std::error::Error>> =
            worker.block_on(async |_| Err("the program's own".into()));
        assert_eq!(result.unwrap_err().to_string(), "the program's own");
    }

    #[test]
    fn blocking_calls_within_the_runtime_are_refused_and_not_stuck() {
        let (_primary, worker) = FakePrimary::with_worker();
        let error = worker.block_on(async |worker| worker.recv_blocking().map(drop)).unwrap_err();
        assert!(error.to_string().contains("async"), "{error}");
    }

    #[test]
    fn a_runtime_that_ends_leaves_the_channel_to_a_thread() {
        let (mut primary, worker) = FakePrimary::with_worker();
        crate::worker::testing::run(async {
            assert!(worker.request("nobody answers", Duration::from_millis(1)).await.is_err());
        });
        let other = worker.clone();
        let waiting =
            std::thread::spawn(move || other.recv_blocking().unwrap().unwrap().parse::<String>().unwrap());
        assert!(matches!(primary.receive(), Some(Incoming::Request { .. })));
        primary.send(everycore_ipc::Message::json("still there").unwrap().into());
        assert_eq!(waiting.join().unwrap(), "still there");
    }

    #[test]
    fn a_program_with_a_runtime_of_its_own_finishes_by_itself() {
        let (mut primary, worker) = FakePrimary::with_worker();
        crate::worker::testing::run(async {
            worker.send("hi there").await.unwrap();
            worker.finish().await;
        });
        assert!(matches!(primary.receive(), Some(Incoming::User(_))));
        assert!(primary.receive().is_none());
        assert!(worker.is_draining() && !worker.is_connected());
    }
}
