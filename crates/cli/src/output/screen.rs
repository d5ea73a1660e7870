//! The one thread that writes: lines as they come, and on a terminal a line at the bottom that changes.
//!
//! Everybody else only queues. The queue is bounded and never waited for, so a terminal that stands still, or a
//! reader that has gone, stops neither the primary nor a worker; what did not fit is counted and told.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::Stream;
use super::capture::Tails;
use super::narrator::Line;
use super::prefix::{Prefixes, Tone};
use crate::config::Style;

/// Lines that may wait for the writer.
const QUEUE: usize = 1024;

/// Lines written at once.
const BATCH: usize = 256;

/// How often the line at the bottom is drawn again.
const REDRAW: Duration = Duration::from_millis(250);

/// How long the last lines may take to be written once everything else is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a report waits for a worker's output to end before it shows what there is.
const EVIDENCE: Duration = Duration::from_millis(500);

/// Says what stands at the bottom now, if anything.
pub(crate) type Status = Box<dyn FnMut() -> Option<String> + Send>;

/// The writer thread, as its owner sees it.
#[derive(Debug)]
pub(crate) struct Screen {
    voice: Voice,
    done: Receiver<()>,
}

/// Queues lines; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
    prefixes: Prefixes,
}

enum Item {
    /// Nothing is written before this, and this comes first.
    Open(String),
    Line(Stream, Vec<u8>),
    /// A worker's last lines.
    Evidence(u32),
    /// From here on no line stands at the bottom.
    Still,
    End,
}

impl Screen {
    /// Starts the thread; it keeps silent until [`open`](Self::open).
    pub(crate) fn start(
        style: Style,
        app: &str,
        prefixes: Prefixes,
        tails: Tails,
        status: Status,
    ) -> std::io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let (finished, done) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let voice = Voice { queue, lost: Arc::clone(&lost), prefixes: prefixes.clone() };
        let json = style.json.then(|| app.to_owned());
        let writer = Writer { live: style.live, json, status, shown: false, prefixes, tails, lost };
        std::thread::Builder::new().name("screen".into()).spawn(move || {
            writer.run(&items);
            let _ = finished.send(());
        })?;
        Ok(Self { voice, done })
    }

    pub(crate) fn voice(&self) -> Voice {
        self.voice.clone()
    }

    /// Says the first lines; what was queued before follows.
    pub(crate) fn open(&self, lines: String) {
        let _ = self.voice.queue.send(Item::Open(lines));
    }

    /// Takes the line at the bottom away for good: what is said from here on are the last words.
    pub(crate) fn still(&self) {
        let _ = self.voice.queue.try_send(Item::Still);
    }

    /// Writes what is queued and takes the line at the bottom away. A reader that stands still is not waited for.
    pub(crate) fn close(self) {
        let deadline = Instant::now() + LAST_WORDS;
        while let Err(TrySendError::Full(_)) = self.voice.queue.try_send(Item::End) {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.done.recv_timeout(LAST_WORDS);
    }
}

impl Voice {
    /// Says something in everycore's name.
    pub(crate) fn say(&self, line: &Line) {
        self.queue_own(Item::Line(Stream::Stderr, self.worded(line).into_bytes()));
        if let Some(worker) = line.evidence {
            self.queue_own(Item::Evidence(worker));
        }
    }

    /// The line as `say` says it.
    pub(crate) fn worded(&self, line: &Line) -> String {
        format!("{}{}\n", self.prefixes.own(line.tone), line.text)
    }

    /// Says a line as it is.
    pub(crate) fn say_raw(&self, mut text: String) {
        text.push('\n');
        self.queue_own(Item::Line(Stream::Stderr, text.into_bytes()));
    }

    /// Passes a worker's line on, newline included; `false` if there is no room for it.
    pub(crate) fn pass_on(&self, stream: Stream, line: Vec<u8>) -> bool {
        !matches!(self.queue.try_send(Item::Line(stream, line)), Err(TrySendError::Full(_)))
    }

    fn queue_own(&self, item: Item) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(item) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread's own things.
struct Writer {
    live: bool,
    /// The program's name, when programs read along.
    json: Option<String>,
    status: Status,
    /// A line stands at the bottom.
    shown: bool,
    prefixes: Prefixes,
    tails: Tails,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, items: &Receiver<Item>) {
        let mut held = Vec::new();
        loop {
            match items.recv() {
                Ok(Item::Open(lines)) => {
                    held.insert(0, Item::Line(Stream::Stderr, lines.into_bytes()));
                    break;
                }
                Ok(Item::End) | Err(_) => return,
                Ok(item) => held.push(item),
            }
        }
        self.write(held);
        let mut redraw = Instant::now();
        loop {
            let item = match self.live {
                true => items.recv_timeout(redraw.saturating_duration_since(Instant::now())),
                false => items.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match item {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(items.try_iter().take(BATCH));
                    let over = batch.iter().any(|item| matches!(item, Item::End));
                    self.write(batch);
                    if over {
                        return self.clear();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let line = (self.status)();
                    self.draw(line);
                    redraw = Instant::now() + REDRAW;
                }
                Err(RecvTimeoutError::Disconnected) => return self.clear(),
            }
        }
    }

    /// Writes lines above the line at the bottom, with as few system calls as the change of streams allows.
    fn write(&mut self, items: Vec<Item>) {
        let mut pending: Option<(Stream, Vec<u8>)> = None;
        let mut add = |stream: Stream, bytes: &[u8]| match &mut pending {
            Some((current, buffer)) if *current == stream => buffer.extend_from_slice(bytes),
            _ => {
                if let Some((stream, buffer)) = pending.replace((stream, bytes.to_vec())) {
                    write_to(stream, &buffer);
                }
            }
        };
        if self.shown {
            add(Stream::Stderr, ERASE);
            self.shown = false;
        }
        for item in items {
            match item {
                Item::Line(stream, bytes) => add(stream, &bytes),
                Item::Evidence(worker) => add(Stream::Stderr, self.evidence(worker).as_bytes()),
                Item::Still => self.live = false,
                Item::Open(_) | Item::End => {}
            }
        }
        if let Some(text) = self.lost() {
            add(Stream::Stderr, text.as_bytes());
        }
        if let Some((stream, buffer)) = pending {
            write_to(stream, &buffer);
        }
        if self.live {
            let line = (self.status)();
            self.draw(line);
        }
    }

    /// What there is to say of lines that found the queue full.
    fn lost(&self) -> Option<String> {
        let lost = match self.lost.swap(0, Ordering::Relaxed) {
            0 => return None,
            lost => lost,
        };
        Some(match &self.json {
            Some(app) => super::json::lost(app, lost, SystemTime::now()) + "\n",
            None => format!(
                "{}{} could not be shown in time\n",
                self.prefixes.own(Tone::Bad),
                super::count(lost, "line")
            ),
        })
    }

    fn evidence(&self, worker: u32) -> String {
        let prefix = self.prefixes.own(Tone::Bad);
        let lines = self.tails.of(worker, EVIDENCE);
        match lines.is_empty() {
            true => String::new(),
            false => lines.iter().fold(format!("{prefix}its last lines:\n"), |text, line| {
                text + &format!("{prefix}  {line}\n")
            }),
        }
    }

    fn draw(&mut self, line: Option<String>) {
        match line {
            Some(line) => {
                write_to(Stream::Stderr, bottom(&line, width()).as_bytes());
                self.shown = true;
            }
            None => self.clear(),
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            write_to(Stream::Stderr, ERASE);
        }
    }
}

/// Columns of the terminal; some do not know how many they have.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

/// To the start of the line, and nothing in it.
const ERASE: &[u8] = b"\r\x1b[K";

/// Draws a line over the one at the bottom: never wider than the terminal, and the rest of the old one erased last,
/// so that nothing flickers.
fn bottom(line: &str, width: usize) -> String {
    let shown: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("\r{shown}\x1b[K")
}

/// Nobody reading is no failure: there is only nobody to tell.
fn write_to(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => std::io::stdout().lock().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        Stream::Stderr => std::io::stderr().write_all(bytes),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottom_line_fits_and_erases_only_what_is_left() {
        assert_eq!(bottom("2 workers", 80), "\r2 workers\x1b[K");
        assert_eq!(bottom("2 workers", 5), "\r2 wo\x1b[K");
        assert_eq!(bottom("2 workers", 0), "\r\x1b[K");
    }

    #[test]
    fn a_queue_that_is_full_refuses_and_counts() {
        let (queue, _items) = sync_channel(1);
        let voice = Voice { queue, lost: Arc::default(), prefixes: Prefixes::new("x", 1, false, false) };
        assert!(voice.pass_on(Stream::Stdout, b"one\n".to_vec()));
        assert!(!voice.pass_on(Stream::Stdout, b"two\n".to_vec()));
        voice.say(&Line::plain("three"));
        assert_eq!(voice.lost.load(Ordering::Relaxed), 1);
        let mut writer = Writer {
            live: false,
            json: None,
            status: Box::new(|| None),
            shown: false,
            prefixes: voice.prefixes.clone(),
            tails: Tails::default(),
            lost: Arc::clone(&voice.lost),
        };
        assert!(writer.lost().unwrap().ends_with("1 line could not be shown in time\n"));
        assert_eq!(writer.lost(), None, "said once");
        // Where programs read along, this too is an object on a line of its own.
        writer.json = Some("web".into());
        voice.say_raw("four".into());
        voice.say_raw("five".into());
        let line = writer.lost().unwrap();
        assert!(line.ends_with('\n'));
        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&object["event"], &object["app"]), (&"lines_lost".into(), &"web".into()));
        assert_eq!(object["lines"], 2);
    }
}
