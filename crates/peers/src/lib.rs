//! Finds the programs that tests and benches talk to: Node in every version, Bun, Deno. For this workspace alone.
//!
//! `scripts/peers` installs them; this looks where it puts them. Which one a test talks to is said by `EVERYCORE_NODE`: a
//! name that `scripts/peers --list` prints (`node-24`, `bun`), or a path. Without it, it is the `node` on the path, or
//! else the one of [`DEFAULT`]. With `EVERYCORE_REQUIRE_PEERS` a peer that is missing fails its tests; otherwise they are
//! skipped, and say so past the test runner's capture.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The peer that is taken where the path has no `node`.
pub const DEFAULT: &str = "node-20";

/// What a runtime is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Node.js itself.
    Node,
    /// Bun.
    Bun,
    /// Deno.
    Deno,
}

/// A program that runs JavaScript and knows Node's channel.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// What to execute.
    pub program: PathBuf,
    /// What has to stand before the script.
    pub args: Vec<String>,
    /// Whose it is.
    pub kind: Kind,
    /// The first number of its version.
    pub major: u32,
}

impl Runtime {
    /// A runtime at this path, or on the path; `None` when there is none that can say its version.
    pub fn at(program: impl Into<PathBuf>) -> Option<Self> {
        let program = program.into();
        let output = Command::new(&program).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let kind = match program.file_name()?.to_str()? {
            name if name.starts_with("deno") => Kind::Deno,
            name if name.starts_with("bun") => Kind::Bun,
            _ => Kind::Node,
        };
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let major = digits.split('.').next()?.parse().ok()?;
        let args = if kind == Kind::Deno { vec!["run".into(), "--allow-all".into()] } else { Vec::new() };
        Some(Self { program, args, kind, major })
    }

    /// One that `scripts/peers` has installed under this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::at(cache()?.join("bin").join(name))
    }

    /// The command up to the script.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command
    }

    /// Whether its `advanced` serialization is Node's: Bun has a format of its own, and Deno writes version 16 of V8's,
    /// which Node refuses, too.
    pub fn writes_as_node(&self) -> bool {
        self.kind == Kind::Node
    }

    /// Whether a worker of it serves on a listening socket that its primary passes on.
    pub fn takes_listeners(&self) -> bool {
        self.kind == Kind::Node
    }

    /// Whether a worker of it serves connections that its primary hands over. Bun has its HTTP servers listen by
    /// themselves, and its others not at all.
    pub fn takes_connections(&self) -> bool {
        self.kind != Kind::Bun
    }

    /// Whether another user may execute it. In a home directory that is closed to others, nobody else can.
    pub fn is_open_to_all(&self) -> bool {
        use std::os::unix::fs::PermissionsExt;
        let Ok(program) = self.program.canonicalize() else { return !self.program.is_absolute() };
        program
            .ancestors()
            .all(|part| part.metadata().is_ok_and(|part| part.permissions().mode() & 0o001 != 0))
    }

    /// The serializations of its channel that another program can read.
    pub fn serializations(&self) -> &'static [&'static str] {
        if self.writes_as_node() { &["json", "advanced"] } else { &["json"] }
    }

    /// Whether it is Node itself, in this version or a later one.
    pub fn is_node(&self, major: u32) -> bool {
        self.kind == Kind::Node && self.major >= major
    }
}

impl std::fmt::Display for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.kind, self.major)
    }
}

/// The runtime that tests talk to; `None` after having said that the test is skipped.
///
/// # Panics
/// There is none and `EVERYCORE_REQUIRE_PEERS` is set; or `EVERYCORE_NODE` names one that is not there.
pub fn node() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let found = RUNTIME.get_or_init(|| match std::env::var("EVERYCORE_NODE") {
        Ok(wanted) if wanted.contains('/') => Some(Runtime::at(&wanted).unwrap_or_else(|| missing(&wanted))),
        Ok(wanted) => Some(Runtime::named(&wanted).unwrap_or_else(|| missing(&wanted))),
        Err(_) => Runtime::at("node").or_else(|| Runtime::named(DEFAULT)),
    });
    if found.is_none() {
        skip("there is no node on the path");
    }
    found.as_ref()
}

/// The directory `node_modules` of the packages that test applications use; `None` after having said that the test is
/// skipped.
///
/// # Panics
/// They are not installed and `EVERYCORE_REQUIRE_PEERS` is set.
pub fn packages() -> Option<PathBuf> {
    let found = cache().map(|cache| cache.join("apps/node_modules")).filter(|path| path.is_dir());
    if found.is_none() {
        skip("the packages of test applications are not installed");
    }
    found
}

/// Says that a test is skipped, and why, where a test runner does not swallow it.
///
/// # Panics
/// `EVERYCORE_REQUIRE_PEERS` is set: nothing may be skipped.
pub fn skip(why: &str) {
    assert!(
        !are_required(),
        "{why}, and EVERYCORE_REQUIRE_PEERS is set; scripts/peers installs runtimes and packages"
    );
    // Nobody is there to hear it: then it need not be said.
    let _ = writeln!(std::io::stderr(), "skipped: {why}; scripts/peers installs runtimes and packages");
}

/// Says that a test does not apply to the runtime it has, and why. `scripts/node-matrix` looks for it.
pub fn pass_over(why: &str) {
    let _ = writeln!(std::io::stderr(), "passed over: {why}");
}

/// Whether a missing peer is a failure.
pub fn are_required() -> bool {
    std::env::var_os("EVERYCORE_REQUIRE_PEERS").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Where `scripts/peers` puts them.
pub fn cache() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("EVERYCORE_PEERS") {
        return Some(path.into());
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => Path::new(&std::env::var_os("HOME")?).join(".cache"),
    };
    Some(base.join("everycore/peers"))
}

fn missing(wanted: &str) -> ! {
    panic!("EVERYCORE_NODE={wanted}: no such runtime; scripts/peers --list names those that are installed")
}

/// The first port to give out, and how many: the kernel gives out higher ones to who asks for none in particular.
const PORTS: (u32, u32) = (12_000, 20_000);

/// Addresses and ports given out by this process.
static GIVEN: AtomicU32 = AtomicU32::new(0);

/// An address that no test of this process or another is given, without a moment in which somebody else may take it: the host
/// is this process's own.
pub fn own_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high | 0x80, middle, low], nth_port(0)))
}

/// A port for who can choose no host: free at present on every address, and not one that the kernel gives out.
pub fn own_port() -> u16 {
    let first = std::process::id().wrapping_mul(7);
    (0..PORTS.1)
        .map(|_| nth_port(first))
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .unwrap_or_else(|| panic!("all of {} ports are taken", PORTS.1))
}

fn nth_port(first: u32) -> u16 {
    let nth = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.1;
    u16::try_from(PORTS.0 + nth).unwrap_or(u16::MAX)
}
