//! What `run` and `demo` share: a screen, the story told on it, and the end.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use everycore::{BoundAddress, Event, Message, Outcome, Primary, Running};

use super::start::quoted;
use crate::config::Style;
use crate::exit::{Code, Failure};
use crate::output::capture::Tails;
use crate::output::narrator::{Line, Narrator};
use crate::output::prefix::Prefixes;
use crate::output::requests::{Pace, Requests};
use crate::output::screen::{Screen, Voice};
use crate::output::{count, json};

/// How long the last output of workers that are gone is waited for.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// How one supervised program is shown.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) prefixes: Prefixes,
    /// Where last lines are found; empty unless output is captured.
    pub(crate) tails: Tails,
    /// The opening names all addresses there can be.
    pub(crate) addresses_known: bool,
    /// What a worker has not done that is not ready in time.
    pub(crate) awaited: Option<String>,
    pub(crate) drain_delay: Duration,
    /// Requests that workers report.
    pub(crate) requests: Requests,
}

/// One supervised program, as people see it.
#[derive(Debug)]
pub(crate) struct Session {
    setup: Setup,
    screen: Screen,
    narrator: Arc<Mutex<Narrator>>,
}

/// What everyone sees first.
pub(crate) struct Opening<'a> {
    pub(crate) addresses: &'a [String],
    pub(crate) workers: usize,
    pub(crate) policy: everycore::Policy,
    /// For people.
    pub(crate) lines: Vec<String>,
    /// For people and programs: what is not as it may seem.
    pub(crate) notes: Vec<String>,
    /// What to think of when workers fail before they are ready.
    pub(crate) hint: Option<String>,
}

impl Session {
    /// Prepares the screen; nothing is shown before [`open`](Self::open). `status` says what stands at the bottom.
    pub(crate) fn start(
        setup: Setup,
        mut status: impl FnMut(&Primary) -> Option<String> + Send + 'static,
    ) -> std::io::Result<(Self, Observer)> {
        let primary = Arc::new(OnceLock::new());
        let known = Arc::clone(&primary);
        let bottom = Box::new(move || known.get().and_then(&mut status));
        let screen =
            Screen::start(setup.style, &setup.name, setup.prefixes.clone(), setup.tails.clone(), bottom)?;
        let narrator = Narrator::new(setup.addresses_known).of(setup.awaited.clone(), setup.drain_delay);
        let narrator = Arc::new(Mutex::new(narrator));
        let observer = Observer {
            primary,
            narrator: Arc::clone(&narrator),
            voice: screen.voice(),
            json: setup.style.json.then(|| setup.name.clone()),
            requests: setup.requests.clone(),
            pace: (!setup.style.live).then(Pace::default),
        };
        Ok((Self { setup, screen, narrator }, observer))
    }

    pub(crate) fn voice(&self) -> Voice {
        self.screen.voice()
    }

    /// Says what was bound, then all that has happened since.
    pub(crate) fn open(&self, opening: Opening<'_>) {
        lock(&self.narrator).advise(opening.hint);
        let text = match self.setup.style.json {
            true => {
                let policy = opening.policy.to_string();
                let (name, now) = (&self.setup.name, SystemTime::now());
                let started = json::started(name, opening.addresses, opening.workers, &policy, now);
                let notes = opening.notes.iter().map(|text| json::note(name, text, now));
                std::iter::once(started).chain(notes).map(|line| line + "\n").collect()
            }
            false => {
                let lines = opening.lines.into_iter().chain(opening.notes);
                lines.map(|line| self.voice().worded(&Line::plain(line))).collect()
            }
        };
        self.screen.open(text);
    }

    /// Waits for the end and has the last word.
    pub(crate) fn wait(self, running: Running) -> Result<(), Failure> {
        let outcome = running.wait();
        self.screen.still();
        self.setup.tails.settle(LAST_OUTPUT);
        let ending = match outcome {
            Ok(Outcome::Stopped) => Ok("stopped"),
            Ok(Outcome::Completed) => Ok("all workers are done"),
            Err(everycore::Error::GivenUp { .. }) => Err(self.all_given_up()),
            Err(error) => Err(error.into()),
        };
        let reason = ending.as_ref().copied().unwrap_or("failed");
        let requests = &self.setup.requests;
        if self.setup.style.json {
            if requests.total() > 0 {
                self.voice().say_raw(json::requests(&self.setup.name, requests.total(), SystemTime::now()));
            }
            self.voice().say_raw(json::ended(&self.setup.name, reason, SystemTime::now()));
        } else {
            let said = requests.last_word().into_iter().chain(ending.is_ok().then(|| reason.to_owned()));
            said.for_each(|line| self.voice().say(&Line::plain(line)));
        }
        self.screen.close();
        ending.map(drop)
    }

    fn all_given_up(&self) -> Failure {
        let narrator = lock(&self.narrator);
        let how = narrator.last_failure().map_or("no worker could be kept", |failed| &failed.how);
        Failure::new(
            Code::Failed,
            format!("every place of {} is given up; the last failure: {how}", self.setup.name),
        )
    }
}

/// Hears every event, on the primary's thread, and queues what there is to say.
#[derive(Debug)]
pub(crate) struct Observer {
    primary: Arc<OnceLock<Primary>>,
    narrator: Arc<Mutex<Narrator>>,
    voice: Voice,
    /// The program's name, when programs read along.
    json: Option<String>,
    requests: Requests,
    /// When to tell their number; without it, it stands at the bottom.
    pace: Option<Pace>,
}

impl Observer {
    pub(crate) fn hear(&mut self, primary: &Primary, event: &Event) {
        self.primary.get_or_init(|| primary.clone());
        if let Event::Message { message, .. } = event {
            return self.hear_message(message);
        }
        if let Event::Request { worker, id, .. } = event {
            // Nobody here has an answer. Fails only when the primary has ended, and then nobody waits.
            let _ = primary.decline(worker.id, *id);
        }
        let (line, hint) = {
            let mut narrator = lock(&self.narrator);
            (narrator.tell(event), narrator.hint())
        };
        match &self.json {
            Some(app) => {
                let hint = hint.map(|hint| json::note(app, &hint, SystemTime::now()));
                let lines = json::line(app, event, SystemTime::now()).into_iter().chain(hint);
                lines.for_each(|line| self.voice.say_raw(line));
            }
            None => {
                line.into_iter().chain(hint.map(Line::hint)).for_each(|line| self.voice.say(&line));
            }
        }
    }
}

impl Observer {
    /// Messages are the program's own, but for those that tell of requests.
    fn hear_message(&mut self, message: &Message) {
        let due =
            self.requests.hear(message) && self.pace.as_mut().is_some_and(|pace| pace.is_due(Instant::now()));
        if !due {
            return;
        }
        let total = self.requests.total();
        match &self.json {
            Some(app) => self.voice.say_raw(json::requests(app, total, SystemTime::now())),
            None => self.voice.say(&Line::plain(count(total, "request"))),
        }
    }
}

/// `2 workers on 127.0.0.1:8000 (policy least, pid 4711)`
pub(crate) fn summary(workers: usize, addresses: &[String], policy: Option<everycore::Policy>) -> String {
    let policy = policy.map_or_else(String::new, |policy| format!("policy {policy}, "));
    let places =
        if addresses.is_empty() { String::new() } else { format!(" on {}", addresses.join(" and ")) };
    format!("{}{places} ({policy}pid {})", count(workers as u64, "worker"), std::process::id())
}

/// An address as clients type it: `http://127.0.0.1:8000`, the wildcards as this machine.
pub(crate) fn url(address: &BoundAddress) -> String {
    match address {
        BoundAddress::Unix(_) => "http://localhost".into(),
        BoundAddress::Tcp(at) if at.ip().is_unspecified() => format!("http://localhost:{}", at.port()),
        other => format!("http://{other}"),
    }
}

/// What makes curl reach an address: for a Unix socket an option, with a space behind it.
pub(crate) fn curl_option(address: &BoundAddress) -> String {
    let BoundAddress::Unix(path) = address else { return String::new() };
    let path = path.to_string_lossy();
    match path.strip_prefix('\0') {
        Some(name) => format!("--abstract-unix-socket {} ", quoted(name)),
        None => format!("--unix-socket {} ", quoted(&path)),
    }
}

/// A panic elsewhere cannot leave the story half-told: every change is one call.
fn lock(narrator: &Mutex<Narrator>) -> MutexGuard<'_, Narrator> {
    narrator.lock().unwrap_or_else(PoisonError::into_inner)
}
