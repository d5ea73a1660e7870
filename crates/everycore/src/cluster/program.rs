//! What a worker process is: program, arguments, environment, output.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use everycore_ipc::OURS_ALONE;

use super::route::Launch;

use super::node::NodeSettings;

/// What is known of a worker before it is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerSpec {
    /// Its id.
    pub id: u32,
    /// The place it fills, from 0.
    pub slot: u32,
    /// How many reloads came before it.
    pub generation: u32,
    /// The class it belongs to, where workers are told apart.
    pub class: Option<String>,
    /// The inherited listeners, by name, with the descriptor number each has in the worker and its port (0 for a
    /// Unix socket). Empty unless [`inherit_listeners`](crate::Cluster::inherit_listeners) is set.
    pub listeners: Vec<(String, i32, u16)>,
    /// The ports bound before the workers start, by listener name; without Unix sockets.
    pub ports: Vec<(String, u16)>,
}

/// How to start one worker.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerCommand {
    /// The program, looked up in `PATH` unless it contains a `/`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables set on top of this process's environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether `LISTEN_FDS` and its kin tell it of the inherited listeners. Default: yes. A program that is told their
    /// numbers by its arguments may take the variables for other sockets than those.
    pub listen_fds: bool,
    /// Where its standard output goes; this process's unless set.
    pub stdout: Option<OwnedFd>,
    /// Where its standard error goes; this process's unless set.
    pub stderr: Option<OwnedFd>,
}

impl WorkerCommand {
    /// This program with these arguments, and everything else inherited.
    pub fn new<A: Into<OsString>>(program: impl Into<OsString>, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            listen_fds: true,
            stdout: None,
            stderr: None,
        }
    }

    /// By its name; the script that workers load first says so, too.
    pub(crate) fn is_deno(&self) -> bool {
        let name = Path::new(&self.program).file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("deno"))
    }
}

/// The language of the channel between the primary and its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Ours: for programs that use this library, and for those that use no channel at all.
    #[default]
    Everycore,
    /// Node's cluster: for real Node, Bun and Deno; the last two in JSON only. Node serves under every policy. Deno takes
    /// handed-over connections only, not a listening socket: `rr`, `least` or `sticky`. Bun takes neither: each worker's HTTP servers have a
    /// socket of their own, as under `reuseport`, whatever the policy.
    Node(Serialization),
}

/// How messages to Node workers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serialization {
    /// JSON lines.
    #[default]
    Json,
    /// V8's own format: Map, Set, Date, Buffer and the like survive.
    Advanced,
}

impl fmt::Display for Serialization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Advanced => "advanced",
        })
    }
}

/// Decides each worker's command as it is started.
pub(crate) type CommandFn = Box<dyn FnMut(&WorkerSpec) -> io::Result<WorkerCommand> + Send>;

/// The program side of a [`Cluster`](crate::Cluster).
#[derive(Default)]
pub(crate) struct Program {
    pub(crate) exec: Option<OsString>,
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) command: Option<CommandFn>,
    /// How Node workers are started, instead of `exec` and `args`.
    pub(crate) node: Option<NodeSettings>,
    pub(crate) inherit_listeners: bool,
    /// What the workers of each class are given besides.
    pub(crate) launches: BTreeMap<String, Launch>,
    pub(crate) ids: Ids,
}

/// Who workers run as, where not as the primary does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
}

impl Ids {
    /// Whether workers run as somebody else, or in other groups.
    pub(crate) fn differ(&self) -> bool {
        let gid = rustix::process::getegid().as_raw();
        self.differ_in_user() || self.gid.is_some_and(|wanted| wanted != gid)
    }

    /// Whether workers run as another user, who may not be allowed to bind what we are.
    pub(crate) fn differ_in_user(&self) -> bool {
        let uid = rustix::process::geteuid().as_raw();
        self.uid.is_some_and(|wanted| wanted != uid)
    }
}

impl Program {
    /// Fixes what "this program" means while the file is surely still there.
    pub(crate) fn resolve(&mut self) -> io::Result<()> {
        if self.command.is_none() && self.node.is_none() && self.exec.is_none() {
            self.exec = Some(std::env::current_exe()?.into());
        }
        Ok(())
    }

    /// A call of `setupPrimary`. Who workers run as is said in one place, however it was set.
    pub(crate) fn set_node(&mut self, settings: NodeSettings) -> Serialization {
        let node = self.node.get_or_insert_default();
        node.set(settings);
        self.ids.uid = node.uid.or(self.ids.uid);
        self.ids.gid = node.gid.or(self.ids.gid);
        node.serialization.unwrap_or_default()
    }

    /// What tools call the cluster unless told otherwise.
    pub(crate) fn default_name(&self) -> String {
        let script = self.node.as_ref().and_then(|node| node.exec.as_deref());
        script
            .or(self.exec.as_deref())
            .map(Path::new)
            .and_then(std::path::Path::file_stem)
            .map_or_else(|| "app".into(), |stem| stem.to_string_lossy().into_owned())
    }

    pub(crate) fn command(&mut self, spec: &WorkerSpec) -> io::Result<WorkerCommand> {
        let mut command = match (&mut self.command, &self.node) {
            (Some(decide), _) => decide(spec)?,
            (None, Some(node)) => node.command()?,
            (None, None) => WorkerCommand::new(
                self.exec.clone().unwrap_or_default(),
                self.args.clone().unwrap_or_else(|| std::env::args_os().skip(1).collect()),
            ),
        };
        let mut env = self.env.clone();
        env.append(&mut command.env);
        if let Some(launch) = spec.class.as_ref().and_then(|class| self.launches.get(class)) {
            command.args.extend_from_slice(&launch.args);
            env.extend_from_slice(&launch.env);
        }
        command.env = env;
        Ok(command)
    }
}

/// This process's environment without what must not be inherited, with `set` on top; a later setting of a name wins.
pub(crate) fn environment(set: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| !OURS_ALONE.iter().any(|ours| OsStr::new(ours) == name))
        .collect();
    for (name, value) in set {
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
    }
    environment
}
