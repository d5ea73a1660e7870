//! The only loop: wait, tell the core what happened, carry out what it decided.
//!
//! `driver/wait.rs` says on what it sleeps and for how long, by the `driver/pace.rs` of before, `driver/connections.rs` what a
//! turn does about connections.

mod connections;
mod pace;
mod wait;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use everycore_core::{self as core, Adoptions, Deadlines, ListenerKey, Policy, Time, WorkerId};
use everycore_sys::eventfd::EventFd;

use super::audience::Audience;
use super::channel::Channels;
use super::ending::Ending;
use super::farewell::HeldBack;
use super::fit::{self, Fitted};
use super::handle::{Primary, Shared};
use super::handoff::HandOff;
use super::launch::Launcher;
use super::leftovers::Leftovers;
use super::listener::{Listeners, Members};
use super::node::Preload;
use super::readiness::Readying;
use super::scales::Scales;
use super::secrets::Secrets;
use super::selector::Selector;
use super::signals::Signals;
use super::snapshot::Snapshot;
use super::socket::Options;
use super::sources::{Sources, Wake};
use super::unserved::Unserved;
use super::{Cluster, Outcome};
use crate::address::BoundAddress;
use crate::cluster::event::Event;
use crate::error::{Error, Result};
use crate::protocol::Mode;

use pace::Pace;

/// The primary at work: what it knows of workers and sockets, and for each thing it does besides one value that knows
/// when it is due and what is left to do.
pub(crate) struct Driver {
    pub(super) core: core::Primary,
    pub(super) members: Members,
    pub(super) listeners: Listeners,
    pub(super) sources: Sources,
    /// What the handles and the loop have in common.
    pub(super) shared: std::sync::Arc<Shared>,
    audience: Audience,
    pub(super) launcher: Launcher,
    /// How connections reach workers.
    pub(super) mode: Mode,
    pub(super) deadlines: Deadlines,
    started: Instant,
    pub(super) ending: Ending,

    // Orders and channels.
    pub(super) signals: Signals,
    pub(super) channels: Channels,
    /// Numbers the messages to Node workers, one series for all as Node has it.
    pub(super) seq: i64,
    pub(super) secrets: Secrets,

    // Connections.
    /// Finds the class of a connection, where there are classes.
    pub(super) selector: Selector,
    /// Who accepts for slots that have no worker.
    pub(super) adoptions: Adoptions,
    /// Hand-off channels of workers that gave them up or are gone, not read to their end for want of descriptors.
    pub(super) remains: Vec<(WorkerId, HandOff)>,
    /// Our copies of connections that were handed over in this turn.
    pub(super) gone: Vec<OwnedFd>,
    pub(super) held_back: HeldBack,

    // What is looked at now and then.
    pub(super) readying: Readying,
    /// What is left of workers that have ended.
    pub(super) leftovers: Leftovers,
    pub(super) unserved: Unserved,
    pub(super) scales: Scales,

    // The turns of the loop.
    pace: Pace,
    wakes: Vec<Wake>,
    /// Listeners with connections, as the last wait said.
    arriving: Vec<ListenerKey>,
}

impl Driver {
    /// Binds, prepares, spawns nothing yet.
    pub(crate) fn new(mut cluster: Cluster) -> Result<Self> {
        let doing = |doing| move |source| Error::System { doing, source };
        let plan = fit::plan(&mut cluster)?;
        let Fitted { settings, hands_off } = fit::settings(&cluster)?;
        let secrets = Secrets::new(cluster.secret_rotation)?;
        cluster.program.resolve().map_err(doing("finding this program's own file"))?;
        // One descriptor per connection in flight and five per worker: the soft limit is meant for select() users.
        // Where it cannot be raised the limit shows as back-pressure.
        let _ = everycore_sys::limits::raise_nofile_limit();

        let listeners = bind(&mut cluster, settings.policy == Policy::Reuseport && !hands_off)?;
        let sources = Sources::new().map_err(doing("epoll"))?;
        let shared = Shared::new(EventFd::new().map_err(doing("eventfd"))?);
        sources.add(shared.wake(), Wake::Orders).map_err(doing("epoll"))?;
        let mut readying = Readying::new(cluster.readiness, cluster.deadlines.start);
        let notify = readying.bind(&sources).map_err(doing("binding the notify socket"))?;
        let started = Instant::now();
        let pace = Pace::new(settings.hung);
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
        // From here on a signal waits for the loop: whoever is told that the cluster starts may stop it at once.
        let signals = Signals::take(cluster.signals, cluster.reap_orphans, &sources)
            .map_err(doing("taking the process's signals"))?;
        Ok(Self {
            core,
            members: BTreeMap::new(),
            listeners,
            sources,
            shared,
            audience: Audience::new(cluster.observer),
            launcher: Launcher {
                name: cluster.name.unwrap_or_else(|| cluster.program.default_name()),
                program: cluster.program,
                dialect: cluster.dialect,
                preload: cluster.preload.then(Preload::default),
                notify,
                drain: cluster.deadlines.drain,
            },
            mode: if hands_off { Mode::HandOff } else { Mode::Shared },
            deadlines: cluster.deadlines,
            started,
            ending: Ending::default(),
            signals,
            channels: Channels::default(),
            seq: 0,
            secrets,
            selector,
            adoptions: Adoptions::default(),
            remains: Vec::new(),
            gone: Vec::new(),
            held_back: HeldBack::new(),
            readying,
            leftovers: Leftovers::default(),
            unserved: Unserved::default(),
            scales,
            pace,
            wakes: Vec::new(),
            arriving: Vec::new(),
        })
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
        if self.listeners.one_per_slot && self.launcher.closes() && super::group::closing_resets() {
            self.warn("policy reuseport: net.ipv4.tcp_migrate_req is 0, so the kernel resets who waits for a slot that is scaled away or given up; set it to 1".into());
        }
    }

    fn turn_until_finished(&mut self) -> Result<Outcome> {
        loop {
            self.audience.outdate();
            self.carry_out_effects();
            if let Some(outcome) = self.ending.outcome(&self.core).filter(|_| self.leftovers.is_empty()) {
                return self.ending.result(outcome);
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

    pub(super) fn tell(&mut self, event: Event) {
        let (core, listeners, started) = (&self.core, &self.listeners, self.started);
        self.audience.tell(event, &self.shared, || {
            Snapshot::new(core.snapshot(), listeners.bound_at(), Time::new(started.elapsed()))
        });
    }

    pub(super) fn warn(&mut self, text: String) {
        self.tell(Event::Warning { text });
    }

    /// Whether nobody hears what is told.
    pub(super) fn is_unobserved(&self) -> bool {
        self.audience.is_empty()
    }

    /// Hands an order to the core.
    pub(super) fn order(&mut self, event: core::Event) {
        self.audience.outdate();
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

/// Binds what the cluster names, before any worker runs.
fn bind(cluster: &mut Cluster, one_per_slot: bool) -> Result<Listeners> {
    let mut listeners = Listeners::default();
    for (name, address, options) in std::mem::take(&mut cluster.binds) {
        listeners.bind(name, address, &Options::from(options))?;
    }
    if cluster.program.inherit_listeners {
        let doing = "preparing the sockets workers inherit";
        listeners.block().map_err(|source| Error::System { doing, source })?;
    }
    listeners.inherited = cluster.program.inherit_listeners;
    listeners.permanent_only = cluster.program.ids.differ_in_user();
    listeners.one_per_slot = one_per_slot;
    Ok(listeners)
}

/// So long from now; `None` where that is for ever.
pub(super) fn later(wait: Duration) -> Option<Instant> {
    Instant::now().checked_add(wait)
}
