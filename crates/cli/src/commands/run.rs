//! `run`: supervises any program that uses the library or takes an inherited socket.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use everycore::{Address, Cluster, Dialect, Running, WorkerCommand, WorkerSpec};

use super::session::{Opening, Session, Setup, summary};
use crate::args::{self, value::Variable};
use crate::config::{RunSettings, Surroundings};
use crate::exit::Failure;
use crate::output::Stream;
use crate::output::capture::{Capture, Tails};
use crate::output::prefix::Prefixes;
use crate::output::progress::{Doing, Progress};
use crate::output::requests::{Rate, Requests};
use crate::program::template::{Placeholder, Values};
use crate::program::{Family, default_name, half, lookup, package};

/// Runs until told to stop, or until no slot can be kept filled.
pub(crate) fn supervise(mut run: args::Run, around: &Surroundings) -> Result<(), Failure> {
    see_through_env(&mut run);
    let mut notes = put_program(&mut run)?;
    let command = run.command.clone();
    let family = command.first().and_then(|program| script_of(program, run.cwd.as_deref(), around));
    let settings = Arc::new(RunSettings::new(run, family, around)?);
    check_program(&settings, around)?;
    if matches!(settings.service.dialect, Dialect::Node(_))
        && let Some(script) = half::of_primary(&command, settings.cwd.as_deref())
    {
        notes.push(format!(
            "{script} has a half for cluster's primary, which does not run: everycore is the primary, and keeps the workers"
        ));
    }
    if settings.hung_timeout.is_some() && settings.service.is_open() {
        notes.push(
            "--timeout sees workers that use the library; one that takes an inherited socket accepts for itself, and nobody sees whether it is silent"
                .into(),
        );
    }
    let style = settings.style;
    let columns = style.prefix_stdout || style.prefix_stderr;
    let setup = Setup {
        name: settings.name.clone(),
        style,
        prefixes: Prefixes::new(&settings.name, settings.workers, columns, style.colour),
        tails: Tails::default(),
        addresses_known: !settings.binds.is_empty(),
        requests: Requests::default(),
        awaited: settings.service.awaited(),
        drain_delay: settings.drain_delay.unwrap_or_default(),
    };
    // Before any thread starts: inherited sockets can only be taken then.
    let cluster = cluster(&settings)?;
    let system = |source| everycore::Error::System { doing: "starting the screen", source };
    let (mut progress, mut rate, requests) = (Progress::default(), Rate::default(), setup.requests.clone());
    let (session, mut observer) = Session::start(setup.clone(), move |primary| {
        let doing = primary.snapshot().ok().and_then(|snapshot| Doing::of(&snapshot));
        let now = Instant::now();
        let requests = rate.line(requests.total(), now);
        progress.line(doing, now).or(requests)
    })
    .map_err(system)?;
    let capture = match columns {
        true => Some(Capture::start(session.voice(), setup.tails).map_err(system)?),
        false => None,
    };
    let mut launcher = Launcher { settings: Arc::clone(&settings), prefixes: setup.prefixes, capture };
    let running = cluster
        .command(move |spec| launcher.command(spec))
        .on_event(move |primary, event| observer.hear(primary, &event))
        .start()?;
    open(&session, &running, &settings, notes);
    session.wait(running)
}

/// `env NAME=VALUE node server.js` is Node with a variable: its name says how it is served.
fn see_through_env(run: &mut args::Run) {
    let Some((first, rest)) = run.command.split_first() else { return };
    if Path::new(first).file_name() != Some(OsStr::new("env")) {
        return;
    }
    let set: Vec<Variable> = rest
        .iter()
        .map_while(|word| word.to_str().filter(|word| !word.starts_with('-'))?.parse().ok())
        .collect();
    let program = &rest[set.len()..];
    if program.first().is_some_and(|program| Family::of(program).is_some()) {
        run.command = program.to_vec();
        // Said last, as it would be if the other program were started.
        run.env.extend(set);
    }
}

/// Puts the program itself in the place of a package manager that would start it; what people should know of that.
fn put_program(run: &mut args::Run) -> Result<Vec<String>, Failure> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let from = run.cwd.as_ref().map_or_else(|| here.clone(), |cwd| here.join(cwd));
    // `..` in it must not lead up through this directory.
    let from = from.canonicalize().unwrap_or(from);
    let Some(found) = package::resolve(&run.command, &from)? else { return Ok(Vec::new()) };
    let shown = |words: &[OsString]| words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut notes = vec![format!("{} is: {}", shown(&run.command), shown(&found.command))];
    notes.extend(found.notes);
    run.name = run.name.take().or_else(|| found.name.map(|name| default_name(OsStr::new(&name))));
    run.command = found.command;
    run.cwd = found.cwd.or(run.cwd.take());
    // What was typed comes later, and wins.
    let typed = std::mem::take(&mut run.env);
    run.env = found.env.into_iter().map(|(name, value)| Variable { name, value }).chain(typed).collect();
    Ok(notes)
}

/// A script is what its first line says: of the Node family, perhaps.
fn script_of(program: &OsStr, cwd: Option<&Path>, around: &Surroundings) -> Option<Family> {
    let file = lookup::check(program, around.path.as_deref(), cwd).ok()?;
    Family::of(OsStr::new(&lookup::interpreter(&file)?))
}

/// Says at once what every worker would only say in its own way.
fn check_program(settings: &RunSettings, around: &Surroundings) -> Result<(), Failure> {
    if let Some(cwd) = settings.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
        return Err(Failure::usage(format!("--cwd {}: there is no such directory", cwd.display())));
    }
    let typed = settings.env.iter().rev().find(|variable| variable.name == OsStr::new("PATH"));
    let path = typed.map(|variable| variable.value.as_os_str()).or(around.path.as_deref());
    match settings.program.fixed_file() {
        Some(file) => lookup::check(&file, path, settings.cwd.as_deref()).map(drop),
        None => Ok(()),
    }
}

fn cluster(settings: &RunSettings) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::builder()
        .name(&settings.name)
        .readiness(settings.service.readiness)
        .inherit_listeners(settings.service.inherit)
        .dialect(settings.service.dialect)
        .preload(settings.preload)
        .restart(settings.restart.clone())
        .recycle(settings.recycle.clone());
    match &settings.classes {
        Some(classes) => cluster = cluster.route(classes.route()?),
        None => cluster = cluster.workers(settings.workers).policy(settings.policy),
    }
    if let Some(limit) = settings.max_connections {
        cluster = cluster.max_connections(limit);
    }
    for (place, (name, address)) in settings.binds.iter().enumerate() {
        let options = settings.listen.get(place).cloned().unwrap_or_default();
        cluster = cluster.bind_with(name, address.clone(), options)?;
    }
    if let Some(limit) = settings.start_timeout {
        cluster = cluster.start_timeout(limit);
    }
    if let Some(limit) = settings.graceful_timeout {
        cluster = cluster.graceful_timeout(limit);
    }
    // A container's first process is given everybody's orphans.
    cluster = cluster.reap_orphans(std::process::id() == 1);
    if let Some(delay) = settings.drain_delay {
        cluster = cluster.drain_delay(delay);
    }
    let account = &settings.account;
    if let Some(uid) = account.uid {
        cluster = cluster.uid(uid);
    }
    if let Some(gid) = account.gid {
        cluster = cluster.gid(gid);
    }
    if let Some(groups) = &account.groups {
        cluster = cluster.groups(groups.clone());
    }
    if let Some(limit) = settings.hung_timeout {
        cluster = cluster.hung_timeout(limit);
    }
    if let Some(cwd) = &settings.cwd {
        cluster = cluster.cwd(cwd);
    }
    Ok(cluster)
}

/// Makes each worker's command, on the primary's thread.
struct Launcher {
    settings: Arc<RunSettings>,
    prefixes: Prefixes,
    /// Set when output is captured.
    capture: Option<Capture>,
}

impl Launcher {
    fn command(&mut self, spec: &WorkerSpec) -> io::Result<WorkerCommand> {
        let port = self.port(spec);
        let values = Values {
            index: spec.slot,
            id: spec.id,
            port: port.unwrap_or_default(),
            fd: spec.listeners.first().map_or(0, |(_, number, _)| *number),
            generation: spec.generation,
            class: spec.class.as_deref().unwrap_or_default(),
        };
        let (program, args) = self.settings.program.fill(&values);
        let mut command = WorkerCommand::new(program, args);
        // Told by both, some take the sockets twice and close them once.
        command.listen_fds = !self.settings.program.uses(Placeholder::Fd);
        if let Some(port) = port {
            command.env.push(("PORT".into(), port.to_string().into()));
        }
        command.env.extend(self.settings.env.iter().map(|set| (set.name.clone(), set.value.clone())));
        let style = self.settings.style;
        if let Some(capture) = &mut self.capture {
            let mut pipe = |stream| capture.pipe(spec.id, spec.slot, stream, &self.prefixes);
            command.stdout = style.prefix_stdout.then(|| pipe(Stream::Stdout)).transpose()?;
            command.stderr = style.prefix_stderr.then(|| pipe(Stream::Stderr)).transpose()?;
        }
        Ok(command)
    }

    /// The port of the first TCP address: as bound, else as asked for.
    fn port(&self, spec: &WorkerSpec) -> Option<u16> {
        let bound = spec.ports.first().map(|(_, port)| *port);
        let typed = || {
            self.settings.binds.iter().find_map(|(_, address)| match address {
                Address::Tcp(at) => Some(at.port()),
                Address::Any { port } => Some(*port),
                _ => None,
            })
        };
        bound.or_else(|| typed().filter(|port| *port != 0)).or(self.settings.port)
    }
}

fn open(session: &Session, running: &Running, settings: &RunSettings, notes: Vec<String>) {
    let addresses: Vec<String> = settings
        .binds
        .iter()
        .filter_map(|(name, _)| running.address(name))
        .map(ToString::to_string)
        .collect();
    let (workers, policy) = (settings.workers, settings.policy);
    // Where both ways are open, the program decides whether connections are handed to it at all.
    let told = (!settings.service.is_open()).then_some(policy);
    let lines = vec![format!("running {} with {}", settings.name, summary(workers, &addresses, told))];
    let hint = settings.service.hint(&addresses);
    session.open(Opening { addresses: &addresses, workers, policy, lines, notes, hint });
}
