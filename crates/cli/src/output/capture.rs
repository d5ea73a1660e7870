//! Reads what workers write: a thread that polls all their pipes, puts prefixes in front of lines and keeps the
//! last ones.
//!
//! It always reads and never waits for the screen, so a worker's pipe does not fill up; lines for which there is no
//! room are dropped, counted, and the count is told.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Stream;
use super::lines::{Splitter, Tail};
use super::prefix::Prefixes;
use super::screen::Voice;

/// Bytes read from one pipe before the others have their turn.
const READ: usize = 64 * 1024;

/// How soon it is tried again to tell how many lines were dropped.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Workers that are gone whose last lines are kept.
const KEPT_WORKERS: usize = 64;

/// Hands out pipes for workers to write to.
#[derive(Debug)]
pub(crate) struct Capture {
    sources: Sender<Source>,
    wake: PipeWriter,
    tails: Tails,
}

/// One pipe.
#[derive(Debug)]
struct Source {
    pipe: PipeReader,
    worker: u32,
    splitter: Splitter,
    outlet: Outlet,
}

/// Where the lines of a pipe go.
#[derive(Debug)]
struct Outlet {
    stream: Stream,
    prefix: String,
    /// Lines there was no room for, and nobody was told yet.
    dropped: u64,
}

impl Capture {
    /// Starts the reading thread.
    pub(crate) fn start(voice: Voice, tails: Tails) -> io::Result<Self> {
        let (sources, arriving) = channel();
        let (woken, wake) = io::pipe()?;
        let reader =
            Reader { voice, tails: tails.clone(), sources: Vec::new(), debts: Vec::new(), arriving, woken };
        std::thread::Builder::new().name("capture".into()).spawn(move || reader.run())?;
        Ok(Self { sources, wake, tails })
    }

    /// A pipe's writing end for one worker's output.
    pub(crate) fn pipe(
        &mut self,
        worker: u32,
        slot: u32,
        stream: Stream,
        prefixes: &Prefixes,
    ) -> io::Result<OwnedFd> {
        let (pipe, writer) = io::pipe()?;
        let prefix = prefixes.worker(slot);
        self.tails.opened(worker);
        let outlet = Outlet { stream, prefix, dropped: 0 };
        let source = Source { pipe, worker, splitter: Splitter::default(), outlet };
        self.sources.send(source).map_err(io::Error::other)?;
        self.wake.write_all(&[1])?;
        Ok(writer.into())
    }
}

struct Reader {
    voice: Voice,
    tails: Tails,
    sources: Vec<Source>,
    /// Outlets of pipes that have ended, whose dropped lines are still to be told.
    debts: Vec<Outlet>,
    arriving: Receiver<Source>,
    woken: PipeReader,
}

impl Reader {
    /// Ends when nobody can hand out pipes any more and every pipe has ended.
    fn run(mut self) {
        let mut open = true;
        while open || !self.sources.is_empty() {
            let Ok((woken, readable)) = self.wait(open) else { return };
            self.read(&readable);
            self.tell_dropped();
            if woken {
                // One byte per new pipe; the end when there will be no more.
                open = matches!(self.woken.read(&mut [0; 64]), Ok(1..));
                self.sources.extend(self.arriving.try_iter());
            }
        }
    }

    /// Reads once from each source that has something.
    fn read(&mut self, readable: &[bool]) {
        let mut readable = readable.iter();
        for mut source in std::mem::take(&mut self.sources) {
            let open = !readable.next().unwrap_or(&false) || source.read(&self.voice, &self.tails);
            if open {
                self.sources.push(source);
            } else if source.outlet.dropped > 0 {
                self.debts.push(source.outlet);
            }
        }
    }

    fn tell_dropped(&mut self) {
        for source in &mut self.sources {
            source.outlet.tell_dropped(&self.voice);
        }
        let before = self.debts.len();
        self.debts.retain_mut(|outlet| !outlet.tell_dropped(&self.voice));
        self.tails.told(before - self.debts.len());
    }

    /// Waits; says whether there are new pipes, and which of the known ones have something.
    fn wait(&self, open: bool) -> rustix::io::Result<(bool, Vec<bool>)> {
        let mut fds: Vec<_> = self
            .sources
            .iter()
            .map(|source| PollFd::from_borrowed_fd(source.pipe.as_fd(), PollFlags::IN))
            .collect();
        if open {
            fds.push(PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN));
        }
        let indebted = !self.debts.is_empty() || self.sources.iter().any(|source| source.outlet.dropped > 0);
        let patience = indebted.then_some(&RETRY);
        loop {
            match poll(&mut fds, patience) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        let mut ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let woken = open && ready.pop().unwrap_or(false);
        Ok((woken, ready))
    }
}

impl Source {
    /// Reads once; `false` when the pipe has ended.
    fn read(&mut self, voice: &Voice, tails: &Tails) -> bool {
        let mut buffer = vec![0; READ];
        let length = self.pipe.read(&mut buffer).unwrap_or(0);
        let (worker, outlet) = (self.worker, &mut self.outlet);
        let line = |line: &[u8]| {
            tails.push(worker, line);
            outlet.pass_on(line, voice);
        };
        match length {
            0 => self.splitter.finish(line),
            length => self.splitter.push(&buffer[..length], line),
        }
        if length == 0 {
            tails.closed(worker, self.outlet.dropped > 0);
        }
        length > 0
    }
}

impl Outlet {
    fn pass_on(&mut self, line: &[u8], voice: &Voice) {
        let text = [self.prefix.as_bytes(), line, b"\n"].concat();
        if !self.tell_dropped(voice) || !voice.pass_on(self.stream, text) {
            self.dropped += 1;
        }
    }

    /// Tells how many lines were dropped here; `false` if there is no room even for that.
    fn tell_dropped(&mut self, voice: &Voice) -> bool {
        if self.dropped > 0 {
            let text = format!("{}[{} dropped here]\n", self.prefix, super::count(self.dropped, "line"));
            if !voice.pass_on(self.stream, text.into_bytes()) {
                return false;
            }
            self.dropped = 0;
        }
        true
    }
}

/// The last lines of each worker, shared between who reads and who reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tails(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    workers: Mutex<BTreeMap<u32, Kept>>,
    /// Pipes that have ended with dropped lines nobody was told of yet.
    untold: AtomicUsize,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    tail: Tail,
    open: u32,
}

impl Tails {
    /// A worker's last lines, once its output has ended or this long has passed.
    pub(crate) fn of(&self, worker: u32, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut workers = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match workers.get(&worker) {
                None => return Vec::new(),
                Some(kept) if kept.open == 0 || left.is_zero() => return kept.tail.lines(),
                Some(_) => {}
            }
            workers = self.0.ended.wait_timeout(workers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every worker's output has ended and all that was dropped of it is told, but no longer than this.
    pub(crate) fn settle(&self, patience: Duration) {
        let over = |workers: &mut BTreeMap<u32, Kept>| {
            workers.values().any(|kept| kept.open > 0) || self.0.untold.load(Ordering::SeqCst) > 0
        };
        drop(self.0.ended.wait_timeout_while(self.lock(), patience, over));
    }

    fn opened(&self, worker: u32) {
        let mut workers = self.lock();
        workers.entry(worker).or_default().open += 1;
        if workers.values().filter(|kept| kept.open == 0).count() > KEPT_WORKERS {
            let oldest = workers.iter().find(|(_, kept)| kept.open == 0).map(|(worker, _)| *worker);
            oldest.and_then(|worker| workers.remove(&worker));
        }
    }

    fn push(&self, worker: u32, line: &[u8]) {
        if let Some(kept) = self.lock().get_mut(&worker) {
            kept.tail.push(line);
        }
    }

    fn closed(&self, worker: u32, indebted: bool) {
        self.0.untold.fetch_add(usize::from(indebted), Ordering::SeqCst);
        if let Some(kept) = self.lock().get_mut(&worker) {
            kept.open = kept.open.saturating_sub(1);
        }
        self.0.ended.notify_all();
    }

    /// So many pipes' dropped lines are told now.
    fn told(&self, pipes: usize) {
        if pipes > 0 {
            let _waiting = self.lock();
            self.0.untold.fetch_sub(pipes, Ordering::SeqCst);
            self.0.ended.notify_all();
        }
    }

    /// A panic elsewhere cannot leave the map half-changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Kept>> {
        self.0.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_complete_once_the_output_has_ended() {
        let tails = Tails::default();
        tails.opened(1);
        tails.push(1, b"first");
        assert_eq!(tails.of(1, Duration::ZERO), ["first"]);
        let reader = {
            let tails = tails.clone();
            std::thread::spawn(move || tails.of(1, Duration::from_secs(30)))
        };
        tails.push(1, b"last");
        tails.closed(1, false);
        assert_eq!(reader.join().unwrap(), ["first", "last"]);
        assert!(tails.of(2, Duration::from_secs(30)).is_empty());
    }

    #[test]
    fn the_oldest_of_the_gone_are_forgotten() {
        let tails = Tails::default();
        for worker in 0..KEPT_WORKERS as u32 + 2 {
            tails.opened(worker);
            tails.closed(worker, false);
        }
        assert!(tails.lock().len() <= KEPT_WORKERS + 1);
        assert!(!tails.lock().contains_key(&0));
    }
}
