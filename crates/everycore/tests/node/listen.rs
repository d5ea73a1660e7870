//! `listen` in a worker is a question to the primary: every form of it, and what becomes of the answer.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use everycore::BoundAddress;
use everycore_peers::Kind;
use serde_json::{Value, json};

use crate::support::{Directory, PATIENCE, Seen, Starts, ask, need_node, policies, read_all};

/// A server that says who it is and where it was reached.
const SERVER: &str = "net.createServer((s) => s.end(`${cluster.worker.id} ${s.localAddress}`))";

fn port(at: &Value) -> u16 {
    at["at"]["port"].as_u64().unwrap_or_else(|| panic!("{at}")).try_into().unwrap()
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn without_a_host_both_families_are_served() {
    let node = need_node!(served);
    for policy in policies(node) {
        let nodes =
            crate::support::Nodes::start(node.cluster(&format!("report({SERVER}, 0)")).policy(policy));
        let at = nodes.said();
        assert_eq!(at["at"]["address"], "::");
        let (_, told) = nodes.listening();
        assert_eq!(told.port(), Some(port(&at)));
        assert_eq!(ask(local(port(&at)), "").unwrap(), "1 ::ffff:127.0.0.1");
        assert_eq!(ask(format!("[::1]:{}", port(&at)).parse().unwrap(), "").unwrap(), "1 ::1");
    }
}

#[test]
fn with_a_host_that_host_alone() {
    let node = need_node!(served);
    for (host, answer) in [("127.0.0.1", "1 127.0.0.1"), ("::1", "1 ::1"), ("localhost", "")] {
        let nodes = node.start(&format!("report({SERVER}, 0, '{host}')"));
        let at = nodes.said();
        let address = nodes.address();
        assert_eq!(
            (address.port(), address.ip().to_string()),
            (port(&at), at["at"]["address"].as_str().unwrap().into())
        );
        assert!(ask(address, "").unwrap().starts_with(answer));
        let other = if address.is_ipv6() { "127.0.0.1" } else { "[::1]" };
        assert!(TcpStream::connect(format!("{other}:{}", address.port())).is_err());
    }
}

#[test]
fn ipv6_alone_where_that_is_asked_for() {
    let node = need_node!(served);
    let nodes = node.start(&format!("report({SERVER}, {{ host: '::', port: 0, ipv6Only: true }})"));
    let port = port(&nodes.said());
    assert!(TcpStream::connect(local(port)).is_err());
    assert_eq!(ask(format!("[::1]:{port}").parse().unwrap(), "").unwrap(), "1 ::1");
}

#[test]
fn several_servers_on_port_zero_have_ports_of_their_own_which_workers_share() {
    let node = need_node!(served);
    let program = format!("report({SERVER}, 0); report({SERVER}, 0);");
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(node.cluster(&program).workers(2).policy(policy));
        let mut ports = [Vec::new(), Vec::new()];
        for _ in 0..4 {
            let (worker, at) = nodes.message();
            ports[worker as usize - 1].push(port(&at));
        }
        for ports in &mut ports {
            ports.sort_unstable();
        }
        assert_ne!(ports[0][0], ports[0][1]);
        assert_eq!(ports[0], ports[1]);
        for port in &ports[0] {
            assert!(!ask(local(*port), "").unwrap().is_empty());
        }
    }
}

#[test]
fn a_fixed_port_is_bound_once_for_all() {
    let node = need_node!(served);
    let at = everycore_peers::own_address();
    let nodes = crate::support::Nodes::start(
        node.cluster(&format!("report({SERVER}, {}, '{}')", at.port(), at.ip())).workers(3),
    );
    assert_eq!(nodes.all_listen(3), at);
    let seen: std::collections::BTreeSet<String> = (0..9).map(|_| ask(at, "").unwrap()).collect();
    assert_eq!(seen.len(), 3, "in turn: {seen:?}");
}

#[test]
fn a_worker_that_listens_twice_on_one_port_hears_that_it_is_in_use() {
    let node = need_node!(served);
    let at = everycore_peers::own_address();
    let listen = format!("report({SERVER}, {}, '{}')", at.port(), at.ip());
    let program = format!("{listen}.on('listening', () => {listen})");
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(node.cluster(&program).policy(policy));
        assert_eq!(nodes.said()["at"]["port"], at.port());
        assert_eq!(nodes.said()["error"], "EADDRINUSE");
        assert_eq!(ask(at, "").unwrap(), format!("1 {}", at.ip()), "the first serves on");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_in_the_worker() {
    let node = need_node!(served);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(
            node.cluster(&format!("report({SERVER}, {port}, '127.0.0.1')")).policy(policy),
        );
        assert_eq!(nodes.said()["error"], "EADDRINUSE");
    }
}

#[test]
fn with_addresses_bound_beforehand_no_others_are_given() {
    let node = need_node!(served);
    let cluster = node
        .cluster("process.on('message', (where) => report(net.createServer((s) => s.end('here')), where))");
    let nodes = crate::support::Nodes::start(cluster.bind("http", "127.0.0.1:0").unwrap());
    let bound = nodes.running().address("http").unwrap().tcp().unwrap();
    nodes.find(|seen| matches!(seen, Seen::Online(_)).then_some(()));
    nodes.send(1, &json!({ "port": 0, "host": "127.0.0.2" }));
    let refusal = nodes.find(|seen| match seen {
        Seen::Other(everycore::Event::Error { reason, .. }) => Some(reason),
        _ => None,
    });
    assert!(refusal.contains(&bound.to_string()), "says what may be listened on: {refusal}");
    assert_eq!(nodes.said()["error"], "EACCES");
    nodes.send(1, &json!({ "port": bound.port(), "host": "127.0.0.1" }));
    assert_eq!(nodes.said()["at"]["port"], bound.port());
    assert_eq!(nodes.address(), bound);
    assert_eq!(ask(bound, "").unwrap(), "here");
}

#[test]
fn a_descriptor_is_one_of_those_bound_beforehand() {
    let node = need_node!(served);
    for policy in policies(node) {
        let cluster = node
            .cluster(&format!("report({SERVER}, {{ fd: 4 }}); report({SERVER}, {{ fd: 9 }})"))
            .bind("first", "127.0.0.1:0")
            .unwrap()
            .bind("second", "127.0.0.1:0")
            .unwrap();
        let nodes = crate::support::Nodes::start(cluster.policy(policy));
        let second = nodes.running().address("second").unwrap().tcp().unwrap();
        let (one, two) = (nodes.said(), nodes.said());
        let (at, error) = if one.get("at").is_some() { (one, two) } else { (two, one) };
        assert_eq!(port(&at), second.port());
        assert_eq!(error["error"], "EBADF");
        assert_eq!(ask(second, "").unwrap(), "1 127.0.0.1");
    }
}

#[test]
fn a_path_and_an_abstract_name() {
    let node = need_node!(served);
    let directory = Directory::new("paths");
    let path = directory.0.join("app.sock");
    let server = "net.createServer((s) => s.end(`unix ${cluster.worker.id}`))";
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(
            node.cluster(&format!("report({server}, '{}')", path.display())).workers(2).policy(policy),
        );
        for _ in 0..2 {
            assert_eq!(nodes.listening().1, BoundAddress::Unix(path.clone()));
        }
        assert!(read_all(UnixStream::connect(&path).unwrap()).unwrap().starts_with("unix "));
        nodes.primary().disconnect_all().unwrap();
        nodes.end();
        assert!(!path.exists(), "removed with the last worker");
    }
}

#[test]
fn an_abstract_name() {
    use std::os::linux::net::SocketAddrExt;
    let node = need_node!(served);
    let name = format!("everycore-{}", std::process::id());
    let nodes = node.start(&format!("report(net.createServer((s) => s.end('abstract')), '\\0{name}')"));
    nodes.listening();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    assert_eq!(read_all(UnixStream::connect_addr(&address).unwrap()).unwrap(), "abstract");
}

#[test]
fn a_path_longer_than_the_kernel_takes() {
    let node = need_node!(served);
    let directory = Directory::new("long");
    let deep = directory.0.join("d".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("app.sock");
    let nodes = node.start(&format!("report(net.createServer((s) => s.end('far')), '{}')", path.display()));
    assert_eq!(nodes.listening().1, BoundAddress::Unix(path.clone()));
    let here = std::fs::File::open(&deep).unwrap();
    let short = format!("/proc/self/fd/{}/app.sock", std::os::fd::AsRawFd::as_raw_fd(&here));
    assert_eq!(read_all(UnixStream::connect(short).unwrap()).unwrap(), "far");
}

#[test]
fn access_to_a_path_for_all() {
    use std::os::unix::fs::PermissionsExt;
    let node = need_node!(served);
    let directory = Directory::new("access");
    let path = directory.0.join("app.sock");
    let how = format!("{{ path: '{}', readableAll: true, writableAll: true }}", path.display());
    let nodes = node.start(&format!("report(net.createServer(), {how})"));
    nodes.listening();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o666, 0o666);
}

#[test]
fn udp_is_always_shared() {
    let node = need_node!(served);
    let program = "const s = dgram.createSocket('udp4');
         s.on('message', (text, from) => s.send(`${text} to ${cluster.worker.id}`, from.port, from.address));
         s.bind(0, '127.0.0.1', () => process.send({ at: s.address() }))";
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(node.cluster(program).workers(2).policy(policy));
        let ports = [port(&nodes.said()), port(&nodes.said())];
        assert_eq!(ports[0], ports[1]);
        assert!(matches!(nodes.listening().1, BoundAddress::Udp(at) if at.port() == ports[0]));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"hello", local(ports[0])).unwrap();
        let mut answer = [0; 64];
        let (length, _) = client.recv_from(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"hello to "));
    }
}

#[test]
fn udp_of_the_other_family_and_several_on_one_port() {
    let node = need_node!(served);
    let nodes = node.start(
        "const one = dgram.createSocket({ type: 'udp6', reuseAddr: true });
         one.bind({ port: 0, address: '::1' }, () => {
           const two = dgram.createSocket({ type: 'udp6', reuseAddr: true });
           two.bind({ port: one.address().port, address: '::1' }, () => process.send([one.address(), two.address()]));
         })",
    );
    let at = nodes.said();
    assert_eq!(at[0]["address"], "::1");
    assert_eq!(at[0]["port"], at[1]["port"]);
}

#[test]
fn sockets_of_a_workers_own_are_none_of_the_primarys_business() {
    let node = need_node!(served);
    let alone =
        if node.major >= 23 { "{ port: 0, reusePort: true }" } else { "{ port: 0, exclusive: true }" };
    let nodes = node.start(&format!(
        "report({SERVER}, {{ port: 0, exclusive: true }}).on('listening', () =>
           report({SERVER}, {alone}).on('listening', () => {{
             const sends = dgram.createSocket('udp4');
             sends.send('x', 9, '127.0.0.1', () => report({SERVER}, 0));
           }}))"
    ));
    let ports = [port(&nodes.said()), port(&nodes.said()), port(&nodes.said())];
    assert_eq!(nodes.address().port(), ports[2], "only the last was asked for");
    for port in ports {
        assert!(!ask(local(port), "").unwrap().is_empty());
    }
}

#[test]
fn a_short_backlog_and_a_long_one() {
    let node = need_node!(served);
    for backlog in ["1", "4096", "0", "undefined"] {
        let nodes =
            node.start(&format!("report({SERVER}, {{ port: 0, host: '127.0.0.1', backlog: {backlog} }})"));
        assert_eq!(ask(nodes.address(), "").unwrap(), "1 127.0.0.1", "backlog {backlog}");
    }
}

#[test]
fn the_last_to_close_closes_the_port_and_it_can_be_opened_again() {
    let node = need_node!(served);
    let program = "const server = net.createServer((s) => s.end('here'));
         process.on('message', (what) => what === 'close'
           ? server.close(() => process.send('closed'))
           : server.listen(what, '127.0.0.1', () => process.send(server.address().port)));
         server.listen(0, '127.0.0.1', () => process.send(server.address().port))";
    for policy in policies(node) {
        let nodes = crate::support::Nodes::start(node.cluster(program).workers(2).policy(policy));
        let port = nodes.said();
        assert_eq!(nodes.said(), port);
        let at = local(port.as_u64().unwrap().try_into().unwrap());
        nodes.send(1, &json!("close"));
        assert_eq!(nodes.message(), (1, json!("closed")));
        assert_eq!(ask(at, "").unwrap(), "here", "the other serves on");
        nodes.send(2, &json!("close"));
        assert_eq!(nodes.message(), (2, json!("closed")));
        crate::support::until("the port is closed", || TcpStream::connect(at).is_err());
        nodes.send(2, &port);
        assert_eq!(nodes.message(), (2, port));
        assert_eq!(ask(at, "").unwrap(), "here");
    }
}

#[test]
fn the_first_workers_data_is_given_to_all() {
    let node = need_node!(served);
    if node.kind != Kind::Node {
        return everycore_peers::pass_over("the test asks through internals of Node's cluster");
    }
    // What TLS servers do with their ticket keys; here said directly, for want of a certificate.
    let nodes = crate::support::Nodes::start(
        node.cluster(
            "process.on('internalMessage', (message) => { if (message.ack === 1000) process.send({ data: message.data, key: message.key }) });
             raw(JSON.stringify({ cmd: 'NODE_CLUSTER', act: 'queryServer', seq: 1000, index: 0, address: '127.0.0.1', port: 0,
               addressType: 4, data: { ticketKeys: String(cluster.worker.id) } }) + '\\n')",
        )
        .workers(2),
    );
    let (one, two) = (nodes.said(), nodes.said());
    assert_eq!(one["data"], two["data"]);
    assert_eq!(one["key"], two["key"]);
    assert!(["1", "2"].contains(&one["data"]["ticketKeys"].as_str().unwrap()));
}
