//! Running an example as a user would: its lines, its signals, its end, its port.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, each uses a part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long anything may take that should take no time at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An example that runs, with the lines it prints.
pub(crate) struct Example {
    child: Child,
    lines: Receiver<String>,
}

impl Example {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        Self::start_with(name, args, &[])
    }

    pub(crate) fn start_with(name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_program(example(name), args, env)
    }

    /// The first two sockets are its standard input and error.
    pub(crate) fn start_inheriting(
        program: impl AsRef<OsStr>,
        args: &[&str],
        sockets: Vec<std::os::fd::OwnedFd>,
    ) -> Self {
        let mut sockets = sockets.into_iter().map(Stdio::from);
        let mut command = Command::new(program);
        command.args(args);
        command.stdin(sockets.next().unwrap_or_else(Stdio::null));
        command.stderr(sockets.next().unwrap_or_else(Stdio::inherit));
        Self::spawn(command)
    }

    pub(crate) fn start_program(program: impl AsRef<OsStr>, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        // What a test sets itself stays.
        if !command.get_envs().any(|(name, _)| name == "NODE_CLUSTER_SCHED_POLICY") {
            command.env_remove("NODE_CLUSTER_SCHED_POLICY");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line it prints.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the example prints a line")
    }

    /// The next line with this text in it.
    pub(crate) fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The address at the end of the next line that says where something listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let line = self.line_with("127.0.0.1:");
        let at = line.find("127.0.0.1:").unwrap();
        line[at..].trim_end_matches('/').parse().unwrap()
    }

    /// Everything else it prints, until all who have its output are gone.
    pub(crate) fn rest(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => panic!("still running after {lines:#?}"),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        signal_pid(self.pid(), signal);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal_pid(pid: u32, signal: i32) {
    // Whoever is gone needs no signal any more.
    if let Ok(pidfd) = everycore_sys::PidFd::open(pid) {
        let _ = pidfd.signal(signal);
    }
}

/// Cargo builds examples beside the directory of test programs.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples").join(name)
}

/// Connects, says something, and reads to the end.
pub(crate) fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// One request of HTTP, on a connection of its own; the answer's body.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(head.to_owned()));
    }
    Ok(body.trim().to_owned())
}

/// Tries until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// The first number after `word` in a line.
pub(crate) fn number_after(line: &str, word: &str) -> u32 {
    let rest = &line[line.find(word).unwrap_or_else(|| panic!("no '{word}' in '{line}'")) + word.len()..];
    let digits: String =
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after '{word}' in '{line}'"))
}

/// Of a process, in units of 10 ms.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
