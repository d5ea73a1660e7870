//! Forked children, from both sides. The program runs itself again in the roles below, so it has a runner without
//! threads: a child must be able to look for its parent before there are any.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, a role prints")]

mod support;

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;

use everycore_ipc::{
    ChildParts, Codec, Connection, Event, Flush, Fork, ForkError, Handle, Limits, Message, Outgoing,
    ParentError, PidFd, SendError, Stdio, WaitStatus, fork, inherited, parent,
};
use everycore_sys::{Spawn, SpawnError, inherit, spawn};
use support::{block_on, until};

const ROLE: &str = "EVERYCORE_TEST_ROLE";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => echo(),
        Ok("last words") => last_words(),
        Ok("leaves a talker") => leaves_a_talker(),
        Ok("talker") => talker(),
        Ok("too late") => too_late(),
        Ok("twice") => twice(),
        Ok("nobody") => nobody(),
        Ok("grandchild") => grandchild(),
        Ok("sigchld") => sigchld(),
        Ok(role) => panic!("no such role: {role}"),
        Err(_) => support::run(TESTS),
    }
}

const TESTS: &[(&str, fn())] = &[
    ("messages_and_handles_go_both_ways", messages_and_handles_go_both_ways),
    ("events_come_in_order_and_once", events_come_in_order_and_once),
    ("a_signal_shows_in_the_exit", a_signal_shows_in_the_exit),
    (
        "a_grandchild_that_holds_the_channel_delays_nothing",
        a_grandchild_that_holds_the_channel_delays_nothing,
    ),
    ("a_grandchild_that_talks_delays_nothing", a_grandchild_that_talks_delays_nothing),
    ("a_child_is_sent_what_its_codec_can_say", a_child_is_sent_what_its_codec_can_say),
    ("disconnecting_ends_a_child", disconnecting_ends_a_child),
    ("a_dropped_child_lives_and_is_waited_for", a_dropped_child_lives_and_is_waited_for),
    ("pipes_null_and_files", pipes_null_and_files),
    ("directory_environment_and_arguments", directory_environment_and_arguments),
    ("scripts_go_to_their_runtime", scripts_go_to_their_runtime),
    ("failures_say_what_and_where", failures_say_what_and_where),
    ("no_channel_no_messages", no_channel_no_messages),
    ("the_channel_may_have_any_number", the_channel_may_have_any_number),
    ("parts_need_no_runtime", parts_need_no_runtime),
    ("the_child_finds_its_parent_once_and_early", the_child_finds_its_parent_once_and_early),
    ("stale_variables_are_nobodys", stale_variables_are_nobodys),
    (
        "children_of_children_inherit_nothing_of_the_channel",
        children_of_children_inherit_nothing_of_the_channel,
    ),
    ("an_ignored_sigchld_hides_the_code_only", an_ignored_sigchld_hides_the_code_only),
    ("nothing_is_left_open", nothing_is_left_open),
];

fn messages_and_handles_go_both_ways() {
    block_on(async {
        let child = role("echo").spawn().unwrap();
        child.send("before you started").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        child.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
        assert_eq!(child.recv().await.unwrap().unwrap().parse::<String>().unwrap(), "before you started");
        let mut message = child.recv().await.unwrap().unwrap();
        let back = TcpListener::try_from(message.take_handle().unwrap()).unwrap();
        assert_eq!(back.local_addr().unwrap(), listener.local_addr().unwrap());
    });
}

fn events_come_in_order_and_once() {
    for _ in 0..20 {
        block_on(async {
            let mut child = role("last words").spawn().unwrap();
            let mut words = Vec::new();
            loop {
                match child.event().await.unwrap() {
                    Some(Event::Message(message)) => words.push(message.parse::<u32>().unwrap()),
                    Some(Event::Disconnect) => break,
                    event => panic!("unexpected {event:?}"),
                }
            }
            assert_eq!(words, Vec::from_iter(0..1000));
            assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(3)))));
            assert!(child.event().await.unwrap().is_none());
            assert!(child.event().await.unwrap().is_none());
            assert_eq!(child.wait().await.unwrap(), WaitStatus::Code(3));
            assert_eq!(child.try_wait().unwrap(), Some(WaitStatus::Code(3)));
        });
    }
}

fn a_signal_shows_in_the_exit() {
    block_on(async {
        let mut child = role("echo").spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(child.kill(libc_sigkill()).unwrap());
        assert!(matches!(child.event().await.unwrap(), Some(Event::Disconnect)));
        let killed = WaitStatus::Signal { signal: libc_sigkill(), core_dumped: false };
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(status)) if status == killed));
        assert!(!child.kill(libc_sigkill()).unwrap(), "nobody is there any more");
    });
}

fn a_grandchild_that_holds_the_channel_delays_nothing() {
    block_on(async {
        let script = "sleep 60 >/dev/null 2>&1 & echo $!; exit 4";
        let fork = fork("sh").args(["-c", script]).codec(Codec::Native).stdout(Stdio::Pipe);
        let mut child = fork.spawn().unwrap();
        assert!(matches!(child.event().await.unwrap(), Some(Event::Disconnect)));
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(4)))));
        let mut pid = String::new();
        child.stdout.take().unwrap().read_to_string(&mut pid).unwrap();
        PidFd::open(pid.trim().parse().unwrap()).unwrap().signal(libc_sigkill()).unwrap();
    });
}

fn a_grandchild_that_talks_delays_nothing() {
    block_on(async {
        let mut child = role("leaves a talker").stdin(Stdio::Pipe).stdout(Stdio::Pipe).spawn().unwrap();
        let first = child.event().await.unwrap();
        assert!(matches!(first, Some(Event::Message(message)) if message.bytes() == "\"of the child\""));
        drop(child.stdin.take());
        let stat = format!("/proc/{}/stat", child.pid());
        until("the child ends", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
        let mut messages = 0;
        let end = loop {
            match child.event().await.unwrap() {
                Some(Event::Message(_)) => messages += 1,
                end => break end,
            }
            assert!(messages < 100_000, "it talks without end, and nobody hears of the child's");
            until("a program that is slower than the talker finds more than it can read at once", || {
                rustix::io::ioctl_fionread(child.channel().unwrap()).unwrap() > 100 * 1024
            });
        };
        assert!(matches!(end, Some(Event::Disconnect)), "{end:?}");
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(4)))));
        let mut pid = String::new();
        child.stdout.take().unwrap().read_to_string(&mut pid).unwrap();
        PidFd::open(pid.trim().parse().unwrap()).unwrap().signal(libc_sigkill()).unwrap();
    });
}

fn a_child_is_sent_what_its_codec_can_say() {
    block_on(async {
        let child = role("echo").codec(Codec::Advanced).spawn().unwrap();
        let sent = Bytes(vec![0, 255, 7]);
        child.send(&sent).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        child.send_with(&sent, Handle::duplicate(&listener).unwrap()).await.unwrap();
        for _ in 0..2 {
            let back = child.recv().await.unwrap().unwrap();
            assert_eq!(back.parse::<Bytes>().unwrap(), sent, "bytes stay bytes");
        }
    });
}

fn disconnecting_ends_a_child() {
    block_on(async {
        let mut child = role("echo").spawn().unwrap();
        child.send("one more").await.unwrap();
        child.disconnect().await.unwrap();
        assert!(matches!(child.send("too late").await, Err(SendError::Closed(_))));
        assert!(
            matches!(child.event().await.unwrap(), Some(Event::Message(_))),
            "what it still says is heard"
        );
        assert!(matches!(child.event().await.unwrap(), Some(Event::Disconnect)));
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(0)))));
    });
}

fn a_dropped_child_lives_and_is_waited_for() {
    let sleepers: Vec<u32> = block_on(async {
        let sleeper = fork("sleep").arg("60").without_channel();
        let children: Vec<_> = (0..3).map(|_| sleeper.spawn().unwrap()).collect();
        // One that was awaited, and so is known to the runtime.
        let mut wait = Box::pin(children[0].wait());
        std::future::poll_fn(|context| std::task::Poll::Ready(wait.as_mut().poll(context).is_pending()))
            .await;
        drop(wait);
        children.iter().map(everycore_ipc::Child::pid).collect()
    });
    for pid in sleepers {
        let process = PidFd::open(pid).expect("it goes on without us");
        process.signal(libc_sigkill()).unwrap();
        // A zombie could still be signalled.
        until("the dropped child is waited for", || process.signal(0).is_err());
    }
    let fast: Vec<u32> = (0..20).map(|_| fork("true").without_channel().spawn().unwrap().pid()).collect();
    for pid in fast {
        until("the dropped child is waited for", || {
            !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_our_child(&stat))
        });
    }
}

fn is_our_child(stat: &str) -> bool {
    stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&std::process::id().to_string())
}

fn pipes_null_and_files() {
    let cat = fork("cat").without_channel().stdin(Stdio::Pipe).stdout(Stdio::Pipe);
    let mut child = cat.spawn_parts().unwrap();
    child.stdin.take().unwrap().write_all(b"through the cat").unwrap();
    assert_eq!(read(&mut child.stdout), "through the cat");
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0));

    let (mut read_end, write_end) = std::io::pipe().unwrap();
    let loud = fork("sh").args(["-c", "cat; echo out; echo err >&2"]).without_channel();
    let loud = loud.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Fd(write_end.into()));
    for _ in 0..2 {
        assert_eq!(loud.spawn_parts().unwrap().pidfd.wait().unwrap(), WaitStatus::Code(0));
    }
    drop(loud);
    let mut text = String::new();
    read_end.read_to_string(&mut text).unwrap();
    assert_eq!(text, "err\nerr\n");

    block_on(async {
        let mut child = fork("echo").arg("hi").without_channel().stdout(Stdio::Pipe).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout.into()).unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut text).await.unwrap();
        assert_eq!(text, "hi\n");
        assert_eq!(child.wait().await.unwrap(), WaitStatus::Code(0));
    });
}

fn directory_environment_and_arguments() {
    let script = "pwd; echo $1 $A ${CARGO_MANIFEST_DIR-none}; umask; ps -o pgid= -p $$ | tr -d ' '; echo $$ $LISTEN_PID";
    let fork = fork("sh")
        .args(["-c", script, "zero"])
        .arg("one")
        .cwd("/")
        .env("A", "b")
        .env_remove("CARGO_MANIFEST_DIR");
    let fork = fork.umask(0o077).process_group(true).listen_pid(true).without_channel().stdout(Stdio::Pipe);
    let mut child = fork.spawn_parts().unwrap();
    let pid = child.pidfd.pid();
    assert_eq!(read(&mut child.stdout), format!("/\none b none\n0077\n{pid}\n{pid} {pid}\n"));
    child.pidfd.wait().unwrap();

    let mut child = fork_env().env_clear().env("ONLY", "me").spawn_parts().unwrap();
    assert_eq!(read(&mut child.stdout), "ONLY=me\n");
    child.pidfd.wait().unwrap();
}

fn fork_env() -> Fork {
    fork("/usr/bin/env").without_channel().stdout(Stdio::Pipe)
}

fn scripts_go_to_their_runtime() {
    let fork = fork("worker.js").exec_path("echo").exec_args(["--flag"]).arg("last");
    let mut child = fork.without_channel().stdout(Stdio::Pipe).spawn_parts().unwrap();
    assert_eq!(read(&mut child.stdout), "--flag worker.js last\n");
    child.pidfd.wait().unwrap();
    // Without one it is node, which is found or not, but never the script itself.
    let missing = everycore_ipc::fork("worker.mjs").env("PATH", "/nowhere").spawn_parts().unwrap_err();
    assert!(
        matches!(missing, ForkError::Program { source: SpawnError::NotFound { program }, .. } if program == "node")
    );
}

fn failures_say_what_and_where() {
    let error = fork("no-such-program").spawn().unwrap_err();
    assert_eq!(error.to_string(), "cannot start no-such-program");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "program no-such-program not found in PATH");
    let error = fork("true").cwd("/no/such/place").spawn().unwrap_err();
    assert!(matches!(error, ForkError::Program { source: SpawnError::Cwd { .. }, .. }));
    let null = || std::fs::File::open("/dev/null").unwrap();
    let error = fork("true").fd(3, null()).spawn().unwrap_err();
    assert!(matches!(error, ForkError::Descriptor { number: 3, .. }), "3 is the channel's");
    let error = fork("true").fd(-1, null()).spawn().unwrap_err();
    assert!(matches!(error, ForkError::Descriptor { number: -1, .. }));
}

fn no_channel_no_messages() {
    block_on(async {
        let mut child = fork("true").without_channel().spawn().unwrap();
        assert!(child.channel().is_none());
        assert!(matches!(child.send("x").await, Err(SendError::Closed(_))));
        assert!(child.recv().await.unwrap().is_none());
        child.disconnect().await.unwrap();
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(0)))));
        assert!(child.event().await.unwrap().is_none());
    });
}

fn the_channel_may_have_any_number() {
    for number in [0, 4, 100] {
        block_on(async {
            let child = role("echo").channel_fd(number).fd(5, std::fs::File::open("/dev/null").unwrap());
            let child = child.spawn().unwrap();
            child.send("x").await.unwrap();
            assert!(child.recv().await.unwrap().is_some(), "on {number}");
        });
    }
}

fn parts_need_no_runtime() {
    let ChildParts { pidfd, connection, .. } = role("echo").spawn_parts().unwrap();
    let channel = everycore_ipc::blocking::Channel::new(connection.unwrap());
    channel.send("hi").unwrap();
    assert_eq!(channel.recv().unwrap().unwrap().parse::<String>().unwrap(), "hi");
    channel.disconnect().unwrap();
    assert!(channel.recv().unwrap().is_none());
    assert_eq!(pidfd.wait().unwrap(), WaitStatus::Code(0));
}

fn the_child_finds_its_parent_once_and_early() {
    for name in ["too late", "twice"] {
        succeeds(role(name));
    }
}

fn stale_variables_are_nobodys() {
    // As a program would find them whose grandparent had a channel: the number is open, but something else is there.
    let (ours, other) = everycore_sys::socket_pair::stream_pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let wrong = inherit::identity(&ours).unwrap();
    let cases = [
        ("3", "json", null.as_fd()),
        ("9", "json", other.as_fd()),
        ("x", "json", other.as_fd()),
        ("-1", "advanced", other.as_fd()),
        ("3", "native", other.as_fd()),
    ];
    for (number, mode, fd) in cases {
        let mut program = Spawn::new(std::env::current_exe().unwrap());
        let pairs = [
            (ROLE, "nobody"),
            ("NODE_CHANNEL_FD", number),
            ("NODE_CHANNEL_SERIALIZATION_MODE", mode),
            ("EVERYCORE_CHANNEL_IDENTITY", &wrong),
            ("NODE_UNIQUE_ID", "1"),
        ];
        program.env = pairs.map(|(name, value)| (name.into(), value.into())).into();
        program.descriptors = vec![(fd, 3)];
        assert_eq!(spawn(&program).unwrap().pidfd.wait().unwrap(), WaitStatus::Code(0), "{number} {mode}");
    }
}

fn children_of_children_inherit_nothing_of_the_channel() {
    succeeds(role("grandchild").env("NODE_UNIQUE_ID", "7"));
}

fn an_ignored_sigchld_hides_the_code_only() {
    succeeds(role("sigchld").without_channel());
}

fn nothing_is_left_open() {
    let once = || {
        block_on(async {
            let mut child = role("echo").stdin(Stdio::Pipe).stdout(Stdio::Pipe).spawn().unwrap();
            child
                .send_with("x", std::fs::File::open("/dev/null").map(std::os::fd::OwnedFd::from).unwrap())
                .await
                .unwrap();
            assert!(child.recv().await.unwrap().unwrap().take_handle().is_some());
            child.disconnect().await.unwrap();
            while child.event().await.unwrap().is_some() {}
        });
        assert!(fork("no-such-program").stdin(Stdio::Pipe).spawn().is_err());
    };
    once();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    (0..20).for_each(|_| once());
    assert_eq!(count(), before);
}

// The roles.

fn echo() {
    let channel = parent().unwrap().expect("we were forked");
    block_on(async {
        while let Some(message) = channel.recv().await.unwrap() {
            channel.send_message(message).await.unwrap();
        }
    });
}

/// Says much and leaves without a goodbye.
fn last_words() {
    let channel = parent().unwrap().expect("we were forked");
    block_on(async {
        for word in 0..1000 {
            channel.send(&word).await.unwrap();
        }
        channel.flush().await.unwrap();
        std::process::exit(3);
    });
}

/// Ends while a process of its own writes on the same channel.
fn leaves_a_talker() {
    let mut connection = inherited().unwrap().unwrap().connection(Limits::default()).unwrap();
    connection.queue(Message::json("of the child").unwrap()).unwrap();
    assert_eq!(connection.flush().unwrap(), Flush::Done);
    let talker = fork(std::env::current_exe().unwrap())
        .env(ROLE, "talker")
        .stdin(Stdio::Null)
        .stdout(Stdio::Pipe)
        .without_channel()
        .fd(9, connection.as_fd().try_clone_to_owned().unwrap());
    let mut talker = talker.spawn_parts().unwrap();
    println!("{}", talker.pidfd.pid());
    // It talks already.
    talker.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(4);
}

/// Writes until nobody reads any more: to the program, and what the program is not shown.
fn talker() {
    let channel = inherit::adopt_fd(9, &[]).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&channel, 200_000).unwrap();
    let mut connection = Connection::new(channel, Codec::Native, Limits::default()).unwrap();
    let mut told = false;
    loop {
        while connection.queued_bytes() < 256 * 1024
            && connection.queue(Outgoing::internal(Message::raw("x"))).is_ok()
            && connection.queue(Message::json("of the grandchild").unwrap()).is_ok()
        {}
        if connection.flush().is_err() {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            std::io::stdout().write_all(b"!").unwrap();
            std::io::stdout().flush().unwrap();
        }
        // It is called writable only when three quarters of the buffer are free.
        std::thread::yield_now();
    }
}

fn too_late() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let error = parent().unwrap_err();
    assert!(matches!(error, ParentError::Threads(_)));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().contains("first thing in main"), "{source}");
    drop(stop);
    let _ = thread.join();
}

fn twice() {
    let channel = inherited().unwrap().unwrap();
    assert_eq!((channel.codec, channel.unique_id), (Codec::Native, None));
    assert!(matches!(parent(), Err(ParentError::Taken)));
    assert!(std::env::vars_os().all(|(name, _)| !name.to_str().unwrap().contains("_CHANNEL")));
}

fn nobody() {
    assert!(parent().unwrap().is_none());
    assert!(parent().unwrap().is_none());
    assert_eq!(std::env::vars_os().count(), 1, "only our role is left");
}

/// Starts a program of its own before it looks for its parent.
fn grandchild() {
    let mut child = fork_env().spawn_parts().unwrap();
    let variables = read(&mut child.stdout);
    assert!(!variables.contains("_CHANNEL") && !variables.contains("NODE_UNIQUE_ID"), "{variables}");
    child.pidfd.wait().unwrap();
    let list = "ls -l /proc/self/fd | grep -c socket";
    let mut child = fork("sh")
        .args(["-c", list])
        .stdin(Stdio::Null)
        .stderr(Stdio::Null)
        .stdout(Stdio::Pipe)
        .without_channel()
        .spawn_parts()
        .unwrap();
    assert_eq!(read(&mut child.stdout), "0\n");
    child.pidfd.wait().unwrap();
    assert_eq!(inherited().unwrap().unwrap().unique_id.as_deref(), Some("7"));
}

fn sigchld() {
    // What is ignored when a program starts it keeps on ignoring.
    if std::env::args().nth(1).is_none() {
        let exe = std::env::current_exe().unwrap();
        let again = fork("env").arg("--ignore-signal=CHLD").arg(exe).arg("again").without_channel();
        let child = again.spawn_parts().unwrap();
        assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0));
        return;
    }
    block_on(async {
        let mut child = fork("sh").args(["-c", "exit 5"]).without_channel().spawn().unwrap();
        assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Unknown))));
    });
}

/// Bytes as such: a list of numbers is something else.
#[derive(Debug, PartialEq)]
struct Bytes(Vec<u8>);

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Only;
        impl serde::de::Visitor<'_> for Only {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes, and no list of numbers")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        from.deserialize_bytes(Only)
    }
}

fn role(name: &str) -> Fork {
    fork(std::env::current_exe().unwrap()).env(ROLE, name).codec(Codec::Native)
}

fn succeeds(fork: Fork) {
    let child = fork.spawn_parts().unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Code(0));
}

fn read(pipe: &mut Option<std::io::PipeReader>) -> String {
    let mut text = String::new();
    pipe.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn libc_sigkill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}
