//! A primary that runs out of descriptors in the middle of an answer. A program of its own, since it limits its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "shared by several modules, each uses a part")]

#[path = "node/support.rs"]
mod support;

use std::fs::File;
use std::os::fd::AsRawFd;

use everycore::{Event, Policy};
use everycore_peers::Kind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{Nodes, Seen, Starts, need_node};

#[test]
fn a_listener_that_could_not_be_passed_on_can_be_asked_for_again() {
    let node = need_node!();
    if node.kind != Kind::Node {
        return everycore_peers::pass_over("Node alone takes a socket from its primary");
    }
    let at = everycore_peers::own_address();
    let (host, port) = (at.ip(), at.port());
    let program = format!(
        "process.on('message', () => report(net.createServer(), {port}, '{host}')); process.send('here')"
    );
    let nodes = Nodes::start(node.cluster(&program).policy(Policy::Shared));
    assert_eq!(nodes.said(), "here");
    let limits = getrlimit(Resource::Nofile);
    // Enough to bind, and none left for the worker's copy.
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    let one_more = Rlimit { current: Some(u64::try_from(next).unwrap() + 1), ..limits };
    setrlimit(Resource::Nofile, one_more).unwrap();
    nodes.send(1, &json!("go"));
    nodes.find(|seen| match seen {
        Seen::Other(Event::Error { reason, .. }) => {
            assert!(reason.contains("cannot pass the listener on"), "{reason}");
            Some(())
        }
        _ => None,
    });
    assert_eq!(nodes.said(), json!({"error": "EMFILE"}));
    setrlimit(Resource::Nofile, limits).unwrap();
    nodes.send(1, &json!("go"));
    let said = nodes.said();
    assert_eq!(said["at"]["port"], json!(port), "{said}");
}
