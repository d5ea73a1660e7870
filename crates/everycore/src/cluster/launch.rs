//! How a worker comes to be: its channel, its descriptors, its environment, and what it is told first.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use everycore_core::{Event as CoreEvent, Generation, Slot, WorkerId};
use everycore_ipc::{Codec, Connection, Limits};
use everycore_sys::eventfd::EventFd;
use everycore_sys::signals::number::{KILL, TERM};
use everycore_sys::{Spawn, SpawnError, Spawned, counters, inherit, socket_pair};

use super::driver::Driver;
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

/// Connections that may be on their way to a Node worker. More than one hides the round trip; the core's credit is
/// what bounds how many wait behind a busy one.
const UNANSWERED: usize = 16;

/// Why a worker could not be started.
struct Failed {
    /// For people.
    reason: String,
    /// Set when another attempt would fail the same way.
    lasting: Option<SpawnError>,
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self { reason, lasting: None }
    }
}

impl From<SpawnError> for Failed {
    fn from(error: SpawnError) -> Self {
        let reason = match &error {
            SpawnError::Step { step, errno } => {
                format!("could not {step}: {}", advised(&io::Error::from_raw_os_error(*errno)))
            }
            other => other.to_string(),
        };
        Self { reason, lasting: Some(error).filter(SpawnError::is_lasting) }
    }
}

impl Driver {
    pub(super) fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) {
        let info = WorkerInfo { id: worker.get(), slot: slot.get(), generation: generation.get(), pid: None };
        let event = match self.try_spawn(worker, info) {
            Ok(pid) => {
                self.unstartable = None;
                CoreEvent::Spawned { worker, pid }
            }
            Err(Failed { reason, lasting }) => {
                let is_lasting = lasting.is_some();
                self.unstartable = lasting.or(self.unstartable.take());
                CoreEvent::SpawnFailed { worker, reason, lasting: is_lasting }
            }
        };
        self.order(event);
    }

    fn try_spawn(&mut self, worker: WorkerId, info: WorkerInfo) -> Result<u32, Failed> {
        let system = |doing: &'static str| {
            move |error: io::Error| Failed::from(format!("{doing}: {}", advised(&error)))
        };
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
        let mut connection = Connection::new(ours, codec, limits).map_err(system("channel"))?;
        connection.send_handles_alone(command.is_deno());
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
    ) -> Result<Spawned, Failed> {
        let channel_number = FIRST_DESCRIPTOR + spec.listeners.len() as i32;
        let mut spawn = Spawn::new(command.program);
        spawn.args = command.args;
        spawn.cwd = self.program.cwd.clone();
        if let Some(node) = &self.program.node {
            spawn.cwd = node.cwd.clone().or(spawn.cwd);
        }
        let Ids { uid, gid, groups } = self.program.ids.clone();
        (spawn.uid, spawn.gid, spawn.groups) = (uid, gid, groups);
        let tells = command.listen_fds && !spec.listeners.is_empty();
        let mut variables = self.variables(spec, channel, channel_number, command.env)?;
        if tells {
            let names: Vec<&str> = spec.listeners.iter().map(|(name, ..)| name.as_str()).collect();
            variables.push(("LISTEN_FDS".into(), spec.listeners.len().to_string().into()));
            variables.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
            // The child writes its own pid over this between clone and exec.
            variables.push(("LISTEN_PID".into(), OsString::new()));
        }
        if matches!(self.dialect, Dialect::Node(_)) {
            self.preload(&spawn, &mut variables);
        }
        spawn.env = environment(variables);
        spawn.listen_pid = tells;
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
        everycore_sys::spawn(&spawn).map_err(Failed::from)
    }

    /// A further call of `setupPrimary`: for the next workers.
    pub(super) fn setup_primary(&mut self, settings: NodeSettings) {
        if self.program.node.is_some() {
            self.dialect = Dialect::Node(self.program.set_node(settings));
            self.listeners.permanent_only = self.program.ids.differ_in_user();
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
        if let [(_, port)] = spec.ports[..] {
            set("PORT", port.to_string());
        }
        if let Some(notify) = &self.notify {
            variables.push(("NOTIFY_SOCKET".into(), notify.variable()));
        }
        Ok(variables)
    }
}
