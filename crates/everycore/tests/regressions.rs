//! What once went wrong in the primary, each with the smallest cluster that shows it.
//!
//! Without a harness: workers are this very program, and the role has to be asked for before any thread runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says which one ran"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use everycore::{
    Cluster, Error, Event, ListenOptions, Listener, Readiness, RestartSettings, Role, Running, Urgency,
    Worker,
};
use everycore_sys::PidFd;
use everycore_sys::signals::number::{CONT, KILL, STOP};
use rustix::process::{Resource, Rlimit};
use tokio::io::AsyncWriteExt;

/// How long anything may take that should take no time at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A name, and what is to hold.
type Case = (&'static str, fn());

const CASES: [Case; 17] = [
    ("a_worker_that_gives_up_its_last_listener_does_not_keep_the_primary_busy", gives_up_its_listener),
    ("a_request_without_end_is_one", request_without_end),
    ("a_snapshot_says_where_each_worker_listens", snapshot_says_where),
    ("an_observer_that_panics_ends_the_wait_of_others", observer_panics),
    ("a_question_that_finds_the_queue_full_fails_at_once", question_finds_queue_full),
    ("a_question_that_the_worker_drops_fails_at_once", question_is_dropped),
    ("a_question_that_no_program_hears_fails_at_once", question_is_unheard),
    ("a_stop_serves_everybody_who_waits_already", stop_serves_who_waits),
    ("a_signal_during_a_stop_forgets_nobody_who_waits", signal_during_stop),
    ("what_is_read_back_waits_for_descriptors_to_be_read_back_with", read_back_waits_for_descriptors),
    ("a_port_of_the_old_version_closes_after_a_reload", old_port_closes),
    ("a_port_of_a_worker_that_was_replaced_closes", replaced_workers_port_closes),
    ("a_limit_may_be_for_ever", forever_is_a_limit),
    ("a_listener_that_no_worker_listens_on_is_told_of_once", nobody_listens),
    ("a_cluster_without_workers_that_last_ends_with_an_error_that_says_why", nobody_lasts),
    ("a_grandchild_that_talks_does_not_keep_the_primary_from_its_work", talking_grandchild),
    ("workers_that_talk_without_end_do_not_keep_clients_waiting", talking_workers),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match everycore::role().unwrap() {
        Role::Worker(worker) => worker.block_on(work).unwrap(),
        Role::Primary(_) => {
            let chosen = |name: &str| {
                let mut filters = wanted.iter().filter(|word| !word.starts_with('-')).peekable();
                filters.peek().is_none() || filters.any(|word| name.contains(word.as_str()))
            };
            for (name, holds) in CASES.iter().filter(|(name, _)| chosen(name)) {
                holds();
                println!("test {name} ... ok");
            }
        }
    }
}

// --- workers ---

async fn work(worker: Worker) -> everycore::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("one") => {
            let mut listener = worker.listener("a").await?;
            let (stream, _) = listener.accept().await.map_err(|error| Error::Message(error.to_string()))?;
            drop(listener);
            drop(stream);
        }
        Some("asks") => {
            let error = worker.request("anybody?", 20 * PATIENCE).await.unwrap_err();
            TcpStream::connect(&args[1]).unwrap().write_all(error.to_string().as_bytes()).unwrap();
        }
        Some("serve") => greet(worker.listener("a").await?).await,
        // The first version listens here, the next ones there.
        Some("listen") => {
            greet(worker.listen(args[worker.generation().min(2) as usize].as_str()).await?).await;
        }
        Some("fail") => return Err(Error::Setting("there is no database".into())),
        // The first worker listens here, the next one there.
        Some("move") => greet(worker.listen(args[worker.id().min(2) as usize].as_str()).await?).await,
        _ => {}
    }
    if std::env::args().nth(1).as_deref() == Some("talk") {
        let mut listener = worker.listener("a").await?;
        let talks = worker.clone();
        tokio::spawn(async move {
            while talks.send("and another thing").await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    }
    worker.draining().await;
    Ok(())
}

/// A byte for everybody who comes.
async fn greet(mut listener: Listener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move { stream.write_all(b"!").await });
    }
}

// --- helpers ---

/// Runs a cluster of these workers and gives the events that matter.
fn cluster(kind: &str, workers: usize) -> (Running, Receiver<Event>) {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(workers)
        .signals(false)
        .readiness(Readiness::Online)
        .bind_with("a", "127.0.0.1:0", ListenOptions::new().backlog(2000))
        .unwrap()
        .args([kind])
        .on_event(move |_, event| {
            if !matches!(event, Event::Message { .. }) {
                let _ = tell.send(event);
            }
        })
        .start()
        .unwrap();
    (running, told)
}

fn await_event(told: &Receiver<Event>, mut wanted: impl FnMut(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = told.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap();
        if wanted(&event) {
            return event;
        }
    }
}

fn address(running: &Running) -> SocketAddr {
    running.address("a").unwrap().tcp().unwrap()
}

fn stop(running: Running) {
    running.primary().stop(Urgency::Fast).unwrap();
    running.wait().unwrap();
}

/// Processor time this process has used.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split(' ')
        .skip(11)
        .take(2)
        .map(|n| n.parse().unwrap())
        .collect();
    Duration::from_millis((fields[0] + fields[1]) * 10)
}

// --- cases ---

fn gives_up_its_listener() {
    let (running, told) = cluster("one", 1);
    await_event(&told, |event| matches!(event, Event::Listening { .. }));
    let mut client = TcpStream::connect(address(&running)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    // Past the time after which a worker that takes nothing is looked at.
    unanswered(&running, Duration::from_millis(1500));
    let before = processor_time();
    unanswered(&running, Duration::from_secs(1));
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(300), "the primary used {used:?} of a second for nothing");
    stop(running);
}

/// The primary's own clock: a question is given up when its time is over.
fn unanswered(running: &Running, within: Duration) {
    let answer = running.primary().request(1, "anybody?", within).unwrap().wait();
    assert!(matches!(answer, Err(Error::TimedOut { .. })), "{answer:?}");
}

fn request_without_end() {
    let (running, told) = cluster("idle", 1);
    await_event(&told, |event| matches!(event, Event::Ready { .. }));
    let reply = running.primary().request(1, "anybody?", Duration::MAX).unwrap();
    running.primary().snapshot().unwrap();
    stop(running);
    assert!(matches!(reply.wait(), Err(Error::Disconnected)));
}

/// Asks until an answer fails, which must not take until its deadline.
fn ask_too_much(primary: &everycore::Primary, at_least: usize) {
    let mut replies = Vec::new();
    while replies.len() < at_least {
        match primary.request(1, "anybody?", PATIENCE) {
            Ok(reply) => replies.push(reply),
            Err(Error::OrdersFull { waiting }) => assert_eq!(waiting, 65_536),
            Err(error) => panic!("{error}"),
        }
    }
    // Those before it wait for their answers, or their deadlines, as they should.
    let answer = replies.pop().unwrap().wait();
    assert!(matches!(answer, Err(Error::QueueFull { worker: 1 })), "{answer:?}");
}

fn question_finds_queue_full() {
    let (running, told) = cluster("idle", 1);
    let ready = await_event(&told, |event| matches!(event, Event::Ready { .. }));
    let pid = ready.worker().unwrap().pid.unwrap();
    PidFd::open(pid).unwrap().signal(STOP).unwrap();
    // More than a stopped worker's channel and its queue hold.
    ask_too_much(running.primary(), 80_000);
    running.primary().kill(1, KILL).unwrap();
    stop(running);
}

fn question_is_dropped() {
    let (running, told) = cluster("idle", 1);
    await_event(&told, |event| matches!(event, Event::Ready { .. }));
    // More than the worker keeps for a program that takes none.
    ask_too_much(running.primary(), 1_100);
    stop(running);
}

fn snapshot_says_where() {
    let (running, told) = cluster("serve", 1);
    let Event::Listening { address, .. } =
        await_event(&told, |event| matches!(event, Event::Listening { .. }))
    else {
        unreachable!("it was waited for");
    };
    let snapshot = running.primary().snapshot().unwrap();
    let [worker] = &snapshot.workers[..] else { panic!("{snapshot:?}") };
    let [key] = worker.listeners[..] else { panic!("{worker:?}") };
    assert_eq!(snapshot.addresses.get(&key), Some(&address));
    assert!(worker.forked_at < snapshot.taken_at, "{snapshot:?}");
    stop(running);
}

fn question_is_unheard() {
    let hears = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hears.local_addr().unwrap().to_string();
    let unheard = || {
        let (mut error, mut stream) = (String::new(), accept_in_time(&hears));
        stream.read_to_string(&mut error).unwrap();
        assert!(error.contains("nobody"), "{error}");
    };
    let cluster = || Cluster::builder().workers(1).signals(false).args(["asks", &address]);
    // Without an observer, and with one that has no answers.
    let running = cluster().start().unwrap();
    unheard();
    stop(running);
    let running = cluster()
        .on_event(|primary, event| {
            if let Event::Request { worker, id, .. } = event {
                primary.decline(worker.id, id).unwrap();
            }
        })
        .start()
        .unwrap();
    unheard();
    stop(running);
}

/// The next connection; fails when none comes.
fn accept_in_time(listener: &TcpListener) -> TcpStream {
    let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "nobody comes");
    listener.accept().unwrap().0
}

/// Connections nobody has answered yet.
fn clients(at: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(at).unwrap()).collect()
}

fn each_is_greeted(clients: &mut [TcpStream]) {
    for (place, client) in clients.iter_mut().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = Vec::new();
        client.read_to_end(&mut greeting).unwrap_or_else(|error| panic!("client {place}: {error}"));
        assert_eq!(greeting, b"!", "client {place}");
    }
}

/// A cluster of workers that are stopped once they listen.
fn stopped_servers<const N: usize>() -> (Running, Receiver<Event>, [PidFd; N]) {
    let (running, told) = cluster("serve", N);
    let processes = [(); N].map(|()| {
        let event = await_event(&told, |event| matches!(event, Event::Listening { .. }));
        PidFd::open(event.worker().unwrap().pid.unwrap()).unwrap()
    });
    processes.iter().for_each(|process| process.signal(STOP).unwrap());
    (running, told, processes)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

fn stop_serves_who_waits() {
    let (running, told, [process]) = stopped_servers();
    // Several times what the channel to one worker holds.
    let mut clients = clients(address(&running), 1000);
    running.primary().stop(Urgency::Graceful).unwrap();
    await_event(&told, |event| matches!(event, Event::Stopping));
    process.signal(CONT).unwrap();
    each_is_greeted(&mut clients);
    running.wait().unwrap();
}

fn signal_during_stop() {
    let (running, told, [_]) = stopped_servers();
    let mut clients = clients(address(&running), 1000);
    running.primary().stop(Urgency::Graceful).unwrap();
    await_event(&told, |event| matches!(event, Event::Stopping));
    // No request to leave; carried out before the picture is taken.
    running.primary().kill(1, CONT).unwrap();
    running.primary().snapshot().unwrap();
    each_is_greeted(&mut clients);
    running.wait().unwrap();
}

fn read_back_waits_for_descriptors() {
    let (running, _told, [one, other]) = stopped_servers();
    let connections = || running.primary().snapshot().unwrap().connections;
    // One that was stopped in the middle of a turn is known to be busy and gets nothing: once more, then.
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = loop {
        assert!(Instant::now() < deadline, "both workers are never handed anything while they are stopped");
        let mut clients = clients(address(&running), 4);
        let soon = Instant::now() + Duration::from_millis(500);
        while connections().outstanding < 2 && Instant::now() < soon {}
        if connections().outstanding >= 2 {
            break clients;
        }
        for process in [&one, &other] {
            process.signal(CONT).unwrap();
        }
        each_is_greeted(&mut clients);
        for process in [&one, &other] {
            process.signal(STOP).unwrap();
        }
    };
    let taken = connections().taken;
    // No descriptor is left to the primary when it wants to read back what the one was handed and the other can serve.
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(200), ..limits };
    rustix::process::setrlimit(Resource::Nofile, few).unwrap();
    let fill: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    one.signal(CONT).unwrap();
    wait_until("the one goes on", || connections().taken > taken);
    // Each is a turn of the primary's loop, in which it looks after the other.
    for _ in 0..200 {
        let _ = connections();
    }
    drop(fill);
    rustix::process::setrlimit(Resource::Nofile, limits).unwrap();
    each_is_greeted(&mut waiting);
    other.signal(CONT).unwrap();
    stop(running);
}

fn two_addresses() -> [SocketAddr; 2] {
    [(); 2].map(|()| everycore_peers::own_address())
}

/// Workers that listen at the first of two addresses, then at the second.
fn movers(kind: &str, workers: usize, [old, new]: [SocketAddr; 2]) -> (Running, Receiver<Event>) {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(workers)
        .signals(false)
        .graceful_timeout(Duration::from_millis(500))
        .args([kind.to_owned(), old.to_string(), new.to_string()])
        .on_event(move |_, event| drop(tell.send(event)))
        .start()
        .unwrap();
    for _ in 0..workers {
        await_event(&told, |event| matches!(event, Event::Ready { .. }));
    }
    (running, told)
}

fn old_port_closes() {
    let [old, new] = two_addresses();
    let (running, told) = movers("listen", 2, [old, new]);
    each_is_greeted(&mut clients(old, 4));
    running.primary().reload().unwrap();
    await_event(&told, |event| matches!(event, Event::ReloadDone { .. }));
    each_is_greeted(&mut clients(new, 4));
    wait_until("the old version's port is closed", || TcpStream::connect(old).is_err());
    each_is_greeted(&mut clients(new, 4));
    stop(running);
}

fn replaced_workers_port_closes() {
    let [old, new] = two_addresses();
    let (running, told) = movers("move", 1, [old, new]);
    running.primary().kill(1, KILL).unwrap();
    await_event(&told, |event| matches!(event, Event::Ready { .. }));
    each_is_greeted(&mut clients(new, 4));
    wait_until("the port that nobody serves is closed", || TcpStream::connect(old).is_err());
    each_is_greeted(&mut clients(new, 4));
    stop(running);
}

fn forever_is_a_limit() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .bind("a", "127.0.0.1:0")
        .unwrap()
        .start_timeout(Duration::MAX)
        .graceful_timeout(Duration::MAX)
        .term_timeout(Duration::MAX)
        .hung_timeout(Duration::MAX)
        .args(["serve"])
        .on_event(move |_, event| drop(tell.send(event)))
        .start()
        .unwrap();
    await_event(&told, |event| matches!(event, Event::Ready { .. }));
    running.primary().reload().unwrap();
    await_event(&told, |event| matches!(event, Event::ReloadDone { .. }));
    each_is_greeted(&mut clients(address(&running), 4));
    running.primary().stop(Urgency::Graceful).unwrap();
    running.wait().unwrap();
}

fn nobody_listens() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .bind("a", "127.0.0.1:0")
        .unwrap()
        .bind("forgotten", "127.0.0.1:0")
        .unwrap()
        .args(["serve"])
        .on_event(move |_, event| drop(tell.send(event)))
        .start()
        .unwrap();
    let mut warnings = Vec::new();
    let mut listen = |until: &dyn Fn(&Event) -> bool| {
        await_event(&told, |event| {
            if let Event::Warning { text } = event {
                warnings.push(text.clone());
            }
            until(event)
        });
    };
    listen(&|event| matches!(event, Event::Warning { .. }));
    running.primary().reload().unwrap();
    listen(&|event| matches!(event, Event::ReloadDone { .. }));
    let forgotten = running.address("forgotten").unwrap().to_string();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&format!("no worker listens on forgotten ({forgotten})")), "{warnings:?}");
    stop(running);
}

fn nobody_lasts() {
    let running = Cluster::builder()
        .workers(2)
        .signals(false)
        .restart(RestartSettings { limit: 1, ..RestartSettings::default() })
        .args(["fail"])
        .start()
        .unwrap();
    let error = running.wait().unwrap_err();
    let told = format!("{error:?}");
    assert!(told.contains("no worker could be kept") && told.contains("exited with code 101"), "{told}");
}

fn observer_panics() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .readiness(Readiness::Online)
        .args(["idle"])
        .on_event(|_, event| {
            assert!(!matches!(event, Event::Ready { .. }), "not an error: this test's observer panics")
        })
        .start()
        .unwrap();
    let primary = running.primary().clone();
    std::thread::spawn(move || {
        // However the first ones go: in the end there is no primary.
        while primary.snapshot().is_ok() {}
        let _ = tell.send(primary.reload());
    });
    let answer = told.recv_timeout(PATIENCE).expect("a handle must not wait for a primary that is no more");
    assert!(matches!(answer, Err(Error::PrimaryGone)), "{answer:?}");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.wait())).is_err());
}

fn talking_grandchild() {
    let (tell, told) = channel();
    // Messages faster than they can be read, until nobody reads; who started it leaves at once.
    let file = std::env::temp_dir().join(format!("everycore-regressions-{}", std::process::id()));
    std::fs::write(&file, b"\x02\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0{}".repeat(1 << 20)).unwrap();
    let script = format!("(while cat {} >&3; do :; done) 2>/dev/null & exit 0", file.display());
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .readiness(Readiness::Online)
        .command(move |_| Ok(everycore::WorkerCommand::new("sh", ["-c", &script])))
        .on_event(move |_, event| {
            if !matches!(event, Event::Message { .. }) {
                let _ = tell.send(event);
            }
        })
        .start()
        .unwrap();
    await_event(&told, |event| matches!(event, Event::Exit { .. }));
    stop(running);
    std::fs::remove_file(file).unwrap();
}

fn talking_workers() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(2)
        .signals(false)
        .bind("a", "127.0.0.1:0")
        .unwrap()
        .args(["talk"])
        .on_event(move |_, event| match event {
            // Whoever listens is slower than those who talk: there is always more to be read.
            Event::Message { .. } => spin(Duration::from_micros(20)),
            event => drop(tell.send(event)),
        })
        .start()
        .unwrap();
    await_event(&told, |event| matches!(event, Event::Listening { .. }));
    for _ in 0..20 {
        let mut client = TcpStream::connect(address(&running)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "somebody takes it");
    }
    stop(running);
}

fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}
