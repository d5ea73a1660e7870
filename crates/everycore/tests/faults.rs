//! What a cluster promises when things go wrong, with real processes and real clients that count every request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use everycore_sys::signals::number::{CONT, HUP, KILL, STOP, TERM};
use support::{Example, PATIENCE, cpu_ticks, example, number_after, signal_pid, until};

/// A server of two workers, with its address and the workers' pids.
fn serve(policy: &str) -> (Example, SocketAddr, [u32; 2]) {
    let server = Example::start("http_raw", &["127.0.0.1:0", "2", policy]);
    let lines = [server.line_with("listens on"), server.line_with("listens on")];
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    (server, address, lines.map(|line| number_after(&line, "(pid")))
}

/// A connection with a request on it, answered or not yet.
struct Asked(BufReader<TcpStream>);

impl Asked {
    fn new(address: SocketAddr, path: &str) -> Self {
        let mut asked = Self(BufReader::new(TcpStream::connect(address).unwrap()));
        asked.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        asked.ask(path);
        asked
    }

    fn ask(&mut self, path: &str) {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }

    /// The pid that answers, and whether the connection stays.
    fn answer(&mut self) -> std::io::Result<(u32, bool)> {
        let mut keeps = true;
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            keeps &= line != "connection: close\r\n";
            if line == "\r\n" {
                break;
            }
        }
        line.clear();
        self.0.read_line(&mut line)?;
        Ok((line.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData)?, keeps))
    }
}

/// Clients that ask until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(u64, Vec<String>)>>,
}

impl Load {
    /// `requests` on one connection, then a new one.
    fn start(address: SocketAddr, clients: usize, requests: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut answered, mut lost) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match converse(address, requests) {
                        Ok(count) => answered += count,
                        Err((count, error)) => {
                            answered += count;
                            lost.push(error);
                        }
                    }
                }
                (answered, lost)
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    /// How many were answered, and what became of the others.
    fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = (0, Vec::new());
        for client in self.clients {
            let (answered, lost) = client.join().unwrap();
            total.0 += answered;
            total.1.extend(lost);
        }
        total
    }
}

fn converse(address: SocketAddr, requests: usize) -> Result<u64, (u64, String)> {
    let stream = TcpStream::connect(address).map_err(|error| (0, format!("connect: {error}")))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut asked = Asked(BufReader::new(stream));
    for count in 0..requests as u64 {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        asked.0.get_mut().write_all(request).map_err(|error| (count, format!("request {count}: {error}")))?;
        match asked.answer() {
            Ok((_, true)) => {}
            Ok((_, false)) => return Ok(count + 1),
            Err(error) => return Err((count, format!("answer {count}: {error}"))),
        }
    }
    Ok(requests as u64)
}

#[test]
fn a_stopped_worker_loses_nothing_and_gets_nothing() {
    let (server, address, [stopped, other]) = serve("least");
    signal_pid(stopped, STOP);
    let mut clients: Vec<Asked> = (0..40).map(|_| Asked::new(address, "/")).collect();
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().0, other);
    }
    // What it was handed before it was found stuck was read back, so killing it costs nobody anything.
    signal_pid(stopped, KILL);
    server.line_with("killed by SIGKILL");
}

#[test]
fn connections_handed_to_workers_that_die_before_taking_them_are_served_by_their_replacements() {
    let (server, address, workers) = serve("rr");
    for worker in workers {
        signal_pid(worker, STOP);
    }
    let mut clients: Vec<Asked> = (0..60).map(|_| Asked::new(address, "/")).collect();
    for worker in workers {
        signal_pid(worker, KILL);
    }
    for client in &mut clients {
        let (pid, _) = client.answer().unwrap();
        assert!(!workers.contains(&pid));
    }
    server.line_with("killed by SIGKILL");
}

#[test]
fn a_stopped_worker_that_goes_on_is_used_again() {
    let (_server, address, [stopped, other]) = serve("rr");
    signal_pid(stopped, STOP);
    for _ in 0..20 {
        assert_eq!(Asked::new(address, "/").answer().unwrap().0, other);
    }
    signal_pid(stopped, CONT);
    until("it serves again", || Asked::new(address, "/").answer().unwrap().0 == stopped);
}

#[test]
fn a_blocked_worker_gets_nothing_until_it_is_done() {
    let (_server, address, workers) = serve("least");
    let before = workers.map(cpu_ticks);
    let mut blocking = Asked::new(address, "/block?ms=3000");
    // It is blocked as soon as it burns.
    let burns = |(pid, before): (u32, u64)| (cpu_ticks(pid) >= before + 5).then_some(pid);
    let mut burning = None;
    until("a worker is blocked", || {
        burning = workers.into_iter().zip(before).find_map(burns);
        burning.is_some()
    });
    let is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    let blocked = std::thread::spawn(move || {
        let answer = blocking.answer();
        done.store(true, Ordering::SeqCst);
        answer.unwrap().0
    });
    // Everything else is answered meanwhile, by the one that is not blocked.
    let mut others: Vec<u32> = Vec::new();
    while !is_done.load(Ordering::SeqCst) {
        others.push(Asked::new(address, "/").answer().unwrap().0);
    }
    let blocked = blocked.join().unwrap();
    assert_eq!(burning, Some(blocked));
    let late = others.iter().filter(|pid| **pid == blocked).count();
    // The last may have come to it when it was done, and nothing else waits behind the blocking request.
    assert!(others.len() > late && late <= 1, "{late} of {} waited for the blocked worker", others.len());
    until("it is asked again", || Asked::new(address, "/").answer().unwrap().0 == blocked);
}

#[test]
fn kills_under_load_cost_only_what_the_victim_had_taken() {
    for policy in ["rr", "least", "shared"] {
        let (server, address, workers) = serve(policy);
        const CLIENTS: usize = 8;
        let load = Load::start(address, CLIENTS, 1);
        let mut victim = workers[0];
        let kills = 5;
        for _ in 0..kills {
            signal_pid(victim, KILL);
            victim = number_after(&server.line_with("listens on"), "(pid");
        }
        let (answered, lost) = load.finish();
        assert!(answered > 0);
        // A victim can have taken at most what all clients had under way; nobody is refused.
        assert!(lost.len() <= kills * CLIENTS, "{policy}: {} lost of {answered}: {lost:?}", lost.len());
        assert!(lost.iter().all(|error| !error.starts_with("connect")), "{policy}: {lost:?}");
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    for policy in ["rr", "least", "shared"] {
        let (server, address, _) = serve(policy);
        let short = Load::start(address, 4, 1);
        let kept = Load::start(address, 4, 200);
        for generation in 2..=6 {
            server.signal(HUP);
            server.line_with(&format!("generation {generation} serves"));
        }
        let (answered, lost) = short.finish();
        assert!(answered > 0);
        assert_eq!(lost, Vec::<String>::new(), "{policy}, a connection per request, {answered} answered");
        let (answered, lost) = kept.finish();
        assert!(answered > 0);
        assert_eq!(lost, Vec::<String>::new(), "{policy}, keep-alive, {answered} answered");
    }
}

#[test]
fn an_idle_connection_kept_over_a_reload_can_still_ask() {
    let (server, address, workers) = serve("least");
    let mut idle = Asked::new(address, "/");
    let (pid, keeps) = idle.answer().unwrap();
    assert!(keeps && workers.contains(&pid));
    server.signal(HUP);
    server.line_with("generation 2 serves");
    idle.ask("/");
    assert_eq!(idle.answer().unwrap(), (pid, false), "by its old worker, which says goodbye");
}

#[test]
fn when_the_primary_is_killed_workers_finish_and_the_port_becomes_free() {
    let (mut server, address, workers) = serve("least");
    let before = open_sockets(&workers);
    let mut slow: Vec<Asked> = (0..6).map(|_| Asked::new(address, "/slow?ms=2000")).collect();
    // Served only once a worker has taken it: the kernel resets what is still queued when the last holder goes.
    let mut taken = Asked::new(address, "/");
    taken.answer().unwrap();
    until("all six are taken", || open_sockets(&workers) >= before + 7);
    server.signal(KILL);
    server.wait();
    for client in &mut slow {
        let (pid, keeps) = client.answer().unwrap();
        assert!(workers.contains(&pid) && !keeps);
    }
    drop((slow, taken));
    server.rest();
    TcpListener::bind(address).unwrap();
}

/// Sockets these processes hold, those of their channels included.
fn open_sockets(pids: &[u32]) -> usize {
    let of = |pid: &u32| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect::<Vec<_>>()
    };
    pids.iter().flat_map(of).filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn workers_out_of_descriptors_keep_what_they_have_and_serve_the_rest_later() {
    let program = example("http_raw");
    let script = format!("ulimit -n 40; exec {} 127.0.0.1:0 2 least", program.display());
    let server = Example::start_program("sh", &["-c", &script], &[]);
    let address: SocketAddr = server.line_with("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    server.line_with("listens on");
    // More than both workers can hold open; each client leaves once it is served.
    let mut clients: Vec<Asked> = (0..120).map(|_| Asked::new(address, "/")).collect();
    for client in &mut clients {
        client.answer().unwrap();
        let _ = client.0.get_ref().shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn a_taken_port_comes_back_to_the_worker_with_its_owner() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut server = Command::new(example("s08_tcp"))
        .args([&address, "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.contains(&format!("bind {address}: address already in use (by ")), "{line}");
    assert!(line.contains(&format!("pid {}", std::process::id())), "{line}");
}

#[test]
fn round_robin_is_even_over_many_connections() {
    let (_server, address, workers) = serve("rr");
    let mut of: HashMap<u32, u32> = HashMap::new();
    for _ in 0..2000 {
        *of.entry(Asked::new(address, "/").answer().unwrap().0).or_default() += 1;
    }
    // Exactly half each on a machine that runs both; a worker kept from running is passed over.
    assert!(workers.iter().all(|worker| of[worker] >= 600), "{of:?}");
}

#[test]
fn a_stop_finishes_what_is_under_way_and_a_second_one_does_not() {
    let (mut server, address, _) = serve("least");
    let mut slow = Asked::new(address, "/slow?ms=500");
    Asked::new(address, "/").answer().unwrap();
    server.signal(TERM);
    assert!(!slow.answer().unwrap().1);
    drop(slow);
    server.rest();
    assert!(server.wait().success());

    let (mut server, address, _) = serve("least");
    let mut endless = Asked::new(address, "/slow?ms=600000");
    Asked::new(address, "/").answer().unwrap();
    // Two in quick succession count as one; another one later does not.
    until("it stops at once", || {
        server.signal(TERM);
        server.has_ended()
    });
    assert!(endless.answer().is_err());
}
