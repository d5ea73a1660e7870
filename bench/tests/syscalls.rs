//! A short connection enters the kernel no oftener than it did: counted, not timed, so that it holds on any machine.

use std::path::Path;
use std::process::Command;

#[test]
fn system_calls_per_short_connection_stay_below_their_gates() {
    if let Some(problem) = why_strace_cannot_be_used() {
        return everycore_peers::skip(&problem);
    }
    // Beside each other: the bench finds the servers where it is.
    let (bench, server) =
        (env!("CARGO_BIN_EXE_everycore-bench"), env!("CARGO_BIN_EXE_everycore-bench-server"));
    assert_eq!(Path::new(bench).parent(), Path::new(server).parent());
    let output = Command::new(bench).arg("gate").output().expect("the bench can be started");
    let (counted, problem) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{counted}");
    assert!(output.status.success(), "{problem}");
    // The last of Node workers, where there is Node.
    assert!((4..=5).contains(&counted.lines().count()), "{counted}");
}

/// Not there, or not allowed to look at other processes, as in some containers.
fn why_strace_cannot_be_used() -> Option<String> {
    match Command::new("strace").args(["-c", "-o", "/dev/null", "true"]).output() {
        Err(error) => Some(format!("strace cannot be started ({error}); install it to count system calls")),
        Ok(output) if !output.status.success() => {
            let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Some(format!("strace does not work here ({problem}); system calls are not counted"))
        }
        Ok(_) => None,
    }
}
