//! A Node worker that does not keep to the rules costs nobody but itself.

use everycore::{Dialect, Event, Policy, Serialization};
use everycore_peers::Kind;

use crate::support::{Nodes, Runtime, Seen, Starts, ask, need_node};

/// Two workers that serve; the first of them then does something.
fn with(node: &Runtime, policy: Policy, what: &str) -> Option<(Nodes, std::net::SocketAddr)> {
    // It writes to its channel's descriptor, which only Node shows.
    if node.kind != Kind::Node {
        everycore_peers::pass_over(
            "the test writes to the descriptor of its channel, which Node alone shows",
        );
        return None;
    }
    let nodes = Nodes::start(
        node.cluster(&format!(
            "process.on('uncaughtException', () => {{}});
             const cluster_message = (fields) => raw(JSON.stringify({{ cmd: 'NODE_CLUSTER', ...fields }}) + '\\n');
             report(net.createServer((s) => {{ s.on('error', () => {{}}); s.end(String(cluster.worker.id)) }}), 0, '127.0.0.1')
               .on('listening', () => {{ if (cluster.worker.id === 1) process.on('message', () => {{ {what} }}) }})"
        ))
        .workers(2)
        .policy(policy)
        .graceful_timeout(std::time::Duration::from_millis(200)),
    );
    let at = nodes.all_listen(2);
    nodes.send(1, &"go".into());
    Some((nodes, at))
}

/// The channel of the first worker is closed, and told why; the second serves on.
fn costs_it_its_channel(what: &str, why: &str) {
    let node = need_node!();
    let Some((nodes, at)) = with(node, Policy::RoundRobin, what) else { return };
    nodes.find(|seen| match seen {
        Seen::Other(Event::Error { worker, reason }) if worker.id == 1 && reason.contains(why) => Some(()),
        _ => None,
    });
    let (worker, _, agreed) = nodes.exit();
    assert_eq!((worker, agreed), (1, false));
    for _ in 0..10 {
        assert_eq!(ask(at, "").unwrap(), "2");
    }
}

#[test]
fn what_is_no_message() {
    let node = need_node!();
    let Some((nodes, at)) = with(node, Policy::RoundRobin, "raw('this is no JSON\\n'); process.send('done')")
    else {
        return;
    };
    let odd = nodes.find(|seen| match seen {
        Seen::Message(1, message) if message.bytes().starts_with(b"this") => Some(message),
        _ => None,
    });
    assert!(odd.parse::<serde_json::Value>().is_err(), "it is for the program to find out");
    assert_eq!(nodes.said(), "done");
    assert!(["1", "2"].contains(&&*ask(at, "").unwrap()));
}

#[test]
fn an_empty_line() {
    costs_it_its_channel("raw('\\n')", "not a message");
}

#[test]
fn an_acknowledgement_of_nothing() {
    costs_it_its_channel("raw('{\"cmd\":\"NODE_HANDLE_ACK\"}\\n')", "not a message");
}

#[test]
fn a_message_of_the_library_that_cannot_be_read() {
    costs_it_its_channel("raw('{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"x\":1e999}\\n')", "malformed");
    costs_it_its_channel(
        "raw('{\"cmd\":\"NODE_CLUSTER\",\"x\":' + '['.repeat(5000) + ']'.repeat(5000) + '}\\n')",
        "malformed",
    );
}

#[test]
fn a_flood_of_questions() {
    costs_it_its_channel(
        "for (let seq = 1000; ; seq++)
           cluster_message({ act: 'queryServer', seq, index: seq, address: 'nowhere', port: 0, addressType: 4 })",
        "asked 1000 times for listeners in vain",
    );
}

#[test]
fn addresses_it_makes_up() {
    let node = need_node!();
    let Some((nodes, at)) = with(
        node,
        Policy::RoundRobin,
        "for (let port = 1; port <= 1100; port++)
           cluster_message({ act: 'listening', address: '127.0.0.1', port, addressType: 4, index: 0, 'everycore:own': true })",
    ) else {
        return;
    };
    nodes.find(|seen| match seen {
        Seen::Other(Event::Error { worker, reason })
            if worker.id == 1 && reason.contains("1024 addresses of its own") =>
        {
            Some(())
        }
        _ => None,
    });
    for _ in 0..10 {
        assert!(["1", "2"].contains(&&*ask(at, "").unwrap()));
    }
}

/// The first worker serves on, too: what it said is ignored.
fn is_ignored(what: &str) {
    let node = need_node!();
    let Some((nodes, at)) = with(node, Policy::RoundRobin, &format!("{what}; process.send('done')")) else {
        return;
    };
    nodes.find(|seen| {
        matches!(&seen, Seen::Message(1, m) if m.parse::<String>().is_ok_and(|m| m == "done")).then_some(())
    });
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..10 {
        served.insert(ask(at, "").unwrap());
    }
    assert_eq!(served.len(), 2, "{served:?}");
}

#[test]
fn acts_and_answers_that_mean_nothing() {
    is_ignored(
        "cluster_message({ act: 'dance', seq: 1000 });
         cluster_message({ ack: 12345, accepted: true });
         cluster_message({ ack: 12346, accepted: false });
         cluster_message({ ack: -1, accepted: true, seq: 1 });
         cluster_message({ act: 'listening', address: '127.0.0.1', port: 1, addressType: 4, index: 0 });
         cluster_message({ act: 'listening' });
         cluster_message({ act: 'online', seq: 0 });
         cluster_message({ act: 'everycore:report', closed: 1e15 });
         cluster_message({ act: 'queryServer', addressType: 4, port: 0 });
         raw('{\"cmd\":\"NODE_SOMETHING\"}\\n');
         raw('{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",}\\n')",
    );
}

#[test]
fn servers_of_others_cannot_be_closed() {
    is_ignored(
        "for (let key = 0; key < 20; key++) if (key !== 1) cluster_message({ act: 'close', key: String(key) })",
    );
}

#[test]
fn questions_that_make_no_sense_are_answered_with_errors() {
    let node = need_node!();
    let Some((nodes, at)) = with(
        node,
        Policy::RoundRobin,
        "const wrong = [{ addressType: 'x' }, { addressType: 4, port: 1e6 }, { addressType: 4, address: 'x', port: 0 },
           { addressType: -1 }, {}, { fd: 0 }, { fd: 99 }, { addressType: 4, port: 0, data: 'x'.repeat(1e6) }];
         process.on('internalMessage', (m) => { if (m.ack >= 1000) process.send([m.ack - 1000, m.errno]) });
         wrong.forEach((query, i) => cluster_message({ act: 'queryServer', seq: 1000 + i, ...query }));",
    ) else {
        return;
    };
    let mut errors = vec![0; 8];
    for _ in 0..8 {
        let (number, errno): (usize, i64) = nodes.find(|seen| match seen {
            Seen::Message(1, message) => message.parse().ok(),
            _ => None,
        });
        errors[number] = errno;
    }
    let (invalid, bad_descriptor) = (-22, -9);
    assert_eq!(
        errors,
        [invalid, invalid, invalid, invalid, invalid, bad_descriptor, bad_descriptor, invalid]
    );
    assert!(["1", "2"].contains(&&*ask(at, "").unwrap()));
}

#[test]
fn no_more_listeners_than_anybody_needs() {
    let node = need_node!();
    let Some((nodes, at)) = with(
        node,
        Policy::RoundRobin,
        "let granted = 0, refused = 0;
         process.on('internalMessage', (m) => {
           if (m.ack < 1000) return;
           m.errno ? refused++ : granted++;
           if (granted + refused === 1500) process.send({ granted, refused, errno: m.errno });
         });
         for (let seq = 1000; seq < 2500; seq++)
           cluster_message({ act: 'queryServer', seq, index: seq, address: '127.0.0.1', port: 0, addressType: 4 })",
    ) else {
        return;
    };
    let counts = nodes.find(|seen| match seen {
        Seen::Message(1, message) => {
            message.parse::<serde_json::Value>().ok().filter(|m| m.get("granted").is_some())
        }
        _ => None,
    });
    assert_eq!(counts["granted"], 1023, "besides the one it serves: {counts}");
    assert_eq!(counts["errno"], -24);
    assert!(["1", "2"].contains(&&*ask(at, "").unwrap()));
}

#[test]
fn nonsense_in_the_advanced_mode() {
    let node = need_node!();
    if node.kind != Kind::Node {
        return everycore_peers::pass_over(
            "the test writes to the descriptor of its channel, which Node alone shows",
        );
    }
    for frame in ["00 00 00 00", "00 00 00 02 ff 0f", "00 00 00 03 41 42 43", "7f ff ff ff ff 0f"] {
        let nodes = Nodes::start(
            node.cluster(&format!(
                "process.on('uncaughtException', () => {{}});
                 report(net.createServer((s) => s.end(String(cluster.worker.id))), 0, '127.0.0.1').on('listening', () => {{
                   if (cluster.worker.id === 1) fs.writeSync(process.channel.fd, Buffer.from('{frame}'.replace(/ /g, ''), 'hex'));
                 }})"
            ))
            .dialect(Dialect::Node(Serialization::Advanced))
            .workers(2)
            .graceful_timeout(std::time::Duration::from_millis(200)),
        );
        let reason = nodes.find(|seen| match seen {
            Seen::Other(Event::Error { worker, reason }) if worker.id == 1 => Some(reason),
            // A payload that cannot be read is the program's to deal with, as in Node.
            Seen::Message(1, message) if message.parse::<serde_json::Value>().is_err() => Some(String::new()),
            _ => None,
        });
        assert!(reason.is_empty() || reason.contains("not a message"), "{frame}: {reason}");
    }
}
