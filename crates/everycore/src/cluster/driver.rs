//! The only loop: wait, tell the core what happened, carry out what it decided.
//!
//! `driver/wait.rs` says how long it sleeps and on what, `driver/connections.rs` what a turn does about connections.

mod connections;
mod wait;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use everycore_core::{
    self as core, CreditSettings, Deadlines, ListenerKey, Policy, Settings, Time, WorkerId,
};
use everycore_sys::SpawnError;
use everycore_sys::eventfd::EventFd;
use everycore_sys::signals::{self, SignalPipe};

use super::adoption::Adoptions;
use super::farewell::HeldBack;
use super::fit;
use super::handle::{Primary, Shared};
use super::handoff::HandOff;
use super::leftovers::Leftovers;
use super::listener::{Listeners, Members};
use super::node::{self, Preload};
use super::notify::NotifySocket;
use super::program::{Dialect, Program};
use super::readiness::Readying;
use super::scales::Scales;
use super::secrets::{self, Rotation};
use super::selector::Selector;
use super::snapshot::Snapshot;
use super::socket::Options;
use super::sources::{Sources, Wake};
use super::unserved::Unserved;
use super::{Cluster, Observer, Outcome, Readiness, at_least_one, auto, orders};
use crate::address::BoundAddress;
use crate::cluster::event::Event;
use crate::error::{Error, Result};
use crate::protocol::Mode;

/// How often a primary looks after a worker that has been handed something and does not take it: soon, then less and
/// less often.
const TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The shortest and the longest time between two looks at workers that may be killed for their silence.
const WATCH: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The primary at work.
pub(crate) struct Driver {
    pub(super) core: core::Primary,
    pub(super) members: Members,
    pub(super) listeners: Listeners,
    pub(super) sources: Sources,
    /// Who accepts for slots that have no worker.
    pub(super) adoptions: Adoptions,
    /// Finds the class of a connection, where there are classes.
    pub(super) selector: Selector,
    pub(super) shared: std::sync::Arc<Shared>,
    pub(super) observer: Option<Observer>,
    pub(super) program: Program,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) dialect: Dialect,
    /// What Node workers load first, if they are to.
    pub(super) preload: Option<Preload>,
    pub(super) deadlines: Deadlines,
    pub(super) readiness: Readiness,
    pub(super) readying: Readying,
    pub(super) scales: Scales,
    /// How often workers are looked at where silence is punished: a blocked one wakes nobody.
    watch: Option<Duration>,
    pub(super) notify: Option<NotifySocket>,
    /// Once a worker has asked for them.
    pub(super) secrets: Option<Rotation>,
    pub(super) secret_rotation: Duration,
    pub(super) signals: Option<SignalPipe>,
    pub(super) stop: orders::StopKeys,
    /// Hand-off channels of workers that gave them up or are gone, not read to their end for want of descriptors.
    pub(super) remains: Vec<(WorkerId, HandOff)>,
    pub(super) held_back: HeldBack,
    /// What is left of workers that have ended.
    pub(super) leftovers: Leftovers,
    /// How the core has ended, while the cluster goes on until nothing is left.
    ended: Option<core::Outcome>,
    pub(super) unserved: Unserved,
    /// How the last worker ended that was not told to, or why the last could not be started.
    pub(super) last_failure: String,
    /// Why the program cannot be started, if an attempt has shown that.
    pub(super) unstartable: Option<SpawnError>,
    /// Workers whose channel is to be looked after, in turn: something came, or one turn was not enough.
    pub(super) channels: VecDeque<WorkerId>,
    /// Workers with words queued in this turn: all of one worker's go out together.
    pub(super) unsent: Vec<WorkerId>,
    /// The handles know the picture as of now.
    pictured: bool,
    pub(super) started: Instant,
    /// Numbers the messages to Node workers, one series for all as Node has it.
    pub(super) seq: i64,
    /// Our copies of connections that were handed over in this turn.
    pub(super) gone: Vec<OwnedFd>,
    tick: Duration,
    wakes: Vec<Wake>,
    /// Listeners with connections, as the last wait said.
    arriving: Vec<ListenerKey>,
    /// The last turn accepted something: while the rate is high, the next one gathers before it looks again.
    busy: bool,
}

impl Driver {
    /// Binds, prepares, spawns nothing yet.
    pub(crate) fn new(mut cluster: Cluster) -> Result<Self> {
        let doing = |doing| move |source| Error::System { doing, source };
        let plan = fit::plan(&mut cluster)?;
        let workers = at_least_one(cluster.workers.unwrap_or_else(auto))?;
        let policy =
            cluster.policy.unwrap_or_else(|| fit::policy_from_environment(cluster.dialect, &cluster.limits));
        let hands_off = cluster.scheduling.is_some() || policy.hands_off();
        fit::check(&cluster.limits, policy, hands_off, cluster.dialect, cluster.preload)?;
        if cluster.recycle.connections.is_some() && !hands_off {
            return Err(Error::Setting(format!(
                "recycle.connections: under policy {policy} workers accept for themselves and nobody counts; choose round-robin, least or sticky"
            )));
        }
        secrets::check_period(cluster.secret_rotation)?;
        let settings = Settings {
            workers: u32::try_from(workers.get()).unwrap_or(u32::MAX),
            policy,
            readiness: match cluster.readiness {
                Readiness::Listening => core::Readiness::Listening,
                Readiness::Online => core::Readiness::Online,
                Readiness::Message
                | Readiness::Notify
                | Readiness::Socket
                | Readiness::Inherited
                | Readiness::StaysUp(_) => core::Readiness::Notified,
            },
            restart: cluster.restart.clone(),
            deadlines: cluster.deadlines.clone(),
            recycle: cluster.recycle.clone(),
            hung: cluster.hung,
            limits: cluster.limits,
            credit: match cluster.dialect {
                Dialect::Everycore => CreditSettings::default(),
                Dialect::Node(_) => node::credit(),
            },
            seed: u64::from(std::process::id()),
            ..Settings::default()
        }
        .validated()
        .map_err(|error| Error::Setting(error.to_string()))?;
        cluster.program.resolve().map_err(doing("finding this program's own file"))?;
        // One descriptor per connection in flight and five per worker: the soft limit is meant for select() users.
        // Where it cannot be raised the limit shows as back-pressure.
        let _ = everycore_sys::limits::raise_nofile_limit();

        let mut listeners = Listeners::default();
        for (name, address, options) in std::mem::take(&mut cluster.binds) {
            listeners.bind(name, address, &Options::from(options))?;
        }
        if cluster.program.inherit_listeners {
            listeners.block().map_err(doing("preparing the sockets workers inherit"))?;
        }
        listeners.inherited = cluster.program.inherit_listeners;
        listeners.permanent_only = cluster.program.ids.differ_in_user();
        listeners.one_per_slot = policy == Policy::Reuseport && !hands_off;
        let sources = Sources::new().map_err(doing("epoll"))?;
        let shared = Shared::new(EventFd::new().map_err(doing("eventfd"))?);
        sources.add(shared.wake(), Wake::Orders).map_err(doing("epoll"))?;
        let notify = match cluster.readiness {
            Readiness::Notify => {
                let socket = NotifySocket::bind().map_err(doing("binding the notify socket"))?;
                sources.add(&socket, Wake::Notify).map_err(doing("epoll"))?;
                Some(socket)
            }
            _ => None,
        };
        let started = Instant::now();
        let watch = settings.hung.map(|patience| (patience / 4).clamp(WATCH.0, WATCH.1));
        let scales = Scales::new(settings.recycle.memory.is_some(), started);
        let mut core = core::Primary::new(settings, Time::ZERO);
        if let Some(scheduling) = cluster.scheduling {
            core = core.with_scheduling(scheduling);
        }
        let mut selector = Selector::new(None, None);
        if let Some(plan) = plan {
            core = core.with_router(plan.router);
            cluster.program.launches = plan.launches;
            selector = Selector::new(plan.choose, plan.peek);
        }
        let mut driver = Self {
            core,
            members: BTreeMap::new(),
            listeners,
            sources,
            adoptions: Adoptions::default(),
            selector,
            shared,
            observer: cluster.observer,
            name: cluster.name.unwrap_or_else(|| cluster.program.default_name()),
            program: cluster.program,
            mode: if hands_off { Mode::HandOff } else { Mode::Shared },
            dialect: cluster.dialect,
            preload: cluster.preload.then(Preload::default),
            deadlines: cluster.deadlines,
            readiness: cluster.readiness,
            readying: Readying::default(),
            scales,
            watch,
            notify,
            secrets: None,
            secret_rotation: cluster.secret_rotation,
            signals: None,
            stop: orders::StopKeys::new(cluster.signals, cluster.reap_orphans),
            remains: Vec::new(),
            held_back: HeldBack::new(),
            leftovers: Leftovers::default(),
            ended: None,
            unserved: Unserved::default(),
            last_failure: String::new(),
            unstartable: None,
            channels: VecDeque::new(),
            unsent: Vec::new(),
            pictured: false,
            started,
            seq: 0,
            gone: Vec::new(),
            tick: TICK.0,
            wakes: Vec::new(),
            arriving: Vec::new(),
            busy: false,
        };
        // From here on a signal waits for the loop: whoever is told that the cluster starts may stop it at once.
        driver.take_signals()?;
        Ok(driver)
    }

    pub(crate) fn primary(&self) -> Primary {
        Primary { shared: std::sync::Arc::clone(&self.shared) }
    }

    /// Names and addresses bound before the workers start.
    pub(crate) fn addresses(&self) -> Vec<(String, BoundAddress)> {
        self.listeners.permanent().map(|(name, bound)| (name.to_owned(), bound.address.clone())).collect()
    }

    /// Runs until the cluster has ended.
    pub(crate) fn run(mut self) -> Result<Outcome> {
        let _running = self.shared.started();
        self.warn_of_resets();
        let result = self.turn_until_finished();
        self.listeners.close_all(&self.sources);
        self.shared.ended(self.snapshot());
        result
    }

    fn warn_of_resets(&mut self) {
        if self.listeners.one_per_slot && self.closes() && super::group::closing_resets() {
            self.tell(Event::Warning {
                text: "policy reuseport: net.ipv4.tcp_migrate_req is 0, so the kernel resets who waits for a slot that is scaled away or given up; set it to 1".into(),
            });
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        if self.stop.takes_signals() {
            let doing = |source| Error::System { doing: "taking the process's signals", source };
            let pipe = signals::subscribe(&self.stop.signals()).map_err(doing)?;
            self.sources.add(&pipe, Wake::Signals).map_err(doing)?;
            self.signals = Some(pipe);
        }
        Ok(())
    }

    fn turn_until_finished(&mut self) -> Result<Outcome> {
        loop {
            self.pictured = false;
            self.carry_out_effects();
            // How it ended is settled before what is left has been waited for: an order to stop meanwhile changes nothing.
            self.ended = self.core.is_finished().then(|| self.ended.unwrap_or_else(|| self.core.outcome()));
            if let Some(outcome) = self.ended.filter(|_| self.leftovers.is_empty()) {
                return match (outcome, self.unstartable.take()) {
                    (core::Outcome::Stopped, _) => Ok(Outcome::Stopped),
                    (core::Outcome::Completed, _) => Ok(Outcome::Completed),
                    (core::Outcome::AllErrored, Some(source)) => Err(Error::Start { source }),
                    (core::Outcome::AllErrored, None) => {
                        Err(Error::GivenUp { last: std::mem::take(&mut self.last_failure) })
                    }
                };
            }
            self.wait().map_err(|source| Error::System { doing: "waiting for events", source })?;
            let mut wakes = std::mem::take(&mut self.wakes);
            for wake in wakes.drain(..) {
                self.handle(wake);
            }
            self.wakes = wakes;
            self.serve_channels();
            self.pass_deadlines();
            self.carry_out_effects();
            self.settle_adoptions();
            self.serve_listeners();
        }
    }

    /// The cluster as it stands.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.core.snapshot(), self.listeners.bound_at(), self.now())
    }

    pub(super) fn now(&self) -> Time {
        Time::new(self.started.elapsed())
    }

    fn handle(&mut self, wake: Wake) {
        match wake {
            // Served after everything else: an exit or a freed worker in the same turn changes who gets it.
            Wake::Listener(key) => self.arriving.push(key),
            // Starved listeners are looked after in every turn; that there is one now is all a bell says.
            Wake::Bell(_) => {}
            Wake::Channel(worker) => self.attend(worker),
            Wake::Process(worker) => self.reap(worker),
            Wake::Signals => self.read_signals(),
            Wake::Orders => self.obey_orders(),
            Wake::Notify => self.read_notifications(),
            Wake::Peek(number) => self.look_again(number, false),
        }
    }

    fn pass_deadlines(&mut self) {
        let now = self.now();
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
            // It judges workers by what was last read of them.
            self.observe();
            self.core.handle_deadline(now);
        }
        let instant = Instant::now();
        for member in self.members.values_mut() {
            member.requests.expire(instant);
        }
        let throttled: Vec<WorkerId> = self
            .members
            .iter()
            .filter(|(_, member)| member.link.as_ref().is_some_and(|link| link.connection.is_throttled()))
            .map(|(worker, _)| *worker)
            .collect();
        for worker in throttled {
            self.flush_channel(worker);
        }
        self.relent(instant);
        while let Some(overdue) = self.listeners.overdue(instant) {
            self.look_again(overdue, true);
        }
        self.listeners.close_abandoned(instant, &self.sources);
        for key in self.listeners.retries(instant) {
            self.drain(key);
        }
        self.rotate_secrets_when_due(instant);
        self.look_for_readiness(instant);
        self.look_at_leftovers(instant);
        self.look_for_unserved(instant);
        self.weigh(instant);
    }

    // --- observers ---

    /// Tells the observer, with the snapshot it may ask for. A picture costs more than a message, so of many messages
    /// read in a row the first alone has one taken.
    pub(super) fn tell(&mut self, event: Event) {
        if let Some(mut observer) = self.observer.take() {
            if !std::mem::replace(&mut self.pictured, true) {
                self.shared.remember(self.snapshot());
            }
            observer(&self.primary(), event);
            self.observer = Some(observer);
        }
    }

    /// Hands an order to the core.
    pub(super) fn order(&mut self, event: core::Event) {
        self.pictured = false;
        match event {
            core::Event::Stop { urgency } => {
                self.leftovers.stop(urgency == core::Urgency::Fast, self.deadlines.term);
            }
            core::Event::Reload => self.look_at_predecessors(),
            _ => {}
        }
        let now = self.now();
        self.core.handle(event, now);
    }
}

/// So long from now; `None` where that is for ever.
pub(super) fn later(wait: Duration) -> Option<Instant> {
    Instant::now().checked_add(wait)
}
