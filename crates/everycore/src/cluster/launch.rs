//! How a worker comes to be: its channel, its descriptors, its environment, and what it is told first.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, Generation, Slot, WorkerId};
use everycore_ipc::{Codec, Connection, Limits};
use everycore_sys::eventfd::EventFd;
use everycore_sys::signals::number::{KILL, TERM};
use everycore_sys::{Spawn, SpawnError, Spawned, counters, inherit, socket_pair};

use super::driver::Driver;
use super::event::{Event, WorkerInfo};
use super::handle::QUEUED_BYTES;
use super::listener::Listeners;
use super::member::{Library, Link, Member, Node, Side};
use super::node::{NodeSettings, Preload, WorkerPipes};
use super::program::{Dialect, Ids, Program, Serialization, WorkerCommand, WorkerSpec, environment};
use super::sources::Wake;
use crate::error::advised;
use crate::protocol::{CHANNEL_VARIABLE, ToWorker, Welcome};

/// Inherited descriptors begin here, by the convention of `LISTEN_FDS`; the channel comes after them.
const FIRST_DESCRIPTOR: i32 = 3;

/// Connections that may be on their way to a Node worker. More than one hides the round trip; the core's credit is
/// what bounds how many wait behind a busy one.
const UNANSWERED: usize = 16;

/// What workers are started with; it changes with a further `setupPrimary` alone.
pub(super) struct Launcher {
    pub(super) program: Program,
    pub(super) name: String,
    pub(super) dialect: Dialect,
    /// What Node workers load first, if they are to.
    pub(super) preload: Option<Preload>,
    /// `NOTIFY_SOCKET`, where workers are to say so when they are ready.
    pub(super) notify: Option<OsString>,
    /// How long they have to drain.
    pub(super) drain: Duration,
}

/// A process that runs, and why it does so without our script where it should have loaded that.
struct Started {
    spawned: Spawned,
    without_script: Option<io::Error>,
}

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
                self.ending.started();
                CoreEvent::Spawned { worker, pid }
            }
            Err(Failed { reason, lasting }) => {
                let is_lasting = lasting.is_some();
                if let Some(error) = lasting {
                    self.ending.unstartable(error);
                }
                CoreEvent::SpawnFailed { worker, reason, lasting: is_lasting }
            }
        };
        self.order(event);
    }

    fn try_spawn(&mut self, worker: WorkerId, info: WorkerInfo) -> Result<u32, Failed> {
        let (ours, theirs) = socket_pair::stream_pair().map_err(system("channel"))?;
        // The worker finds its end blocking, as every program expects of what it inherits.
        socket_pair::set_mode(&theirs, socket_pair::Mode::Blocking).map_err(system("channel"))?;
        if self.launcher.inherits() {
            self.listeners.prepare(info.slot).map_err(system("a socket for this slot"))?;
        }
        let spec = self.launcher.spec(info, self.class(info.slot), &self.listeners);
        let command = self.launcher.command(&spec).map_err(system("preparing the worker's command"))?;
        // All that needs descriptors comes before the process: one that nobody knows of would never be waited for.
        let mut connection =
            Connection::new(ours, self.launcher.codec(), limits()).map_err(system("channel"))?;
        connection.send_handles_alone(command.is_deno());
        let link = Link::new(connection, self.shared.connected(info.id));
        let mut member = match self.launcher.dialect {
            Dialect::Everycore => {
                greet(self.launcher.welcome(&spec), info, link).map_err(system("page of counters"))?
            }
            Dialect::Node(_) => Member::new(info, link, Side::Node(Node::default())),
        };
        let (standard, pipes) =
            self.launcher.standard().map_err(system("the worker's standard input and output"))?;
        let Started { spawned, without_script } =
            self.launcher.start(&spec, command, &theirs, standard, &self.listeners)?;
        drop(theirs);
        if let Err(error) = self.watch(worker, &member, &spawned) {
            // The kernel is out of memory: what cannot be watched must not run.
            let _ = spawned.pidfd.signal_group(KILL);
            let _ = spawned.pidfd.wait();
            return Err(system("watching the worker")(error));
        }
        let pid = spawned.pid;
        member.info.pid = Some(pid);
        member.process = Some(spawned.pidfd);
        self.members.insert(worker, member);
        self.flush_channel(worker);
        self.readying.started(worker, pid, Instant::now());
        if let Some(pipes) = pipes {
            self.shared.piped(info.id, pipes);
        }
        if let Some(error) = without_script {
            self.tell(Event::Warning {
                text: format!(
                    "cannot write the script that Node workers load first, so they serve without it: {error}"
                ),
            });
        }
        Ok(pid)
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

    /// The class a slot belongs to.
    fn class(&self, slot: u32) -> Option<String> {
        self.core.router().map(|router| router.name(router.class_of_slot(Slot::new(slot))).to_owned())
    }

    /// A further call of `setupPrimary`: for the next workers.
    pub(super) fn setup_primary(&mut self, settings: NodeSettings) {
        if self.launcher.program.node.is_some() {
            self.launcher.dialect = Dialect::Node(self.launcher.program.set_node(settings));
            self.listeners.permanent_only = self.launcher.program.ids.differ_in_user();
        }
    }
}

/// The other ends of a worker's standard input, output and error, where they are not the primary's own.
type Standard = [Option<OwnedFd>; 3];

impl Launcher {
    pub(super) fn is_node(&self) -> bool {
        matches!(self.dialect, Dialect::Node(_))
    }

    /// Whether workers are given the bound sockets themselves.
    pub(super) fn inherits(&self) -> bool {
        self.program.inherit_listeners
    }

    /// Whether sockets of slots that are gone for good are closed: workers of such a program cannot adopt them. Those of
    /// another one can, be it that the next one has yet to come.
    pub(super) fn closes(&self) -> bool {
        self.inherits() || self.is_node()
    }

    fn codec(&self) -> Codec {
        match self.dialect {
            Dialect::Everycore => Codec::Native,
            Dialect::Node(Serialization::Json) => Codec::Json,
            Dialect::Node(Serialization::Advanced) => Codec::Advanced,
        }
    }

    fn command(&mut self, spec: &WorkerSpec) -> io::Result<WorkerCommand> {
        self.program.command(spec)
    }

    fn standard(&self) -> io::Result<(Standard, Option<WorkerPipes>)> {
        let Some(node) = &self.program.node else { return Ok(([None, None, None], None)) };
        let (standard, pipes) = node.open()?;
        Ok((standard, Some(pipes)))
    }

    fn welcome(&self, spec: &WorkerSpec) -> Welcome {
        Welcome {
            name: self.name.clone(),
            worker: spec.id,
            slot: spec.slot,
            generation: spec.generation,
            class: spec.class.clone(),
            drain_ms: u64::try_from(self.drain.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn spec(&self, info: WorkerInfo, class: Option<String>, listeners: &Listeners) -> WorkerSpec {
        let inherited = listeners.permanent().filter(|_| self.inherits());
        WorkerSpec {
            id: info.id,
            slot: info.slot,
            generation: info.generation,
            class,
            listeners: inherited
                .zip(FIRST_DESCRIPTOR..)
                .map(|((name, bound), number)| {
                    (name.to_owned(), number, bound.address.tcp().map_or(0, |address| address.port()))
                })
                .collect(),
            ports: listeners
                .permanent()
                .filter_map(|(name, bound)| Some((name.to_owned(), bound.address.port()?)))
                .collect(),
        }
    }

    fn start(
        &mut self,
        spec: &WorkerSpec,
        command: WorkerCommand,
        channel: &OwnedFd,
        [stdin, stdout, stderr]: Standard,
        listeners: &Listeners,
    ) -> Result<Started, Failed> {
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
        let without_script = self.preload(&spawn, &mut variables).err();
        spawn.env = environment(variables);
        spawn.listen_pid = tells;
        spawn.process_group = true;
        spawn.no_new_privs = self.program.ids.differ();
        // A program that knows its channel notices its end; any other would live on.
        spawn.death_signal = self.inherits().then_some(TERM);
        let inherited = listeners.inherited_by(spec.slot).take(spec.listeners.len());
        spawn.descriptors = inherited.into_iter().zip(FIRST_DESCRIPTOR..).collect();
        spawn.descriptors.push((channel.as_fd(), channel_number));
        let ours = (io::stdin(), io::stdout(), io::stderr());
        let (stdout, stderr) = (command.stdout.or(stdout), command.stderr.or(stderr));
        spawn.descriptors.push((stdin.as_ref().map_or(ours.0.as_fd(), AsFd::as_fd), 0));
        spawn.descriptors.push((stdout.as_ref().map_or(ours.1.as_fd(), AsFd::as_fd), 1));
        spawn.descriptors.push((stderr.as_ref().map_or(ours.2.as_fd(), AsFd::as_fd), 2));
        let spawned = everycore_sys::spawn(&spawn)?;
        Ok(Started { spawned, without_script })
    }

    /// Has a Node program load our script first.
    fn preload(&mut self, spawn: &Spawn<'_>, variables: &mut Vec<(OsString, OsString)>) -> io::Result<()> {
        if let (true, Some(preload)) = (self.is_node(), &mut self.preload) {
            let words = std::iter::once(&spawn.program).chain(&spawn.args);
            let words: Vec<_> = words.map(OsString::as_os_str).collect();
            let more = preload.variables(&words, variables, self.drain, spawn.uid.is_some())?;
            variables.extend(more);
        }
        Ok(())
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
            variables.push(("NOTIFY_SOCKET".into(), notify.clone()));
        }
        Ok(variables)
    }
}

/// A worker of ours, with its first message on the way: the channel holds it until the worker runs.
fn greet(welcome: Welcome, info: WorkerInfo, link: Link) -> io::Result<Member> {
    let (page_fd, page) = counters::create()?;
    let bell = EventFd::new()?;
    let bell_fd = bell.as_fd().try_clone_to_owned()?;
    let mut member = Member::new(info, link, Side::Library(Library::new(page, bell)));
    let told = member.tell(&ToWorker::Welcome(welcome), vec![page_fd, bell_fd]);
    debug_assert!(told.is_ok(), "an empty queue takes one message");
    Ok(member)
}

/// The handles refuse what is too much; what they have let pass is not dropped here.
fn limits() -> Limits {
    Limits {
        unanswered: UNANSWERED,
        queue_bytes: QUEUED_BYTES + Limits::default().frame,
        ..Limits::default()
    }
}

/// What was being done when the system refused.
fn system(doing: &'static str) -> impl Fn(io::Error) -> Failed {
    move |error| Failed::from(format!("{doing}: {}", advised(&error)))
}
