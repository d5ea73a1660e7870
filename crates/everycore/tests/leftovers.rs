//! What a worker leaves behind ends with it: also a program behind a shell, and one that does not listen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use everycore::{
    Cluster, Error, Event, Outcome, Primary, Readiness, RestartPolicy, RestartSettings, Running, Urgency,
    WorkerCommand,
};
use everycore_sys::PidFd;
use everycore_sys::signals::number::KILL;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{PATIENCE, until};

/// A worker that is a shell around a program, and the program.
struct Wrapped {
    running: Option<Running>,
    told: Receiver<Event>,
    worker: u32,
    program: PidFd,
    directory: PathBuf,
}

impl Wrapped {
    /// `program` is run by a shell, which does nothing but wait for it; at `SAYS` it tells its number.
    fn start(name: &str, program: &str, limit: Duration) -> Self {
        let directory =
            std::env::temp_dir().join(format!("everycore-leftovers-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("pid");
        // Said by the program, once it is what it shall be; in whole at once, for whoever reads it.
        let says = format!("echo $$ > {0}.new; mv {0}.new {0}", file.display());
        let script = format!("sh -c '{}' & wait", program.replace("SAYS", &says));
        let (tell, told) = channel();
        let running = Cluster::builder()
            .workers(1)
            .signals(false)
            .readiness(Readiness::StaysUp(Duration::ZERO))
            .graceful_timeout(limit)
            .restart(RestartSettings { policy: RestartPolicy::Never, ..RestartSettings::default() })
            .command(move |_| Ok(WorkerCommand::new("sh", ["-c", &script])))
            .on_event(move |_, event| drop(tell.send(event)))
            .start()
            .unwrap();
        let worker = match told.recv_timeout(PATIENCE).unwrap() {
            Event::Fork { worker } => worker.pid.unwrap(),
            event => panic!("{event:?}"),
        };
        until("the program runs", || file.exists());
        let program = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        Self { running: Some(running), told, worker, program: PidFd::open(program).unwrap(), directory }
    }

    /// Whether the program has ended.
    fn has_ended(&self) -> bool {
        let mut end = [PollFd::new(&self.program, PollFlags::IN)];
        poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    /// Waits for the end of the cluster, after whatever is done to it.
    fn end(&mut self, first: impl FnOnce(&Primary)) -> everycore::Result<Outcome> {
        let running = self.running.take().unwrap();
        first(running.primary());
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send(running.wait()));
        told.recv_timeout(PATIENCE).expect("the cluster ends")
    }

    /// The next warning.
    fn warning(&self) -> String {
        loop {
            if let Event::Warning { text } = self.told.recv_timeout(PATIENCE).unwrap() {
                return text;
            }
        }
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
        let _ = self.program.signal(KILL);
    }
}

#[test]
fn a_stop_ends_the_program_behind_a_shell() {
    let mut wrapped = Wrapped::start("stop", "SAYS; exec sleep 600", PATIENCE);
    let outcome = wrapped.end(|primary| primary.stop(Urgency::Graceful).unwrap());
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    assert!(wrapped.has_ended());
}

#[test]
fn a_program_that_does_not_end_when_told_is_killed_in_time() {
    let deaf = "trap : TERM; SAYS; while :; do sleep 600; done";
    let mut wrapped = Wrapped::start("deaf", deaf, Duration::from_millis(300));
    let outcome = wrapped.end(|primary| primary.stop(Urgency::Graceful).unwrap());
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    let told = wrapped.warning();
    assert!(told.contains("left processes of its group behind") && told.contains("told to end"), "{told}");
    assert!(wrapped.warning().contains("killed"));
    assert!(wrapped.has_ended());
}

#[test]
fn a_shell_that_is_killed_leaves_no_program_behind() {
    let mut wrapped = Wrapped::start("killed", "SAYS; exec sleep 600", PATIENCE);
    PidFd::open(wrapped.worker).unwrap().signal(KILL).unwrap();
    // The only one, and it is not replaced: the cluster ends after what it has left, which cannot make that a success.
    let outcome = wrapped.end(|_| ());
    assert!(matches!(outcome, Err(Error::GivenUp { .. })), "{outcome:?}");
    assert!(wrapped.has_ended());
}
