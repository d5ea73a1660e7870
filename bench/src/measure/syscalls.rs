//! How often processes enter the kernel, counted and not timed.
//!
//! `perf` counts without slowing anybody down and comes first. `strace` stops a process at every call, which changes
//! how much waits at each wake-up; it is for machines without `perf`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::{Launch, Process};

/// The calls shown one by one, beside the sum of all.
const CALLS: [&str; 27] = [
    "accept4",
    "clock_nanosleep",
    "close",
    "close_range",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fcntl",
    "futex",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ioctl",
    "read",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "write",
    "writev",
];

/// What the sum of all calls is called in the counts.
const ALL: &str = "all";

/// A program that counts.
#[derive(Clone, Debug)]
pub(crate) enum Counter {
    /// Linux's `perf stat` on trace points.
    Perf(PathBuf),
    /// `strace -c`.
    Strace(PathBuf),
}

/// A count under way.
#[derive(Debug)]
pub(crate) struct Watch {
    process: Process,
    output: PathBuf,
    counter: Counter,
}

/// How often each call was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, u64>);

impl Counter {
    /// The best of these that works here: trace points need root or a permissive kernel, and a mounted tracefs.
    pub(crate) fn find(perf: Option<&Path>, strace: Option<&Path>) -> Option<Self> {
        let perf = perf.filter(|perf| perf_works(perf)).map(|perf| Self::Perf(perf.to_owned()));
        perf.or_else(|| strace.map(|strace| Self::Strace(strace.to_owned())))
    }

    /// What it is called in print.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Perf(_) => "perf stat",
            Self::Strace(_) => "strace -c",
        }
    }

    /// Starts to count what these processes do; returns when it counts.
    ///
    /// # Errors
    /// It cannot be started, or does not get hold of the processes within ten seconds.
    pub(crate) fn watch(&self, pids: &[u32], directory: &Path) -> io::Result<Watch> {
        let output = directory.join("syscalls");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut args: Vec<String>;
        let program = match self {
            Self::Perf(program) => {
                args = ["stat", "-x,", "-o"].map(String::from).to_vec();
                args.extend([
                    output.display().to_string(),
                    "-e".into(),
                    events(),
                    "-p".into(),
                    pids.join(","),
                ]);
                program
            }
            Self::Strace(program) => {
                args = ["-f", "-c", "-o"].map(String::from).to_vec();
                args.push(output.display().to_string());
                args.extend(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.clone()]));
                program
            }
        };
        let process = Process::start(&Launch::new(program, args), directory, "counter")?;
        let watch = Watch { process, output, counter: self.clone() };
        watch.wait_until_attached(pids.len())?;
        Ok(watch)
    }
}

impl Watch {
    fn wait_until_attached(&self, processes: usize) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.is_attached(processes) {
            if Instant::now() > deadline || self.process.has_ended() {
                let said = self.process.log();
                return Err(io::Error::other(format!(
                    "{} does not count: {}",
                    self.counter.name(),
                    said.trim()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn is_attached(&self, processes: usize) -> bool {
        match self.counter {
            // One descriptor per event and thread.
            Counter::Perf(_) => {
                let descriptors =
                    fs::read_dir(format!("/proc/{}/fd", self.process.pid())).into_iter().flatten();
                let links = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
                let events = links.filter(|link| link.as_os_str() == "anon_inode:[perf_event]").count();
                events >= processes * (CALLS.len() + 1)
            }
            Counter::Strace(_) => self.process.log().matches(" attached").count() >= processes,
        }
    }

    /// Stops counting.
    ///
    /// # Errors
    /// The counter did not write down what it counted.
    pub(crate) fn stop(self) -> io::Result<Counts> {
        self.process.end(rustix::process::Signal::INT)?;
        let text = fs::read_to_string(&self.output)?;
        let counts = match self.counter {
            Counter::Perf(_) => parse_perf(&text),
            Counter::Strace(_) => parse_strace(&text),
        };
        if counts.all() == 0 {
            return Err(io::Error::other(format!(
                "{} counted nothing: {}",
                self.counter.name(),
                text.trim()
            )));
        }
        Ok(counts)
    }
}

impl Counts {
    /// All calls together.
    pub(crate) fn all(&self) -> u64 {
        self.of(ALL)
    }

    /// All but those that the standard library makes in a build with checks: a call of its own before it closes an owned
    /// descriptor.
    pub(crate) fn own(&self) -> f64 {
        let checks = if cfg!(debug_assertions) { self.of("fcntl").min(self.of("close")) } else { 0 };
        (self.all() - checks) as f64
    }

    /// How often this one was made.
    pub(crate) fn of(&self, call: &str) -> u64 {
        self.0.get(call).copied().unwrap_or(0)
    }

    /// Calls per connection, the most frequent first, leaving out those that hardly ever happen.
    pub(crate) fn per(&self, connections: u64) -> String {
        let each = |count: u64| count as f64 / connections.max(1) as f64;
        let mut calls: Vec<_> =
            self.0.iter().filter(|(name, count)| *name != ALL && each(**count) >= 0.02).collect();
        calls.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        calls
            .iter()
            .map(|(name, count)| format!("{name} {:.2}", each(**count)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn events() -> String {
    let calls = CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}"));
    std::iter::once("raw_syscalls:sys_enter".to_owned()).chain(calls).collect::<Vec<_>>().join(",")
}

fn perf_works(perf: &Path) -> bool {
    let trial = std::process::Command::new(perf).args(["stat", "-x,", "-e", &events(), "true"]).output();
    trial.is_ok_and(|trial| {
        trial.status.success() && parse_perf(&String::from_utf8_lossy(&trial.stderr)).all() > 0
    })
}

/// `144,,raw_syscalls:sys_enter,1698636,100.00,,`
fn parse_perf(text: &str) -> Counts {
    let counts = text.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        let (_, event) = fields.nth(1)?.split_once("sys_enter")?;
        Some((
            if event.is_empty() { ALL.to_owned() } else { event.trim_start_matches('_').to_owned() },
            count,
        ))
    });
    Counts(counts.collect())
}

/// `% time  seconds  usecs/call  calls  [errors]  syscall`, a rule above and below, and a line for the total.
fn parse_strace(text: &str) -> Counts {
    let counts = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (name, calls) = (*fields.last()?, fields.get(3)?.parse().ok()?);
        Some((if name == "total" { ALL.to_owned() } else { name.to_owned() }, calls))
    });
    Counts(counts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_lines_are_read() {
        let counts = parse_perf(
            "# started on x\n\n144,,raw_syscalls:sys_enter,16,100.00,,\n23,,syscalls:sys_enter_close,1,100.00,,\n",
        );
        assert_eq!(counts.all(), 144);
        assert_eq!(counts.per(10), "close 2.30");
    }

    #[test]
    fn straces_table_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            50.00    0.000030           1        30        10 accept4\n \
            50.00    0.000030           1        20           close\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.000060           1        50        10 total\n";
        let counts = parse_strace(table);
        assert_eq!(counts.all(), 50);
        assert_eq!(counts.per(10), "accept4 3.00, close 2.00");
    }
}
