//! Running an example program, talking to its port, and a test runner without threads.
#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "shared by several tests, each uses a part"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use everycore_ipc::{PidFd, Stdio, WaitStatus, fork};

/// How long anything may take that should take no time at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs each test after the other in this one thread, so that the process can look at itself and start itself again.
/// Understands a filter and `--list`.
pub(crate) fn run(tests: &[(&str, fn())]) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        return tests.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    for (name, test) in
        tests.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())))
    {
        test();
        println!("test {name} ... ok");
    }
}

/// An example of this package that runs, with the lines it prints.
pub(crate) struct Example {
    process: PidFd,
    lines: Receiver<String>,
}

impl Example {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let parts =
            fork(example(name)).args(args).without_channel().stdout(Stdio::Pipe).spawn_parts().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(parts.stdout.unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { process: parts.pidfd, lines }
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

    /// The address at the end of a line that says where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let line = self.line_with(" 127.0.0.1:");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Everything else it prints, until all who have its output are gone.
    pub(crate) fn rest(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(error) => panic!("{error} after {lines:?}"),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn kill(&self) {
        let _ = self.process.signal(9);
        let _ = self.process.wait();
    }

    pub(crate) fn wait(&self) -> WaitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Cargo builds examples beside the directory of test programs.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    // `cargo test` makes them, `cargo test --test …` does not.
    assert!(example.is_file(), "first: cargo build -p everycore-ipc --examples (in the same profile)");
    example
}

/// Connects, says something, and reads to the end.
pub(crate) fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    converse(&mut stream, request)
}

pub(crate) fn converse(stream: &mut TcpStream, request: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The number at the end of an answer like `served by 4711`.
pub(crate) fn last_number(text: &str) -> u32 {
    text.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

/// Asks again and again until it is so, or the time is up.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Runs a future without a timer, since a child needs none; the deadline is kept from outside.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (done, finished) = channel::<()>();
    std::thread::spawn(move || {
        if finished.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
            println!("{:?} hangs", std::env::args());
            std::process::abort();
        }
    });
    let result = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(future);
    drop(done);
    result
}
