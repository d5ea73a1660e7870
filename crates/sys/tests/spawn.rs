//! What a spawned program finds, and how failures are told apart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use everycore_sys::spawn::Step;
use everycore_sys::{Spawn, SpawnError, WaitStatus, spawn};

#[test]
fn exit_codes_and_signals_are_told_apart() {
    assert_eq!(status(&shell("exit 0")), WaitStatus::Code(0));
    assert_eq!(status(&shell("exit 255")), WaitStatus::Code(255));
    let killed = WaitStatus::Signal { signal: libc::SIGKILL, core_dumped: false };
    assert_eq!(status(&shell("kill -KILL $$")), killed);
    assert_eq!(killed.to_string(), "killed by SIGKILL");
    assert!(WaitStatus::Code(0).success() && !killed.success());
}

#[test]
fn a_child_is_signalled_by_its_pidfd() {
    let child = spawn(&shell("exec sleep 60")).unwrap();
    assert_eq!(child.pidfd.try_wait().unwrap(), None);
    child.pidfd.signal(libc::SIGTERM).unwrap();
    let terminated = WaitStatus::Signal { signal: libc::SIGTERM, core_dumped: false };
    assert_eq!(child.pidfd.wait().unwrap(), terminated);
    assert_eq!(child.pidfd.try_wait().unwrap(), Some(terminated), "the answer is kept");
    assert_eq!(child.pidfd.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn a_group_is_signalled_with_its_grandchildren() {
    // The grandchild holds the pipe; its end is seen as end of file.
    let mut program = shell("sleep 60 & echo started; wait");
    program.process_group = true;
    let (mut read, write) = std::io::pipe().unwrap();
    program.descriptors = vec![(write.as_fd(), 1)];
    let child = spawn(&program).unwrap();
    drop(program);
    drop(write);
    let mut line = [0; 8];
    read.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"started\n");
    child.pidfd.signal_group(libc::SIGKILL).unwrap();
    child.pidfd.wait().unwrap();
    assert_eq!(read.read(&mut line).unwrap(), 0);
}

#[test]
fn arguments_and_environment_arrive_as_given() {
    let mut program = shell("echo \"$0|$1|$A|$HOME\"");
    program.args.extend(["zero".into(), "one two".into()]);
    program.env.push(("A".into(), "b=c".into()));
    assert_eq!(output(program), "zero|one two|b=c|\n");
    let mut program = Spawn::new("/proc/self/exe");
    program.program = "/bin/cat".into();
    program.arg0 = Some("kitten".into());
    program.args = vec!["/proc/self/cmdline".into()];
    assert_eq!(output(program), "kitten\0/proc/self/cmdline\0");
}

#[test]
fn it_starts_in_the_directory_asked_for() {
    let directory = Directory::new("cwd");
    directory.file("here", "#!/bin/sh\npwd\n", 0o755);
    let mut program = Spawn::new("./here");
    program.cwd = Some(directory.0.clone());
    assert_eq!(output(program), format!("{}\n", directory.0.display()));
}

#[test]
fn descriptors_land_on_their_numbers_even_crosswise() {
    // Nine sources, each onto the number that the next one has at the moment.
    let pipes: Vec<_> = (0..9).map(|_| std::io::pipe().unwrap()).collect();
    let numbers: Vec<RawFd> = pipes.iter().map(|(_, write)| raw(write)).collect();
    let mut program = shell("");
    for (index, (_, write)) in pipes.iter().enumerate() {
        program.descriptors.push((write.as_fd(), numbers[(index + 1) % numbers.len()]));
    }
    let script: String = numbers.iter().map(|fd| format!("echo {fd} > /proc/self/fd/{fd}; ")).collect();
    program.args = vec!["-c".into(), script.into()];
    let child = spawn(&program).unwrap();
    drop(program);
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0));
    for (index, (mut read, write)) in pipes.into_iter().enumerate() {
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n", numbers[(index + 1) % numbers.len()]));
    }
}

#[test]
fn a_descriptor_may_keep_its_own_number() {
    let (mut read, write) = std::io::pipe().unwrap();
    let number = raw(&write);
    let mut program = shell(&format!("echo same > /proc/self/fd/{number}"));
    program.descriptors = vec![(write.as_fd(), number)];
    spawn(&program).unwrap().pidfd.wait().unwrap();
    drop(program);
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "same\n");
}

#[test]
fn nothing_leaks_into_the_child() {
    // A descriptor that somebody forgot to mark close-on-exec, once low and once high.
    let careless = fs::File::open("/dev/null").unwrap();
    let low = rustix::io::fcntl_dupfd_cloexec(&careless, 3).unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(&careless, 700).unwrap();
    for fd in [&low, &high] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let (mut read, write) = std::io::pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let mut program = Spawn::new("/bin/ls");
    program.args = vec!["/proc/self/fd".into()];
    program.descriptors = vec![(null.as_fd(), 0), (write.as_fd(), 1), (null.as_fd(), 5), (null.as_fd(), 300)];
    let child = spawn(&program).unwrap();
    drop(program);
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0));
    let mut found: Vec<RawFd> = text.split_whitespace().map(|name| name.parse().unwrap()).collect();
    found.sort_unstable();
    // 3 is the directory that `ls` itself reads.
    assert_eq!(found, [0, 1, 2, 3, 5, 300]);
}

#[test]
fn signals_are_at_their_defaults_and_not_blocked() {
    // This thread blocks one and the process ignores one (SIGPIPE, as every Rust program does).
    let _blocked = everycore_sys::signals::block_all();
    let mut program = Spawn::new("/bin/cat");
    program.args = vec!["/proc/self/status".into()];
    let text = output(program);
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        let mask = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        assert_eq!(mask, 0, "{line}");
    }
}

#[test]
fn the_callers_signal_mask_comes_back() {
    let before = own_status("SigBlk");
    spawn(&shell("exit 0")).unwrap().pidfd.wait().unwrap();
    assert_eq!(own_status("SigBlk"), before);
}

#[test]
fn a_variable_holds_the_childs_own_pid() {
    let mut program = shell("echo $$ $LISTEN_PID $AFTER");
    program.env.push(("LISTEN_PID".into(), "1".into()));
    program.env.push(("AFTER".into(), "x".into()));
    program.listen_pid = true;
    let (child, text) = start_and_read(program);
    let pid = child.to_string();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), [&pid, &pid, "x"]);
}

#[test]
fn process_group_umask_and_privileges() {
    let mut program = shell("umask; grep NoNewPrivs /proc/self/status; cut -d' ' -f5 /proc/$$/stat; echo $$");
    program.umask = Some(0o027);
    program.no_new_privs = true;
    program.process_group = true;
    let (pid, text) = start_and_read(program);
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["0027", "NoNewPrivs:", "1", &pid.to_string(), &pid.to_string()]);
}

#[test]
fn ids_are_changed_when_privileged() {
    let mut program = shell("id -u; id -g; id -G");
    program.uid = Some(65534);
    program.gid = Some(65533);
    if rustix::process::geteuid().is_root() {
        assert_eq!(output(program.clone()), "65534\n65533\n65533\n", "groups of the parent are dropped");
        program.groups = Some(vec![65532, 65533]);
        assert_eq!(output(program), "65534\n65533\n65533 65532\n");
    } else {
        let error = spawn(&program).unwrap_err();
        assert_eq!(error, SpawnError::Step { step: Step::SetGroup, errno: libc::EPERM });
    }
}

#[test]
fn a_death_signal_ends_the_child_with_its_parents_thread() {
    let child = std::thread::spawn(|| {
        let mut program = shell("exec sleep 60");
        program.death_signal = Some(libc::SIGKILL);
        spawn(&program).unwrap()
    });
    let child = child.join().unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Signal { signal: libc::SIGKILL, core_dumped: false });
}

#[test]
fn a_missing_program_is_not_found() {
    let error = spawn(&Spawn::new("everycore-no-such-program")).unwrap_err();
    assert_eq!(error, SpawnError::NotFound { program: "everycore-no-such-program".into() });
    assert_eq!(error.to_string(), "program everycore-no-such-program not found in PATH");
    let error = spawn(&Spawn::new("/no/such/program")).unwrap_err();
    assert_eq!(error.to_string(), "program /no/such/program not found");
    assert!(matches!(spawn(&Spawn::new("")), Err(SpawnError::NotFound { .. })));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn what_cannot_be_executed_names_the_file() {
    let directory = Directory::new("modes");
    let plain = directory.file("plain", "#!/bin/sh\n", 0o644);
    let error = spawn(&Spawn::new(&plain)).unwrap_err();
    assert_eq!(error, SpawnError::NotExecutable { program: plain.clone(), errno: libc::EACCES });
    assert!(error.to_string().contains("chmod +x"), "{error}");

    let text = directory.file("text", "just text\n", 0o755);
    let error = spawn(&Spawn::new(&text)).unwrap_err();
    assert_eq!(error, SpawnError::NotExecutable { program: text, errno: libc::ENOEXEC });

    let orphan = directory.file("orphan", "#!/no/such/interpreter\n", 0o755);
    let error = spawn(&Spawn::new(&orphan)).unwrap_err();
    assert_eq!(error, SpawnError::NotExecutable { program: orphan, errno: libc::ENOENT });
    assert!(error.to_string().contains("interpreter"), "{error}");

    let error = spawn(&Spawn::new(&directory.0)).unwrap_err();
    assert_eq!(error, SpawnError::NotExecutable { program: directory.0.clone(), errno: libc::EACCES });
}

#[test]
fn the_path_search_goes_on_after_a_file_without_permission() {
    let (first, second) = (Directory::new("path1"), Directory::new("path2"));
    let locked = first.file("tool", "#!/bin/sh\necho first\n", 0o644);
    let mut program = Spawn::new("tool");
    let path = format!("{}:{}", first.0.display(), second.0.display());
    program.env = vec![("PATH".into(), path.into())];
    let error = spawn(&program).unwrap_err();
    assert_eq!(error, SpawnError::NotExecutable { program: locked, errno: libc::EACCES });
    second.file("tool", "#!/bin/sh\necho second\n", 0o755);
    assert_eq!(output(program), "second\n");
}

#[test]
fn a_bad_directory_is_named() {
    let mut program = shell("exit 0");
    program.cwd = Some("/no/such/directory".into());
    let error = spawn(&program).unwrap_err();
    assert_eq!(error, SpawnError::Cwd { path: "/no/such/directory".into(), errno: libc::ENOENT });
    program.cwd = Some("/dev/null".into());
    assert_eq!(spawn(&program).unwrap_err().errno(), libc::ENOTDIR);
}

#[test]
fn impossible_requests_are_refused_before_there_is_a_process() {
    let null = fs::File::open("/dev/null").unwrap();
    let prepare = |errno| SpawnError::Step { step: Step::Prepare, errno };
    let mut program = shell("exit 0");
    program.descriptors = vec![(null.as_fd(), 4), (null.as_fd(), 4)];
    assert_eq!(spawn(&program).unwrap_err(), prepare(libc::EBUSY));
    program.descriptors = vec![(null.as_fd(), -1)];
    assert_eq!(spawn(&program).unwrap_err(), prepare(libc::EBADF));
    program.descriptors = vec![(null.as_fd(), RawFd::MAX)];
    assert!(matches!(spawn(&program), Err(SpawnError::Step { step: Step::PlaceDescriptors, .. })));
    program.descriptors.clear();
    program.args.push("\0".into());
    assert_eq!(spawn(&program).unwrap_err(), prepare(libc::EINVAL));
}

#[test]
fn too_many_arguments_are_the_kernels_to_refuse() {
    let mut program = shell("exit 0");
    program.args.extend(std::iter::repeat_n(OsString::from("x".repeat(100_000)), 100));
    let error = spawn(&program).unwrap_err();
    assert_eq!(error, SpawnError::Step { step: Step::Execute, errno: libc::E2BIG });
}

#[test]
fn many_threads_may_spawn_at_once() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..20 {
                    let code = thread * 20 + round;
                    assert_eq!(status(&shell(&format!("exit {code}"))), WaitStatus::Code(code));
                }
            });
        }
    });
}

fn shell(script: &str) -> Spawn<'static> {
    let mut program = Spawn::new("sh");
    program.args = vec!["-c".into(), script.into()];
    program.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    program
}

fn status(program: &Spawn<'_>) -> WaitStatus {
    spawn(program).unwrap().pidfd.wait().unwrap()
}

fn output(program: Spawn<'_>) -> String {
    start_and_read(program).1
}

/// Runs a program to its end, which must be a good one, and returns its pid and what it printed.
fn start_and_read(mut program: Spawn<'_>) -> (u32, String) {
    let (mut read, write) = std::io::pipe().unwrap();
    let write = OwnedFd::from(write);
    let mut with_output = program.clone();
    let borrowed: BorrowedFd<'_> = write.as_fd();
    with_output.descriptors = vec![(borrowed, 1)];
    let child = spawn(&with_output).unwrap();
    drop(with_output);
    program.descriptors.clear();
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0), "{text}");
    (child.pid, text)
}

fn own_status(field: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    text.lines().find(|line| line.starts_with(field)).unwrap().to_owned()
}

fn raw(fd: &impl std::os::fd::AsRawFd) -> RawFd {
    fd.as_raw_fd()
}

/// A temporary directory of one test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-spawn-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
