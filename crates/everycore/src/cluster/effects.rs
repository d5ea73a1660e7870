//! One short function per [`Effect`]. None waits; what fails comes back to the core as an event.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use everycore_core::{Effect, Event as CoreEvent, Generation, Notice, Slot, WorkerId};
use everycore_ipc::{Codec, Connection, Limits};
use everycore_sys::eventfd::EventFd;
use everycore_sys::{Spawn, SpawnError, Spawned, counters, inherit, socket_pair};

use super::autopsy;
use super::driver::{Driver, later};
use super::event::{Event, WorkerInfo};
use super::handle::QUEUED_BYTES;
use super::member::{Library, Link, Member, Node, Side};
use super::node::{NodeSettings, WorkerPipes};
use super::program::{Dialect, Ids, Serialization, WorkerCommand, WorkerSpec, environment};
use super::sources::Wake;
use crate::error::advised;
use crate::protocol::{CHANNEL_VARIABLE, ToWorker, Welcome};

/// Inherited descriptors begin here, by the convention of `LISTEN_FDS`; the channel comes after them.
const FIRST_DESCRIPTOR: i32 = 3;

/// Also for programs that would not notice the primary's death by themselves.
const TERM: i32 = 15;

const KILL: i32 = 9;

/// Connections that may be on their way to a Node worker. More than one hides the round trip; the core's credit is
/// what bounds how many wait behind a busy one.
const UNANSWERED: usize = 16;

impl Driver {
    pub(super) fn carry_out_effects(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { worker, slot, generation } => self.spawn(worker, slot, generation),
            Effect::Disconnect { worker } => self.disconnect(worker),
            Effect::Signal { worker, signal } => self.signal(worker, signal),
            Effect::Withdraw { worker } => self.relieve(worker),
            Effect::Forget { worker } => self.forget(worker),
            Effect::Notify(notice) => self.announce(notice),
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) {
        let info = WorkerInfo { id: worker.get(), slot: slot.get(), generation: generation.get(), pid: None };
        let event = match self.try_spawn(worker, info) {
            Ok(pid) => CoreEvent::Spawned { worker, pid },
            Err(reason) => CoreEvent::SpawnFailed { worker, reason },
        };
        self.order(event);
    }

    fn try_spawn(&mut self, worker: WorkerId, info: WorkerInfo) -> Result<u32, String> {
        let system = |doing: &'static str| move |error: io::Error| format!("{doing}: {}", advised(&error));
        let (ours, theirs) = socket_pair::stream_pair().map_err(system("channel"))?;
        // The worker finds its end blocking, as every program expects of what it inherits.
        socket_pair::set_mode(&theirs, socket_pair::Mode::Blocking).map_err(system("channel"))?;

        if self.program.inherit_listeners {
            self.listeners.prepare(info.slot).map_err(system("a socket for this slot"))?;
        }
        let spec = self.spec(info);
        let command = self.program.command(&spec).map_err(system("preparing the worker's command"))?;
        // All that needs descriptors comes before the process: one that nobody knows of would never be waited for.
        let codec = match self.dialect {
            Dialect::Everycore => Codec::Native,
            Dialect::Node(Serialization::Json) => Codec::Json,
            Dialect::Node(Serialization::Advanced) => Codec::Advanced,
        };
        // The handles refuse what is too much; what they have let pass is not dropped here.
        let limits = Limits {
            unanswered: UNANSWERED,
            queue_bytes: QUEUED_BYTES + Limits::default().frame,
            ..Limits::default()
        };
        let connection = Connection::new(ours, codec, limits).map_err(system("channel"))?;
        let link = Link::new(connection, self.shared.connected(info.id));
        let mut member = match self.dialect {
            Dialect::Everycore => self.greet(info, link).map_err(system("page of counters"))?,
            Dialect::Node(_) => Member::new(info, link, Side::Node(Node::default())),
        };
        let (standard, pipes) = match &self.program.node {
            Some(node) => node.open().map_err(system("the worker's standard input and output"))?,
            None => ([None, None, None], WorkerPipes::default()),
        };
        let spawned = self.start(&spec, command, &theirs, standard)?;
        drop(theirs);
        let pid = spawned.pid;
        if let Err(error) = self.watch(worker, &member, &spawned) {
            // The kernel is out of memory: what cannot be watched must not run.
            let _ = spawned.pidfd.signal_group(KILL);
            let _ = spawned.pidfd.wait();
            return Err(system("watching the worker")(error));
        }
        member.info.pid = Some(pid);
        member.process = Some(spawned.pidfd);
        self.members.insert(worker, member);
        self.flush_channel(worker);
        self.readying.started(worker, pid);
        if self.program.node.is_some() {
            self.shared.piped(info.id, pipes);
        }
        Ok(pid)
    }

    /// A worker of ours, with its first message on the way: the channel holds it until the worker runs.
    fn greet(&self, info: WorkerInfo, link: Link) -> io::Result<Member> {
        let (page_fd, page) = counters::create()?;
        let bell = EventFd::new()?;
        let bell_fd = bell.as_fd().try_clone_to_owned()?;
        let mut member = Member::new(info, link, Side::Library(Library::new(page, bell)));
        let welcome = Welcome {
            name: self.name.clone(),
            worker: info.id,
            slot: info.slot,
            generation: info.generation,
            class: self.class(info.slot),
            drain_ms: u64::try_from(self.deadlines.drain.as_millis()).unwrap_or(u64::MAX),
        };
        let told = member.tell(&ToWorker::Welcome(welcome), vec![page_fd, bell_fd]);
        debug_assert!(told.is_ok(), "an empty queue takes one message");
        Ok(member)
    }

    fn watch(&self, worker: WorkerId, member: &Member, spawned: &Spawned) -> io::Result<()> {
        self.sources.add(&spawned.pidfd, Wake::Process(worker))?;
        if let Side::Library(library) = &member.side {
            self.sources.add(&library.bell, Wake::Bell(worker))?;
        }
        if let Some(link) = &member.link {
            self.sources.add(&link.connection, Wake::Channel(worker))?;
        }
        Ok(())
    }

    fn spec(&self, info: WorkerInfo) -> WorkerSpec {
        let inherited = self.listeners.permanent().filter(|_| self.program.inherit_listeners);
        WorkerSpec {
            id: info.id,
            slot: info.slot,
            generation: info.generation,
            class: self.class(info.slot),
            listeners: inherited
                .zip(FIRST_DESCRIPTOR..)
                .map(|((name, bound), number)| {
                    (name.to_owned(), number, bound.address.tcp().map_or(0, |address| address.port()))
                })
                .collect(),
            ports: self
                .listeners
                .permanent()
                .filter_map(|(name, bound)| Some((name.to_owned(), bound.address.port()?)))
                .collect(),
        }
    }

    /// The class a slot belongs to.
    fn class(&self, slot: u32) -> Option<String> {
        self.core.router().map(|router| router.name(router.class_of_slot(Slot::new(slot))).to_owned())
    }

    fn start(
        &mut self,
        spec: &WorkerSpec,
        command: WorkerCommand,
        channel: &OwnedFd,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
    ) -> Result<Spawned, String> {
        let channel_number = FIRST_DESCRIPTOR + spec.listeners.len() as i32;
        let mut spawn = Spawn::new(command.program);
        spawn.args = command.args;
        spawn.cwd = self.program.cwd.clone();
        if let Some(node) = &self.program.node {
            spawn.cwd = node.cwd.clone().or(spawn.cwd);
        }
        let Ids { uid, gid, groups } = self.program.ids.clone();
        (spawn.uid, spawn.gid, spawn.groups) = (uid, gid, groups);
        let mut variables = self.variables(spec, channel, channel_number, command.env)?;
        if matches!(self.dialect, Dialect::Node(_)) {
            self.preload(&spawn, &mut variables);
        }
        spawn.env = environment(variables);
        spawn.listen_pid = !spec.listeners.is_empty();
        spawn.process_group = true;
        spawn.no_new_privs = self.program.ids.differ();
        // A program that knows its channel notices its end; any other would live on.
        spawn.death_signal = self.program.inherit_listeners.then_some(TERM);
        let inherited = self.listeners.inherited_by(spec.slot).take(spec.listeners.len());
        spawn.descriptors = inherited.into_iter().zip(FIRST_DESCRIPTOR..).collect();
        spawn.descriptors.push((channel.as_fd(), channel_number));
        let ours = (io::stdin(), io::stdout(), io::stderr());
        let (stdout, stderr) = (command.stdout.or(stdout), command.stderr.or(stderr));
        spawn.descriptors.push((stdin.as_ref().map_or(ours.0.as_fd(), AsFd::as_fd), 0));
        spawn.descriptors.push((stdout.as_ref().map_or(ours.1.as_fd(), AsFd::as_fd), 1));
        spawn.descriptors.push((stderr.as_ref().map_or(ours.2.as_fd(), AsFd::as_fd), 2));
        everycore_sys::spawn(&spawn).map_err(|error| match error {
            SpawnError::Step { step, errno } => {
                format!("could not {step}: {}", advised(&io::Error::from_raw_os_error(errno)))
            }
            other => other.to_string(),
        })
    }

    /// A further call of `setupPrimary`: for the next workers.
    pub(super) fn setup_primary(&mut self, settings: NodeSettings) {
        if self.program.node.is_some() {
            self.dialect = Dialect::Node(self.program.set_node(settings));
            self.listeners.permanent_only = self.program.ids.differ();
        }
    }

    /// Has the program load our script first.
    fn preload(&mut self, spawn: &Spawn<'_>, variables: &mut Vec<(OsString, OsString)>) {
        let Some(preload) = &mut self.preload else { return };
        let words = std::iter::once(&spawn.program).chain(&spawn.args);
        let words: Vec<_> = words.map(OsString::as_os_str).collect();
        match preload.variables(&words, variables, self.deadlines.drain, spawn.uid.is_some()) {
            Ok(more) => variables.extend(more),
            Err(error) => self.tell(Event::Warning {
                text: format!(
                    "cannot write the script that Node workers load first, so they serve without it: {error}"
                ),
            }),
        }
    }

    fn variables(
        &self,
        spec: &WorkerSpec,
        channel: &OwnedFd,
        channel_number: i32,
        of_command: Vec<(OsString, OsString)>,
    ) -> Result<Vec<(OsString, OsString)>, String> {
        let identity = inherit::identity(channel).map_err(|error| format!("channel: {error}"))?;
        let mut variables: Vec<(OsString, OsString)> = of_command;
        let mut set = |name: &str, value: String| variables.push((name.into(), value.into()));
        match self.dialect {
            Dialect::Everycore => set(CHANNEL_VARIABLE, format!("{channel_number},{identity}")),
            Dialect::Node(serialization) => {
                set("NODE_CHANNEL_FD", channel_number.to_string());
                set("NODE_CHANNEL_SERIALIZATION_MODE", serialization.to_string());
                set("NODE_UNIQUE_ID", spec.id.to_string());
            }
        }
        set("EVERYCORE_NAME", self.name.clone());
        set("EVERYCORE_WORKER", spec.id.to_string());
        set("EVERYCORE_SLOT", spec.slot.to_string());
        set("EVERYCORE_GENERATION", spec.generation.to_string());
        if let Some(class) = &spec.class {
            set("EVERYCORE_CLASS", class.clone());
        }
        set("NODE_APP_INSTANCE", spec.slot.to_string());
        if !spec.listeners.is_empty() {
            let names: Vec<&str> = spec.listeners.iter().map(|(name, ..)| name.as_str()).collect();
            set("LISTEN_FDS", spec.listeners.len().to_string());
            set("LISTEN_FDNAMES", names.join(":"));
            // The child writes its own pid over this between clone and exec.
            set("LISTEN_PID", String::new());
        }
        if let [(_, port)] = spec.ports[..] {
            set("PORT", port.to_string());
        }
        if let Some(notify) = &self.notify {
            variables.push(("NOTIFY_SOCKET".into(), notify.variable()));
        }
        Ok(variables)
    }

    /// What a worker that leaves has not taken goes to others; with no others it serves that itself.
    fn relieve(&mut self, worker: WorkerId) {
        let lives =
            self.members.get(&worker).is_some_and(|member| member.process.is_some() && member.link.is_some());
        let others = self.listeners.held_by(worker).into_iter().any(|key| self.core.is_served(key));
        if !lives || others {
            self.withdraw(worker);
        }
    }

    pub(super) fn signal(&mut self, worker: WorkerId, signal: i32) {
        if matches!(signal, TERM | KILL) {
            // Whoever is signalled knows: there is nothing to hold back any more.
            self.held_back.remove(&worker);
        }
        // What it was told before comes before.
        self.flush_channel(worker);
        let Some(process) = self.members.get(&worker).and_then(|member| member.process.as_ref()) else {
            return;
        };
        // The last rung is for the whole family: a shell around the program must not leave it behind.
        let sent = if signal == KILL { process.signal_group(signal) } else { process.signal(signal) };
        match sent {
            Ok(()) => {}
            // Gone already: its exit is on the way.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            Err(error) => {
                let info = self.info(worker);
                self.tell(Event::Error { worker: info, reason: format!("cannot be signalled: {error}") });
            }
        }
    }

    fn forget(&mut self, worker: WorkerId) {
        // Whatever it still held comes back before its channels go, or as soon as there is room for it.
        self.withdraw(worker);
        if let Some(mut member) = self.members.remove(&worker) {
            self.remains.extend(member.remains().into_iter().map(|channel| (worker, channel)));
            if let Side::Library(library) = &member.side {
                self.sources.remove(&library.bell, Wake::Bell(worker));
            }
            if let Some(link) = &member.link {
                self.sources.remove(&link.connection, Wake::Channel(worker));
            }
            if let Some(process) = &member.process {
                self.sources.remove(process, Wake::Process(worker));
            }
        }
        self.shared.disconnected(worker.get());
        self.shared.unpiped(worker.get());
        self.held_back.remove(&worker);
        self.listeners.forget(worker, &self.sources);
        self.readying.forget(worker);
    }

    /// The worker as events name it; one that is gone keeps at least its id.
    pub(super) fn info(&self, worker: WorkerId) -> WorkerInfo {
        let unknown = WorkerInfo { id: worker.get(), slot: 0, generation: 0, pid: None };
        self.members.get(&worker).map_or(unknown, |member| member.info)
    }

    /// A new version may listen elsewhere, and so may a replacement. Those who are ready may still be opening what they
    /// serve beside.
    fn abandon_old_listeners(&mut self) {
        let core = &self.core;
        self.listeners.abandon(later(self.deadlines.drain), |worker| !core.is_leaving(worker));
    }

    fn announce(&mut self, notice: Notice) {
        let event = match notice {
            // Told once the process exists, by `Spawned`: observers want its pid.
            Notice::Fork { .. } => return,
            Notice::Spawned { worker, .. } => Event::Fork { worker: self.info(worker) },
            Notice::Online { worker } => Event::Online { worker: self.info(worker) },
            Notice::Listening { worker, listener } => {
                let Some(address) = self.listeners.address(listener).cloned() else { return };
                Event::Listening { worker: self.info(worker), address }
            }
            Notice::Ready { worker } => {
                self.readying.forget(worker);
                if self.core.is_settled() {
                    self.abandon_old_listeners();
                }
                Event::Ready { worker: self.info(worker) }
            }
            Notice::Disconnect { worker } => Event::Disconnect { worker: self.info(worker) },
            Notice::Exit { worker, slot, generation, status, reason, exited_after_disconnect } => {
                let pid = self.info(worker).pid;
                let worker =
                    WorkerInfo { id: worker.get(), slot: slot.get(), generation: generation.get(), pid };
                Event::Exit { worker, status, reason, exited_after_disconnect }
            }
            Notice::Error { worker, reason } => Event::Error { worker: self.info(worker), reason },
            Notice::Hung { worker } => Event::Hung { worker: self.info(worker) },
            Notice::TimedOut { worker, after } => {
                let worker = self.info(worker);
                let doing = worker.pid.map(autopsy::threads).unwrap_or_default();
                Event::TimedOut { worker, after, doing }
            }
            Notice::Recovered { worker } => Event::Recovered { worker: self.info(worker) },
            Notice::RestartScheduled { slot, delay, failures } => {
                Event::RestartScheduled { slot: slot.get(), delay, failures }
            }
            Notice::SlotErrored { slot, failures, .. } => Event::SlotErrored { slot: slot.get(), failures },
            Notice::ReloadStarted { generation } => Event::ReloadStarted { generation: generation.get() },
            Notice::ReloadProgress { done, total } => Event::ReloadProgress { done, total },
            Notice::ReloadDone { generation } => {
                self.abandon_old_listeners();
                Event::ReloadDone { generation: generation.get() }
            }
            Notice::ReloadFailed { generation, reason } => {
                Event::ReloadFailed { generation: generation.get(), reason }
            }
            Notice::Scaled { workers } => Event::Scaled { workers },
            Notice::Refused { class, refused } => Event::Refused { class, refused },
            Notice::Stopping => Event::Stopping,
        };
        self.tell(event);
    }
}
