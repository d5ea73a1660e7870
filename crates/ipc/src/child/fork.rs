//! Starts a child: the program, its channel, descriptors, environment and rights.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use everycore_sys::{PidFd, Spawn, spawn};

use super::Child;
use super::environment::Environment;
use super::error::ForkError;
use super::plumbing::{ChannelEnds, Stdio};
use crate::connection::Connection;
use crate::limits::Limits;
use crate::wire::Codec;

/// Prepares a child with a message channel.
///
/// `program` is a path, or a name that is looked for in `PATH`. A script of Node (`.js`, `.mjs`, `.cjs`, `.ts`, `.mts`,
/// `.cts`) is run by `node`; [`Fork::exec_path`] chooses another runtime.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use everycore_ipc::fork;
/// let child = fork("./worker").arg("--verbose").env("ROLE", "special").spawn()?;
/// child.send("hi there").await?;
/// let answer = child.recv().await?;
/// # Ok(())
/// # }
/// ```
pub fn fork(program: impl Into<OsString>) -> Fork {
    Fork {
        program: program.into(),
        args: Vec::new(),
        exec_path: None,
        exec_args: Vec::new(),
        environment: Environment::default(),
        stdin: Stdio::Inherit,
        stdout: Stdio::Inherit,
        stderr: Stdio::Inherit,
        channel: Some(3),
        codec: Codec::Json,
        limits: Limits::default(),
        descriptors: Vec::new(),
        template: Spawn::default(),
    }
}

/// A child about to be started. May be started several times.
#[derive(Debug)]
#[must_use = "nothing is started before `spawn`"]
pub struct Fork {
    /// As it was asked for, before it is known what runs it.
    program: OsString,
    args: Vec<OsString>,
    exec_path: Option<OsString>,
    exec_args: Vec<OsString>,
    environment: Environment,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    /// Number of the channel's descriptor in the child.
    channel: Option<RawFd>,
    codec: Codec,
    limits: Limits,
    descriptors: Vec<(OwnedFd, RawFd)>,
    /// Directory, ids and the like.
    template: Spawn<'static>,
}

/// A started child in its parts, for a program with an event loop of its own.
#[derive(Debug)]
pub struct ChildParts {
    /// To wait for it and to signal it; holds its pid. **Somebody must wait**, or the child stays as a zombie.
    pub pidfd: PidFd,
    /// Our end of its channel.
    pub connection: Option<Connection>,
    /// Our end of its standard input, if it is a pipe.
    pub stdin: Option<PipeWriter>,
    /// Our end of its standard output, if it is a pipe.
    pub stdout: Option<PipeReader>,
    /// Our end of its standard error, if it is a pipe.
    pub stderr: Option<PipeReader>,
}

impl Fork {
    /// Starts the child.
    ///
    /// Takes some 50 microseconds however large this process is. The calling thread counts as the parent for
    /// [`Fork::death_signal`].
    ///
    /// # Errors
    /// [`ForkError::Program`] tells by its source whether there is no such program, it cannot be executed, the directory
    /// is bad, or what else.
    pub fn spawn(&self) -> Result<Child, ForkError> {
        self.spawn_parts().map(Child::new)
    }

    /// Starts the child and gives out its parts. Needs no runtime.
    ///
    /// # Errors
    /// As [`Fork::spawn`].
    pub fn spawn_parts(&self) -> Result<ChildParts, ForkError> {
        let plumbing = |source| ForkError::Plumbing { program: self.program.clone(), source };
        let channel = self.channel.map(|number| ChannelEnds::new(number, self.codec, self.limits));
        let mut channel = channel.transpose().map_err(plumbing)?;
        let stdin = self.stdin.input().map_err(plumbing)?;
        let stdout = self.stdout.output().map_err(plumbing)?;
        let stderr = self.stderr.output().map_err(plumbing)?;

        let mut program = self.program();
        if let Some(channel) = &mut channel {
            channel.ours.send_handles_alone(is_deno(&program.program));
        }
        let standard = [(stdin.theirs(), 0), (stdout.theirs(), 1), (stderr.theirs(), 2)];
        program.descriptors = standard.into_iter().filter_map(|(fd, number)| Some((fd?, number))).collect();
        program.descriptors.extend(self.descriptors.iter().map(|(fd, number)| (fd.as_fd(), *number)));
        if let (Some(channel), Some(number)) = (&channel, self.channel) {
            program.descriptors.push((channel.theirs.as_fd(), number));
            program.env = channel.variables();
        }
        self.check_numbers(&program)?;
        program.env = self.environment.build(program.env);

        let spawned = spawn(&program);
        let spawned =
            spawned.map_err(|source| ForkError::Program { program: self.program.clone(), source })?;
        Ok(ChildParts {
            pidfd: spawned.pidfd,
            connection: channel.map(|channel| channel.ours),
            stdin: stdin.ours,
            stdout: stdout.ours,
            stderr: stderr.ours,
        })
    }

    /// The template with what is to be run: a script goes to its runtime.
    fn program(&self) -> Spawn<'_> {
        let mut program = self.template.clone();
        let node = || is_script(&self.program).then(|| OsString::from("node"));
        match self.exec_path.clone().or_else(node) {
            Some(runtime) => {
                program.program = runtime;
                program.args = self.exec_args.clone();
                program.args.push(self.program.clone());
            }
            None => program.program = self.program.clone(),
        }
        program.args.extend(self.args.iter().cloned());
        program
    }

    fn check_numbers(&self, program: &Spawn<'_>) -> Result<(), ForkError> {
        let mut seen = HashSet::new();
        match program.descriptors.iter().find(|(_, number)| *number < 0 || !seen.insert(*number)) {
            Some((_, number)) => {
                Err(ForkError::Descriptor { program: self.program.clone(), number: *number })
            }
            None => Ok(()),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<Arg: Into<OsString>>(mut self, args: impl IntoIterator<Item = Arg>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs the program by this one, which gets it as its argument: `fork("worker.js").exec_path("bun")`.
    pub fn exec_path(mut self, runtime: impl Into<OsString>) -> Self {
        self.exec_path = Some(runtime.into());
        self
    }

    /// Arguments for the runtime, ahead of the script: `--max-old-space-size=256`. Not used without a runtime.
    pub fn exec_args<Arg: Into<OsString>>(mut self, args: impl IntoIterator<Item = Arg>) -> Self {
        self.exec_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment, which otherwise is ours without the variables that were meant for us alone
    /// ([`OURS_ALONE`](crate::OURS_ALONE)).
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.change(name.into(), Some(value.into()));
        self
    }

    /// Takes a variable out of its environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.environment.change(name.into(), None);
        self
    }

    /// Starts it with an empty environment, apart from what is set afterwards and the channel's variables.
    pub fn env_clear(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// The directory it starts in.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.template.cwd = Some(directory.into());
        self
    }

    /// What its standard input is; ours by default.
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdin = stdio;
        self
    }

    /// What its standard output is; ours by default.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdout = stdio;
        self
    }

    /// What its standard error is; ours by default.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stderr = stdio;
        self
    }

    /// Starts it without a channel: any program that knows nothing of us.
    pub fn without_channel(mut self) -> Self {
        self.channel = None;
        self
    }

    /// The number of the channel's descriptor in the child; 3 by default, as in Node.
    pub fn channel_fd(mut self, number: RawFd) -> Self {
        self.channel = Some(number);
        self
    }

    /// How messages are written: [`Codec::Json`] by default, which Node and we understand. [`Codec::Native`] is faster
    /// where both ends are Rust.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Bounds on what the child may send and leave unread.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Gives it a descriptor under this number. All others but 0, 1, 2 and the channel are closed.
    pub fn fd(mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Self {
        self.descriptors.push((fd.into(), number));
        self
    }

    /// The user it runs as. Its supplementary groups are dropped unless [`Fork::groups`] names them.
    pub fn uid(mut self, uid: u32) -> Self {
        self.template.uid = Some(uid);
        self
    }

    /// The group it runs as.
    pub fn gid(mut self, gid: u32) -> Self {
        self.template.gid = Some(gid);
        self
    }

    /// Its supplementary groups.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.template.groups = Some(groups.into_iter().collect());
        self
    }

    /// Permissions that files it makes do not get, such as `0o027`.
    pub fn umask(mut self, mask: u32) -> Self {
        self.template.umask = Some(mask);
        self
    }

    /// Makes it the leader of a process group, so that [`Child::kill_group`] reaches what it starts and a terminal's
    /// Ctrl-C does not reach it.
    pub fn process_group(mut self, own: bool) -> Self {
        self.template.process_group = own;
        self
    }

    /// The signal it gets when the thread that starts it ends, however that happens. None by default.
    pub fn death_signal(mut self, signal: i32) -> Self {
        self.template.death_signal = Some(signal);
        self
    }

    /// Sets `LISTEN_PID` to its own pid, for programs that take sockets from a service manager. `LISTEN_FDS` and the
    /// sockets, from number 3 on, are to be given beside it.
    pub fn listen_pid(mut self, set: bool) -> Self {
        self.template.listen_pid = set;
        self
    }

    /// Keeps it, and all it starts, from gaining rights by set-user-id programs.
    pub fn no_new_privs(mut self, set: bool) -> Self {
        self.template.no_new_privs = set;
        self
    }
}

/// By its name, as it is known elsewhere.
fn is_deno(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with("deno"))
}

/// By its name alone: the file may be found by the child only.
fn is_script(program: &OsStr) -> bool {
    let extension = Path::new(program).extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| ["js", "mjs", "cjs", "ts", "mts", "cts"].contains(&extension))
}
