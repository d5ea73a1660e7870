//! The kernel's limit of descriptors on their way, which only processes without privileges meet. Run as root, the test
//! starts itself again as nobody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use everycore_ipc::{Codec, Connection, Flush, Handle, Limits, Message, Received, blocking::Channel};
use everycore_sys::socket_pair::stream_pair;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

const NOBODY: u32 = 65534;
const COUNT: usize = 300;

fn pair(codec: Codec, unanswered: usize) -> (Connection, Connection) {
    let (here, there) = stream_pair().unwrap();
    let limits = Limits { unanswered, ..Limits::default() };
    let here = Connection::new(here, codec, limits).unwrap();
    (here, Connection::new(there, codec, limits).unwrap())
}

#[test]
fn the_limit_is_back_pressure_and_no_error() {
    if geteuid().is_root() {
        return run_as_nobody();
    }
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: old.maximum }).unwrap();
    event_loop();
    threads(Codec::Native);
    threads(Codec::Json);
    under_tokio();
}

fn message(file: impl AsFd) -> Message {
    Message::json("m").unwrap().with_handle(Handle::duplicate(file).unwrap())
}

fn event_loop() {
    let (mut here, mut there) = pair(Codec::Native, 1);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut sent, mut throttled) = (0, false);
    while sent < COUNT {
        here.queue(message(&socket)).unwrap();
        sent += 1;
        if here.flush().unwrap() == Flush::Throttled {
            throttled = true;
            assert!(here.is_throttled() && !here.wants_write(), "waiting for writability would spin");
            break;
        }
    }
    assert!(throttled, "{sent} descriptors were on their way at a limit of 64");
    let mut seen = 0;
    while seen < sent {
        while let Received::Message(incoming) = there.receive().unwrap() {
            seen += incoming.message().handles().len();
        }
        assert!(matches!(here.flush().unwrap(), Flush::Done | Flush::Throttled));
    }
}

fn threads(codec: Codec) {
    let (here, there) = pair(codec, 8);
    let (here, there) = (Channel::new(here), Channel::new(there));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..COUNT).for_each(|_| here.send_message(message(&socket)).unwrap()));
        for _ in 0..COUNT {
            let message = there.recv_deadline(Instant::now() + Duration::from_secs(30)).unwrap().unwrap();
            assert_eq!((message.handles().len(), message.lost_handles()), (1, 0));
        }
    });
}

fn under_tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, there) = pair(Codec::Native, 1);
    let (here, there) = (everycore_ipc::Channel::new(here), everycore_ipc::Channel::new(there));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sending = async {
        for _ in 0..COUNT {
            here.send_message(message(&socket)).await.unwrap();
            while here.with_connection(|connection| connection.is_throttled()) {
                tokio::task::yield_now().await;
            }
        }
    };
    runtime.block_on(async {
        let receiving = tokio::spawn(async move {
            for _ in 0..COUNT {
                assert_eq!(there.recv().await.unwrap().unwrap().handles().len(), 1);
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(30), async {
            sending.await;
            receiving.await.unwrap();
        })
        .await
        .expect("nothing moved for 30 s");
    });
}

fn run_as_nobody() {
    // A copy, since nobody may perhaps not enter where it was built.
    let test = std::env::temp_dir().join(format!("everycore-in-flight-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let again = everycore_ipc::fork(&test)
        .args(["--exact", "the_limit_is_back_pressure_and_no_error", "--nocapture"])
        .without_channel()
        .cwd("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .spawn_parts();
    let again = again.map(|parts| parts.pidfd.wait().unwrap());
    std::fs::remove_file(&test).unwrap();
    match again {
        Ok(status) => assert!(status.success(), "the same test fails as nobody"),
        Err(error) => everycore_peers::skip(&format!("{} cannot be run as nobody: {error}", test.display())),
    }
}
