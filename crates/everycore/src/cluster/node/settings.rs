//! `cluster.settings`, as `setupPrimary` sets them: how Node workers are started.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::cluster::program::{Serialization, WorkerCommand};

/// How Node workers are started, by the names of Node's `cluster.settings`. What is not set keeps its value: that of
/// an earlier call, else the default.
///
/// ```
/// use everycore::{Cluster, NodeSettings};
/// let settings = NodeSettings::new("server.js").exec_argv(["--enable-source-maps"]).args(["--port", "8000"]);
/// let cluster = Cluster::builder().setup_primary(settings).workers(4);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    pub(crate) exec_path: Option<OsString>,
    pub(crate) exec: Option<OsString>,
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) exec_argv: Option<Vec<OsString>>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) serialization: Option<Serialization>,
    pub(crate) silent: Option<bool>,
    pub(crate) stdio: Option<[WorkerStdio; 3]>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// What a worker's standard input, output or error is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerStdio {
    /// This process's.
    #[default]
    Inherit,
    /// Empty input; output goes nowhere.
    Ignore,
    /// A pipe; our end is in [`WorkerPipes`].
    Pipe,
}

/// Our ends of a worker's pipes. A worker whose output nobody reads waits once its pipe is full.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct WorkerPipes {
    /// To write to its standard input.
    pub stdin: Option<PipeWriter>,
    /// To read its standard output.
    pub stdout: Option<PipeReader>,
    /// To read its standard error.
    pub stderr: Option<PipeReader>,
}

impl NodeSettings {
    /// Workers run this script.
    pub fn new(exec: impl Into<OsString>) -> Self {
        Self::default().exec(exec)
    }

    /// Only what will be set: for a later call that changes one of them.
    pub fn change() -> Self {
        Self::default()
    }

    /// The runtime: `node` from the `PATH` unless set. Node calls it `execPath`.
    #[must_use]
    pub fn exec_path(mut self, program: impl Into<OsString>) -> Self {
        self.exec_path = Some(program.into());
        self
    }

    /// The script.
    #[must_use]
    pub fn exec(mut self, script: impl Into<OsString>) -> Self {
        self.exec = Some(script.into());
        self
    }

    /// The script's arguments, after it; none unless set.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// The runtime's arguments, before the script; none unless set. Node calls them `execArgv`.
    #[must_use]
    pub fn exec_argv<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.exec_argv = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// The directory it starts in; that of the [`Cluster`](crate::Cluster::cwd) unless set.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// How messages are written; as JSON unless set. Bun knows JSON only.
    #[must_use]
    pub fn serialization(mut self, serialization: Serialization) -> Self {
        self.serialization = Some(serialization);
        self
    }

    /// Whether standard input, output and error are pipes; not unless set. [`stdio`](Self::stdio) goes before it.
    #[must_use]
    pub fn silent(mut self, silent: bool) -> Self {
        self.silent = Some(silent);
        self
    }

    /// What standard input, output and error are.
    #[must_use]
    pub fn stdio(mut self, stdio: [WorkerStdio; 3]) -> Self {
        self.stdio = Some(stdio);
        self
    }

    /// The user a worker runs as; a privileged primary drops all other groups with it.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// The group a worker runs as.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// A later call: what it sets goes before what was set.
    pub(crate) fn set(&mut self, later: Self) {
        let Self { exec_path, exec, args, exec_argv, cwd, serialization, silent, stdio, uid, gid } = later;
        let before = std::mem::take(self);
        *self = Self {
            exec_path: exec_path.or(before.exec_path),
            exec: exec.or(before.exec),
            args: args.or(before.args),
            exec_argv: exec_argv.or(before.exec_argv),
            cwd: cwd.or(before.cwd),
            serialization: serialization.or(before.serialization),
            silent: silent.or(before.silent),
            stdio: stdio.or(before.stdio),
            uid: uid.or(before.uid),
            gid: gid.or(before.gid),
        };
    }

    /// The command of the next worker.
    pub(crate) fn command(&self) -> io::Result<WorkerCommand> {
        let script = self.exec.clone().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "no script is set: NodeSettings::exec")
        })?;
        let before = self.exec_argv.iter().flatten().cloned();
        let after = self.args.iter().flatten().cloned();
        let args = before.chain([script]).chain(after);
        Ok(WorkerCommand::new(self.exec_path.clone().unwrap_or_else(|| "node".into()), args))
    }

    fn ends(&self) -> [WorkerStdio; 3] {
        let piped = if self.silent == Some(true) { WorkerStdio::Pipe } else { WorkerStdio::Inherit };
        self.stdio.unwrap_or([piped; 3])
    }

    /// The worker's three ends, where they are not this process's, and ours.
    pub(crate) fn open(&self) -> io::Result<([Option<OwnedFd>; 3], WorkerPipes)> {
        let [stdin, stdout, stderr] = self.ends();
        let (stdin, to_worker) = match stdin {
            WorkerStdio::Pipe => io::pipe().map(|(reader, writer)| (Some(reader.into()), Some(writer)))?,
            other => (plain(other)?, None),
        };
        let output = |which| match which {
            WorkerStdio::Pipe => io::pipe().map(|(reader, writer)| (Some(writer.into()), Some(reader))),
            other => plain(other).map(|end| (end, None)),
        };
        let ((stdout, of_stdout), (stderr, of_stderr)) = (output(stdout)?, output(stderr)?);
        Ok(([stdin, stdout, stderr], WorkerPipes { stdin: to_worker, stdout: of_stdout, stderr: of_stderr }))
    }
}

/// An end that is no pipe's; `None` for this process's own.
fn plain(which: WorkerStdio) -> io::Result<Option<OwnedFd>> {
    match which {
        WorkerStdio::Ignore => {
            let nothing = File::options().read(true).write(true).open("/dev/null")?;
            Ok(Some(nothing.into()))
        }
        WorkerStdio::Inherit | WorkerStdio::Pipe => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_call_changes_what_it_sets() {
        let mut settings = NodeSettings::new("a.js").args(["x"]).silent(true);
        settings.set(NodeSettings::change().exec("b.js").exec_argv(["--inspect"]));
        assert_eq!(settings, NodeSettings::new("b.js").args(["x"]).silent(true).exec_argv(["--inspect"]));
        let command = settings.command().unwrap();
        assert_eq!(
            (command.program, command.args),
            ("node".into(), vec!["--inspect".into(), "b.js".into(), "x".into()])
        );
        assert!(NodeSettings::change().command().is_err());
    }

    #[test]
    fn stdio_goes_before_silent() {
        let silent = NodeSettings::new("a.js").silent(true);
        assert_eq!(silent.ends(), [WorkerStdio::Pipe; 3]);
        let stdio = [WorkerStdio::Ignore, WorkerStdio::Inherit, WorkerStdio::Pipe];
        assert_eq!(silent.clone().stdio(stdio).ends(), stdio);
        let (theirs, ours) = silent.stdio(stdio).open().unwrap();
        assert_eq!(theirs.map(|end| end.is_some()), [true, false, true]);
        assert_eq!(
            (ours.stdin.is_some(), ours.stdout.is_some(), ours.stderr.is_some()),
            (false, false, true)
        );
    }
}
