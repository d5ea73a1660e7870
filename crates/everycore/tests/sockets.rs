//! Every kind of socket, with real processes: Unix paths and names, IPv6, datagrams, several addresses, inherited ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everycore_sys::signals::number::{HUP, KILL, TERM};
use support::{Example, PATIENCE, example, number_after, signal_pid};

/// A directory of the test's own; removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The pid that answers.
fn read_pid(mut stream: impl Read) -> u32 {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim().parse().unwrap_or_else(|_| panic!("'{answer}' is no pid"))
}

/// The port in a line that tells where something listens.
fn port(line: &str) -> u16 {
    line.rsplit(':').next().unwrap().parse().unwrap()
}

fn stop(mut server: Example) {
    server.signal(TERM);
    server.rest();
    assert!(server.wait().success());
}

#[test]
fn datagrams_go_to_every_worker_and_a_killed_one_is_replaced() {
    const WORKERS: usize = 8;
    let server = Example::start("udp_echo", &["udp://127.0.0.1:0", "8"]);
    let lines: Vec<String> = (0..WORKERS).map(|_| server.line_with("listens on udp://")).collect();
    let address: SocketAddr = lines[0].rsplit("//").next().unwrap().parse().unwrap();
    let mut workers: HashSet<u32> = lines.iter().map(|line| number_after(line, "(pid")).collect();
    let victim = *workers.iter().next().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = |number: u32| {
        client.send(&number.to_be_bytes()).unwrap();
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).unwrap();
        let (pid, echo) = answer[..length].split_at(length - 5);
        assert_eq!(echo[1..], number.to_be_bytes());
        std::str::from_utf8(pid).unwrap().parse::<u32>().unwrap()
    };
    for number in 0..200 {
        assert!(workers.contains(&ask(number)));
    }
    signal_pid(victim, KILL);
    // While it dies it can take no datagram with it that was sent after its end.
    workers.insert(number_after(&server.line_with("listens on"), "(pid"));
    workers.remove(&victim);
    for number in 200..400 {
        assert!(workers.contains(&ask(number)));
    }
    stop(server);
}

#[test]
fn a_unix_socket_has_its_mode_and_goes_with_its_cluster() {
    let dir = Dir::new("mode");
    let path = dir.path("app.sock");
    let server = Example::start("addresses", &["1", &format!("unix:{}?mode=600", path.display())]);
    server.line_with("listens on unix:");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    read_pid(UnixStream::connect(&path).unwrap());
    stop(server);
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_has_its_owner_and_a_dead_ones_file_is_replaced() {
    let dir = Dir::new("owner");
    let path = dir.path("app.sock");
    let this = std::fs::metadata(&dir.0).unwrap();
    // Only root can give a file away.
    let (owner, group) = if this.uid() == 0 { (12_345, 12_346) } else { (this.uid(), this.gid()) };
    let address = format!("unix:{}?mode=660&owner={owner}&group={group}", path.display());
    let mut server = Example::start("addresses", &["1", &address]);
    server.line_with("listens on unix:");
    let file = std::fs::metadata(&path).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (owner, group, 0o660));
    server.signal(KILL);
    server.wait();
    // Its workers see their channel end, and go; nobody has removed the file.
    server.rest();
    assert!(path.exists());
    let server = Example::start("addresses", &["1", &address]);
    server.line_with("listens on unix:");
    read_pid(UnixStream::connect(&path).unwrap());
    stop(server);
    assert!(!path.exists());
}

#[test]
fn a_socket_file_that_became_another_ones_is_left_alone() {
    let dir = Dir::new("other");
    let path = dir.path("app.sock");
    let server = Example::start("addresses", &["1", &format!("unix:{}", path.display())]);
    server.line_with("listens on unix:");
    std::fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    stop(server);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_relative_path_and_one_too_long_for_an_address_are_served() {
    let dir = Dir::new(&"long".repeat(40));
    let path = dir.path("app.sock");
    let server = Example::start("addresses", &["1", &format!("unix:{}", path.display())]);
    server.line_with("listens on unix:");
    let directory = std::fs::File::open(&dir.0).unwrap();
    let short = format!("/proc/self/fd/{}/app.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
    read_pid(UnixStream::connect(short).unwrap());
    stop(server);
    assert!(!path.exists());
    let relative = format!("./everycore-{}.sock", std::process::id());
    let server = Example::start("addresses", &["1", &format!("unix:{relative}")]);
    server.line_with("listens on unix:");
    read_pid(UnixStream::connect(&relative).unwrap());
    stop(server);
    assert!(!std::path::Path::new(&relative).exists());
}

#[test]
fn an_abstract_name_needs_no_file() {
    let name = format!("everycore-test-{}", std::process::id());
    let server = Example::start("addresses", &["2", &format!("unix:@{name}")]);
    server.line_with(&format!("listens on unix:@{name}"));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    read_pid(UnixStream::connect_addr(&address).unwrap());
    stop(server);
}

#[test]
fn ipv6_alone_and_both_families_are_told_apart() {
    // Nobody serves IPv4 there: the port is free for somebody else, who may as well be another program by now.
    let alone = (0..10).find_map(|_| {
        let alone = Example::start("addresses", &["1", "[::]:0"]);
        let at = port(&alone.line_with("listens on"));
        read_pid(TcpStream::connect((Ipv6Addr::LOCALHOST, at)).unwrap());
        TcpListener::bind(("0.0.0.0", at)).is_ok().then_some(alone)
    });
    let alone = alone.expect("IPv4 is free where IPv6 alone is served");
    let both = Example::start("addresses", &["1", ":0"]);
    let at = port(&both.line_with("listens on"));
    read_pid(TcpStream::connect((Ipv6Addr::LOCALHOST, at)).unwrap());
    read_pid(TcpStream::connect(("127.0.0.1", at)).unwrap());
    stop(alone);
    stop(both);
}

#[test]
fn one_listener_serves_several_addresses() {
    let dir = Dir::new("several");
    let path = dir.path("app.sock");
    let server = Example::start(
        "addresses",
        &["2", "127.0.0.1:0?nodelay&backlog=64", "127.0.0.2:0", &format!("unix:{}", path.display())],
    );
    let mut tcp = HashSet::new();
    let mut workers = HashSet::new();
    for _ in 0..6 {
        let line = server.line_with("listens on");
        workers.insert(number_after(&line, "(pid"));
        let address = line.rsplit(' ').next().unwrap();
        tcp.extend(address.parse::<SocketAddr>());
    }
    assert_eq!((tcp.len(), workers.len()), (2, 2));
    for _ in 0..20 {
        for address in &tcp {
            assert!(workers.contains(&read_pid(TcpStream::connect(address).unwrap())));
        }
        assert!(workers.contains(&read_pid(UnixStream::connect(&path).unwrap())));
    }
    stop(server);
}

/// Starts `addresses` with sockets at 3 and up, as a service manager does.
fn start_with_sockets(args: &[&str], sockets: &[&dyn AsFd], names: Option<&str>) -> Example {
    // The shell moves the descriptors into place; it has no way to do so for numbers it does not know, so they go in
    // by way of its standard input and error.
    let inherited: Vec<OwnedFd> = sockets.iter().map(|s| s.as_fd().try_clone_to_owned().unwrap()).collect();
    let program = example("addresses");
    let listen = names.map_or_else(String::new, |names| {
        format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names} ", inherited.len())
    });
    let from = ["0", "2"];
    let moves: String = (0..inherited.len()).map(|n| format!("{}<&{} ", n + 3, from[n])).collect();
    let script = format!("exec {moves}0</dev/null 2>/dev/null; {listen}exec \"$0\" \"$@\"");
    let mut all = vec!["-c", script.as_str(), program.to_str().unwrap()];
    all.extend(args);
    Example::start_inheriting("/bin/sh", &all, inherited)
}

#[test]
fn sockets_of_a_service_manager_are_taken_by_name_and_number() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    for (args, names) in [
        (&["1", "fd://web"][..], Some("web:web")),
        (&["1", "fd://web", "fd://admin"][..], Some("web:admin")),
        (&["1", "fd://4", "fd://3"][..], None),
    ] {
        let server = start_with_sockets(args, &[&first, &second], names);
        for _ in 0..2 {
            server.line_with("listens on 127.0.0.1");
        }
        for address in addresses {
            read_pid(TcpStream::connect(address).unwrap());
        }
        stop(server);
    }
    // They were the test's all along, and serve on.
    let client = TcpStream::connect(addresses[0]).unwrap();
    first.set_nonblocking(false).unwrap();
    let (served, _) = first.accept().unwrap();
    assert_eq!(served.peer_addr().unwrap(), client.local_addr().unwrap());
}

#[test]
fn a_unix_service_reloaded_under_load_loses_nothing() {
    let dir = Dir::new("reload");
    let path = dir.path("app.sock");
    let server = Example::start("http_raw", &[&format!("unix:{}", path.display()), "2", "least"]);
    for _ in 0..2 {
        server.line_with("listens on unix:");
    }
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (path, over) = (path.clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut answered = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    answered += converse(UnixStream::connect(&path).unwrap());
                }
                answered
            })
        })
        .collect();
    for _ in 0..3 {
        server.signal(HUP);
        server.line_with("serves");
    }
    over.store(true, Ordering::Relaxed);
    let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 0);
    stop(server);
}

/// Up to five requests on one connection; every one is answered.
fn converse(stream: UnixStream) -> u64 {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    for count in 1..=5 {
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let (mut line, mut last) = (String::new(), false);
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "lost at request {count}");
            last |= line == "connection: close\r\n";
        }
        assert_ne!(stream.read_line(&mut line).unwrap(), 0);
        if last {
            return count;
        }
    }
    5
}

#[test]
fn what_cannot_be_inherited_is_explained() {
    let output = std::process::Command::new(example("addresses")).args(["1", "fd://77"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("fd://77"), "{told}");
}
