//! A process takes its variables and descriptors once, while it is alone. Runs itself again as the child, without the
//! test harness, since that has threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use everycore_sys::inherit::{self, Expect, InheritError};
use everycore_sys::{Spawn, WaitStatus, spawn};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("child") => child(),
        Some("threads") => with_threads(),
        Some("services") => services(),
        // The runner asks for a list or passes a filter; neither matters to a single test.
        _ => parent(),
    }
    ExitCode::SUCCESS
}

fn parent() {
    let (ours, childs) = everycore_sys::socket_pair::stream_pair().unwrap();
    let identity = inherit::identity(&childs).unwrap();
    let null = File::open("/dev/null").unwrap();
    for role in ["child", "threads", "services"] {
        let mut program = Spawn::new(std::env::current_exe().unwrap());
        program.args = vec![role.into()];
        program.env = vec![
            ("CHANNEL".into(), "3".into()),
            ("IDENTITY".into(), identity.clone().into()),
            ("CHANNEL".into(), "twice".into()),
            ("LISTEN_FDS".into(), "2".into()),
            ("LISTEN_FDNAMES".into(), "web".into()),
        ];
        program.listen_pid = true;
        program.descriptors = vec![(childs.as_fd(), 3), (null.as_fd(), 4)];
        assert_eq!(spawn(&program).unwrap().pidfd.wait().unwrap(), WaitStatus::Code(0), "{role}");
    }
    drop(ours);
}

fn child() {
    assert!(inherit::is_single_threaded());
    let values = inherit::take_environment(&["CHANNEL", "IDENTITY", "ABSENT"]).unwrap();
    assert_eq!(values[0].as_deref(), Some("3".as_ref()), "of two the first counts");
    assert_eq!(values[2], None);
    assert_eq!(std::env::var_os("CHANNEL"), None, "both are gone");
    let identity = values[1].clone().unwrap();

    assert!(inherit::adopt_fd(3, &[Expect::Identity("1:1".as_ref())]).is_err());
    assert!(inherit::adopt_fd(4, &[Expect::UnixStream]).is_err());
    assert!(inherit::adopt_fd(17, &[]).is_err());
    assert!(inherit::adopt_fd(-1, &[]).is_err());
    let channel = inherit::adopt_fd(3, &[Expect::UnixStream, Expect::Identity(&identity)]).unwrap();
    assert!(rustix::io::fcntl_getfd(&channel).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let own = File::open("/dev/null").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&own);
    let refused = inherit::adopt_fd(number, &[]).unwrap_err();
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::AlreadyExists,
        "a stale number takes nothing from its owner"
    );

    let values = inherit::take_environment(&["CHANNEL", "IDENTITY"]).unwrap();
    assert_eq!(values, [None, None]);
}

fn with_threads() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    assert!(!inherit::is_single_threaded());
    let error = inherit::take_environment(&["ABSENT", "CHANNEL"]).unwrap_err();
    assert!(matches!(&error, InheritError::Threads { variable } if variable == "CHANNEL"));
    assert!(error.to_string().contains("first thing in main"));
    assert!(std::env::var_os("CHANNEL").is_some());
    assert_eq!(inherit::take_environment(&["ABSENT"]).unwrap(), [None]);
    drop(stop);
    let _ = thread.join();
}

fn services() {
    let found = inherit::listen_fds().unwrap();
    let names: Vec<_> = found.iter().map(|socket| socket.name.as_str()).collect();
    assert_eq!(names, ["web", "unknown"]);
    assert_eq!(std::env::var_os("LISTEN_PID"), None);
    assert!(inherit::listen_fds().unwrap().is_empty());
}
