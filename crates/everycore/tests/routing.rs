//! Classes of workers: who is sent where, what becomes of those for whom there is no room, and first words that decide.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use everycore::{Class, Cluster, LeastConnections, Policy, Route};
use everycore_sys::signals::number::{CONT, KILL, STOP, TERM};
use socket2::{Domain, Socket, Type};
use support::{Example, PATIENCE, cpu_ticks, number_after, signal_pid, until};

/// Connects from 127.0.0.`host`.
fn connect(address: SocketAddr, host: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The line a connection is answered with; nothing for one that was closed.
fn answer(stream: &TcpStream) -> String {
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => line.trim_end().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("{error}"),
    }
}

fn class(stream: &TcpStream) -> String {
    answer(stream).split(' ').next().unwrap().to_owned()
}

/// The addresses of `http` and `admin`, and the cluster when all five workers serve both.
fn tenants() -> (Example, SocketAddr, SocketAddr) {
    let server = Example::start("tenants", &["127.0.0.1:0", "127.0.0.2:0"]);
    let (mut http, mut admin) = (None, None);
    for _ in 0..10 {
        let line = server.line_with("listens on");
        let address: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
        let which = if address.ip() == Ipv4Addr::LOCALHOST { &mut http } else { &mut admin };
        *which = Some(address);
    }
    (server, http.unwrap(), admin.unwrap())
}

#[test]
fn a_rule_may_be_about_the_listener() {
    let (_server, http, admin) = tenants();
    for _ in 0..5 {
        assert_eq!(class(&connect(admin, 1)), "ops");
        assert_eq!(class(&connect(http, 1)), "web");
    }
}

#[test]
fn a_class_that_refuses_closes_at_once_and_serves_when_there_is_room() {
    let (server, http, _) = tenants();
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect(http, 3)).collect();
    assert!(held.iter().all(|stream| class(stream) == "batch"));
    for _ in 0..3 {
        assert_eq!(answer(&connect(http, 3)), "", "it is closed without a word");
    }
    assert_eq!(server.line_with("refused"), "batch has refused 1 so far");
    assert_eq!(class(&connect(http, 1)), "web", "the others go on");
    drop(held.pop());
    until("there is room again", || class(&connect(http, 3)) == "batch");
}

#[test]
fn what_spills_goes_to_the_other_class_when_nobody_of_its_own_is_free() {
    let (_server, http, _) = tenants();
    let held: Vec<TcpStream> = (0..6).map(|_| connect(http, 4)).collect();
    // As many as the two classes may hold together.
    let mut classes: Vec<String> = held.iter().map(class).collect();
    classes.sort();
    assert_eq!(classes, ["vip", "vip", "web", "web", "web", "web"]);
    // Both are full: it waits, and whoever is free first serves it.
    let waits = connect(http, 4);
    drop(held);
    assert!(["vip", "web"].contains(&class(&waits).as_str()));
}

#[test]
fn a_class_without_a_worker_for_the_moment_waits_for_the_next_one() {
    let (server, http, _) = tenants();
    let first = connect(http, 3);
    let line = answer(&first);
    let pid = number_after(&line, "batch");
    signal_pid(pid, KILL);
    server.line_with("killed");
    let next = answer(&connect(http, 3));
    assert!(next.starts_with("batch ") && number_after(&next, "batch") != pid, "{next}");
}

#[test]
fn a_class_that_stands_still_holds_up_nobody_else() {
    let server = Example::start("route", &["127.0.0.1:0"]);
    let lines: Vec<String> = (0..3).map(|_| server.line_with("listens on")).collect();
    let address: SocketAddr = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    // Workers are numbered in the order of their slots: the third is special.
    let special = lines.iter().find(|line| number_after(line, "worker") == 3).unwrap();
    let pid = number_after(special, "(pid");
    signal_pid(pid, STOP);
    let waiting: Vec<TcpStream> = (0..60).map(|_| connect(address, 2)).collect();
    for _ in 0..60 {
        assert!(answer(&connect(address, 1)).ends_with("normal --normal"));
    }
    signal_pid(pid, CONT);
    for stream in &waiting {
        assert_eq!(answer(stream), "2 special --special");
    }
}

/// A server that routes by first words, with the pids of its `plain` and its `gold` worker.
fn by_bytes(patience: &str) -> (Example, SocketAddr) {
    let server = Example::start("route_by_bytes", &["127.0.0.1:0", patience]);
    let lines = [server.line_with("listens on"), server.line_with("listens on")];
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    (server, address)
}

#[test]
fn first_words_choose_the_class_and_are_read_again() {
    let (_server, address) = by_bytes("30000");
    let say = |stream: &mut TcpStream, text: &str| stream.write_all(text.as_bytes()).unwrap();
    // Many at once, and some of them word by word: they are answered in whatever order they have spoken.
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(address, 1)).collect();
    slow.iter_mut().for_each(|stream| say(stream, "GO"));
    for text in ["GOLD please", "silver", "G"] {
        let mut stream = connect(address, 1);
        say(&mut stream, text);
        if text == "G" {
            stream.shutdown(Shutdown::Write).unwrap();
        } else {
            say(&mut stream, "\n");
        }
        let class = if text.starts_with("GOLD") { "gold" } else { "plain" };
        assert_eq!(answer(&stream), format!("{class}: {text}"));
    }
    for (place, stream) in slow.iter_mut().enumerate() {
        let (text, class) = if place % 2 == 0 { ("LD\n", "gold: GOLD") } else { ("\n", "plain: GO") };
        say(stream, text);
        assert_eq!(answer(stream), class);
    }
}

#[test]
fn whoever_says_nothing_is_served_when_its_time_is_over_and_costs_nothing_before() {
    let (server, address) = by_bytes("1500");
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..50).map(|_| connect(address, 1)).collect();
    let before = cpu_ticks(server.pid());
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    }
    assert!(silent[0].read(&mut [0]).is_err());
    while began.elapsed() < Duration::from_millis(1500) {
        // Others are served meanwhile.
        let mut loud = connect(address, 1);
        loud.write_all(b"GOLD\n").unwrap();
        assert_eq!(answer(&loud), "gold: GOLD");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let used = cpu_ticks(server.pid()) - before;
    assert!(used < 30, "the primary used {used} ticks of 10 ms");
    // By now they belong to `plain`, whatever they say.
    until("their time is over for the primary too", || {
        let mut late = silent.pop().unwrap();
        late.set_read_timeout(Some(PATIENCE)).unwrap();
        late.write_all(b"GOLD\n").unwrap();
        answer(&late) == "plain: GOLD"
    });
}

#[test]
fn with_all_places_taken_by_the_silent_others_wait_in_the_backlog_and_nothing_spins() {
    everycore_sys::limits::raise_nofile_limit().unwrap();
    let (server, address) = by_bytes("30000");
    let mut silent: Vec<TcpStream> = (0..1024).map(|_| connect(address, 1)).collect();
    let mut late = connect(address, 1);
    late.write_all(b"GOLD late\n").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let before = cpu_ticks(server.pid());
    assert!(late.read(&mut [0]).is_err(), "there was no place for it");
    let used = cpu_ticks(server.pid()) - before;
    assert!(used < 10, "the primary used {used} ticks of 10 ms while it waited");
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    // One place is enough.
    silent[500].write_all(b"hello\n").unwrap();
    assert_eq!(answer(&silent[500]), "plain: hello");
    assert_eq!(answer(&late), "gold: GOLD late");
    // Whoever goes away gives its place back, too.
    drop(silent);
    let mut next = connect(address, 1);
    next.write_all(b"GOLD next\n").unwrap();
    assert_eq!(answer(&next), "gold: GOLD next");
}

#[test]
fn a_stop_serves_those_who_have_not_spoken_yet() {
    let (mut server, address) = by_bytes("30000");
    let mut silent: Vec<TcpStream> = (0..10).map(|_| connect(address, 1)).collect();
    // They have been accepted once somebody who came later was answered.
    let mut loud = connect(address, 1);
    loud.write_all(b"GOLD\n").unwrap();
    assert_eq!(answer(&loud), "gold: GOLD");
    server.signal(TERM);
    for stream in &mut silent {
        stream.write_all(b"words\n").unwrap();
        assert_eq!(answer(stream), "plain: words");
    }
    server.rest();
    assert!(server.wait().success());
}

#[test]
fn what_does_not_fit_is_refused_and_names_what_does() {
    let refused = |cluster: Cluster| cluster.run().unwrap_err().to_string();
    let classes = || Route::new().class(Class::new("one", 1)).class(Class::new("two", 2));
    let none = refused(Cluster::builder().policy(Policy::Route));
    assert!(none.contains("add them with Cluster::route"), "{none}");
    let other = refused(Cluster::builder().policy(Policy::Sticky).route(classes()));
    assert!(other.contains("set another one within the classes"), "{other}");
    let count = refused(Cluster::builder().workers(2).route(classes()));
    assert!(count.contains("have 3 workers together"), "{count}");
    let own = refused(Cluster::builder().scheduling(LeastConnections::default()).route(classes()));
    assert!(own.contains("leave one of them out"), "{own}");
    let listener = classes().rule("listener:admin", "two").unwrap();
    let listener = refused(Cluster::builder().bind("http", "127.0.0.1:0").unwrap().route(listener));
    assert!(listener.contains("there are http"), "{listener}");
}
