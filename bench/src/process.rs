//! Programs the bench starts: each with a log of what it says, and gone when we are.
//!
//! A program gets `TERM` when the bench dies, and its orphans become ours, so that nothing is left behind: only
//! processes we started, and their descendants, are ever signalled, each by its id.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use everycore_sys::{Spawn, Spawned, spawn};
use rustix::process::{Signal, WaitOptions, waitpid};

use crate::measure::processes;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(15);

/// A program to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    /// A program and its arguments, in our environment.
    pub(crate) fn new(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), env: Vec::new() }
    }

    /// Sets a variable for it.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// As one would type it.
    pub(crate) fn command_line(&self) -> String {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::iter::once(program).chain(self.args.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
}

/// A program that runs, and its log.
#[derive(Debug)]
pub(crate) struct Process {
    child: Spawned,
    log: PathBuf,
    reaped: std::cell::Cell<bool>,
}

impl Process {
    /// Starts it in `directory`, with its output in `directory/NAME.log`.
    ///
    /// # Errors
    /// The log cannot be created, or the program not started.
    pub(crate) fn start(launch: &Launch, directory: &Path, name: &str) -> io::Result<Self> {
        Self::start_with(launch, directory, name, &[])
    }

    /// As [`start`](Self::start), with descriptors under the numbers they are to have.
    ///
    /// # Errors
    /// As `start`.
    pub(crate) fn start_with(
        launch: &Launch,
        directory: &Path,
        name: &str,
        descriptors: &[(BorrowedFd<'_>, RawFd)],
    ) -> io::Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let (log, null) = (File::create(&path)?, File::open("/dev/null")?);
        let mut program = Spawn::new(&launch.program);
        program.args = launch.args.iter().map(Into::into).collect();
        program.env = std::env::vars_os()
            .filter(|(name, _)| !launch.env.iter().any(|(ours, _)| *name == **ours))
            .chain(launch.env.iter().map(|(name, value)| (name.into(), value.into())))
            .collect();
        program.cwd = Some(directory.to_owned());
        program.descriptors = vec![(null.as_fd(), 0), (log.as_fd(), 1), (log.as_fd(), 2)];
        program.descriptors.extend_from_slice(descriptors);
        program.process_group = true;
        program.death_signal = Some(Signal::TERM.as_raw());
        let child = spawn(&program)
            .map_err(|error| io::Error::other(format!("{}: {error}", launch.command_line())))?;
        Ok(Self { child, log: path, reaped: false.into() })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid
    }

    /// Everything it has said so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.child.pidfd.signal(signal.as_raw())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        if !self.reaped.get() && !matches!(self.child.pidfd.try_wait(), Ok(None)) {
            self.reaped.set(true);
        }
        self.reaped.get()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// Not within `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("still runs after {limit:?}: {}", self.log()),
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Asks it to end, waits for it, and kills what is left of it.
    ///
    /// # Errors
    /// It did not end by itself; it is gone all the same.
    pub(crate) fn end(self, signal: Signal) -> io::Result<()> {
        // Before it ends: afterwards nobody knows any more whose children they were.
        let family = processes::tree(self.pid());
        let asked = self.signal(signal);
        let ended = asked.and_then(|()| self.wait(PATIENCE));
        drop(self);
        end_orphans(&family);
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = processes::tree(self.pid());
        if !self.has_ended() {
            // Gone in between is as good.
            let _ = self.child.pidfd.signal(Signal::KILL.as_raw());
            let _ = self.child.pidfd.wait();
        }
        end_orphans(&family);
    }
}

/// Makes descendants whose parent dies ours, so that they can be found and waited for.
///
/// # Errors
/// None on any Linux we run on.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills and reaps those of a family that have become our own children.
fn end_orphans(family: &[u32]) {
    for pid in orphans(family) {
        let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { continue };
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

fn orphans(family: &[u32]) -> Vec<u32> {
    processes::children(std::process::id()).into_iter().filter(|child| family.contains(child)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_in_its_log_and_it_ends_when_asked() {
        let directory = crate::scratch::Scratch::new("process").unwrap();
        let launch = Launch::new("/bin/sh", ["-c", "echo $GREETING; exec sleep 60"]).env("GREETING", "hi");
        let process = Process::start(&launch, directory.path(), "sh").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.log() != "hi\n" {
            assert!(Instant::now() < deadline, "it says {:?}", process.log());
            std::thread::yield_now();
        }
        process.end(Signal::TERM).unwrap();
    }

    #[test]
    fn children_that_outlive_their_parent_are_ended_too() {
        adopt_orphans().unwrap();
        let directory = crate::scratch::Scratch::new("orphans").unwrap();
        let launch = Launch::new("/bin/sh", ["-c", "sleep 600 & echo $!; wait"]);
        let process = Process::start(&launch, directory.path(), "sh").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !process.log().ends_with('\n') {
            assert!(Instant::now() < deadline, "it says {:?}", process.log());
            std::thread::yield_now();
        }
        let child: u32 = process.log().trim().parse().unwrap();
        process.end(Signal::TERM).unwrap();
        assert!(!Path::new(&format!("/proc/{child}")).exists());
    }
}
