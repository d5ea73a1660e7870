//! Starts the built binary, reads its lines as they come, and speaks HTTP to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use everycore_peers::Kind;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on the slowest machine; only a failure waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_everycore");

/// Variables that would reach into the tests from outside.
const FOREIGN: [&str; 10] = [
    "WEB_CONCURRENCY",
    "PORT",
    "NO_COLOR",
    "NODE_CLUSTER_SCHED_POLICY",
    "NODE_CHANNEL_FD",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "EVERYCORE_CHANNEL",
];

/// `everycore` with these arguments, in an environment of its own.
pub(crate) fn everycore(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null());
    for name in FOREIGN {
        command.env_remove(name);
    }
    if let Some(path) = path_to_node() {
        command.env("PATH", path);
    }
    command
}

/// A path on which `node` is the Node that tests talk to, if that is not the case anyway.
fn path_to_node() -> Option<OsString> {
    let named = std::env::var_os("EVERYCORE_NODE")?;
    let node = everycore_peers::node().filter(|node| node.kind == Kind::Node)?;
    let program = node.program.canonicalize().ok()?;
    assert!(program.file_name()? == "node", "{}: a package's scripts would not find it", named.display());
    let paths = [program.parent()?.to_owned()].into_iter();
    std::env::join_paths(paths.chain(std::env::split_paths(&std::env::var_os("PATH")?))).ok()
}

/// The runtime that tests talk to, as the command is told of it.
pub(crate) struct Runtime {
    pub(crate) kind: Kind,
    /// Program and options, up to the script.
    words: Vec<String>,
    /// The port that workers ask for. Bun's workers bind one each, and have to agree on it.
    port: u16,
}

impl Runtime {
    /// `None` after having said that there is none.
    pub(crate) fn find() -> Option<Self> {
        let node = everycore_peers::node()?;
        let (mut words, mut port) = (vec!["node".to_owned()], 0);
        if node.kind != Kind::Node {
            words = vec![node.program.to_str().unwrap().to_owned()];
            words.extend(node.args.iter().cloned());
        }
        if node.kind == Kind::Bun {
            port = everycore_peers::own_port();
        }
        Some(Self { kind: node.kind, words, port })
    }

    /// `None` after having said that there is none, or why it is another one.
    pub(crate) fn among(kinds: &[Kind], why_no_other: &str) -> Option<Self> {
        let found = Self::find()?;
        let is_meant = kinds.contains(&found.kind);
        if !is_meant {
            everycore_peers::pass_over(why_no_other);
        }
        is_meant.then_some(found)
    }

    /// The policies that its workers serve under, as options of the command.
    pub(crate) fn policies(&self) -> &'static [&'static [&'static str]] {
        match self.kind {
            Kind::Node => &[
                &["--policy", "least"],
                &["--policy", "rr"],
                &["--policy", "shared"],
                &["--policy", "reuseport"],
            ],
            Kind::Deno => &[&["--policy", "least"], &["--policy", "rr"]],
            Kind::Bun => &[&[]],
        }
    }

    /// `everycore run` of a script on two workers.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Running {
        self.run_with(options, &[script])
    }

    /// With arguments for the script, and perhaps another number of workers.
    pub(crate) fn run_with(&self, options: &[&str], script: &[&str]) -> Running {
        Running::spawn(self.command(options, script))
    }

    /// The same, not yet started.
    pub(crate) fn command(&self, options: &[&str], script: &[&str]) -> Command {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let mut command = everycore(&[&["run"], options, &["--"], &words, script].concat());
        command.env("APP_PORT", self.port.to_string());
        command
    }
}

/// A running `everycore`; ended with the test, whatever becomes of it.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    exit: Option<ExitStatus>,
    /// Everything read so far, for the message of a failure.
    seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(everycore(args))
    }

    /// Starts a command and reads both its outputs, line by line.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        Self { child, lines, exit: None, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The next line that contains `part`.
    pub(crate) fn line(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => {
                    panic!("no line with '{part}' ({error}); there were:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// Waits until each of these is part of a line, in whatever order they come.
    pub(crate) fn lines(&mut self, parts: &[&str]) {
        let mut wanted = parts.to_vec();
        while !wanted.is_empty() {
            let line = self.line("");
            wanted.retain(|part| !line.contains(part));
        }
    }

    /// The next line that contains `part`, among those that are there already.
    pub(crate) fn line_now(&mut self, part: &str) -> Option<String> {
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push(line.clone());
            if line.contains(part) {
                return Some(line);
            }
        }
        None
    }

    /// Where it serves, from the first line that says so.
    pub(crate) fn address(&mut self) -> SocketAddr {
        address_in(&self.line("127.0.0.1:"))
    }

    /// Waits until `count` workers have said that they are ready; gives their pids.
    pub(crate) fn ready(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| pid_in(&self.line("is ready"))).collect()
    }

    /// Waits for the end; the exit code and all that was printed.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        // Both outputs end with the process and its workers.
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("it does not end ({error}); it said:\n{}", self.seen.join("\n")),
            }
        }
        let status = self.child.wait().unwrap();
        self.exit = Some(status);
        (status.code(), self.seen.join("\n"))
    }

    /// Orders the stop and expects it to go well.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (code, text) = self.end();
        assert_eq!(code, Some(0), "{text}");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // Its workers get their death signal.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn forward(output: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            bytes.clear();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The address in a line.
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let digits = line.split("127.0.0.1:").nth(1).unwrap();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    format!("127.0.0.1:{}", &digits[..end]).parse().unwrap()
}

/// The number after `pid ` in a line.
pub(crate) fn pid_in(line: &str) -> u32 {
    let digits = line.split("pid ").nth(1).unwrap_or_else(|| panic!("no pid in '{line}'"));
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks over a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    ask(&mut stream, path)?;
    answer(&mut stream)
}

/// Sends a request, in one piece: a simple server reads once.
pub(crate) fn ask(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes())
}

pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Reads an answer up to the end of its connection.
pub(crate) fn answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut short");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Asks until every one of `count` workers has answered; gives the pids they named.
pub(crate) fn everyone(address: SocketAddr, count: usize) -> BTreeSet<u32> {
    let deadline = Instant::now() + DEADLINE;
    let mut pids = BTreeSet::new();
    while pids.len() < count {
        assert!(Instant::now() < deadline, "only {pids:?} answer");
        pids.insert(pid_in(&get(address, "/").unwrap().body));
    }
    pids
}

/// Asks without a pause, on a thread of its own, until told to stop; every answer has to be a good one.
pub(crate) struct Load {
    stop: Sender<()>,
    thread: std::thread::JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    /// A connection for each request.
    pub(crate) fn start(address: SocketAddr) -> Self {
        Self::of(move || get(address, "/"))
    }

    /// One connection for as long as the server keeps it.
    pub(crate) fn keeping(address: SocketAddr) -> Self {
        let mut kept = None;
        Self::of(move || {
            // What the client can see before it asks is no loss.
            let mut stream = match kept.take().filter(is_open) {
                Some(stream) => stream,
                None => BufReader::new(connect(address)?),
            };
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
            let answer = next_answer(&mut stream)?;
            if !answer.head.to_ascii_lowercase().contains("connection: close") {
                kept = Some(stream);
            }
            Ok(answer)
        })
    }

    fn of(mut request: impl FnMut() -> io::Result<Answer> + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while stopped.try_recv().is_err() {
                match request() {
                    Ok(answer) if answer.status == 200 => good += 1,
                    other => bad.push(format!("{other:?}")),
                }
            }
            (good, bad)
        });
        Self { stop, thread }
    }

    /// Ends it; how many were answered.
    pub(crate) fn stop(self) -> usize {
        let _ = self.stop.send(());
        let (good, bad) = self.thread.join().unwrap();
        assert!(bad.is_empty(), "{good} good, lost: {bad:?}");
        good
    }
}

/// Whether the server has not closed a connection, as far as the client can see.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let stream = stream.get_ref();
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads one answer, by its length.
fn next_answer(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A directory of the test's own, removed at its end.
pub(crate) struct Directory(pub(crate) std::path::PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
