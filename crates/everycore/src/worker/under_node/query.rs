//! The fields of Node's `queryServer` for an address of ours.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::address::Address;

/// What Node's primary has to know; it comes again with `listening`. Written as Node's own workers do, since their keys
/// are made of it: a program of ours and one of Node's then share one socket.
pub(super) fn fields(address: &Address, index: u32, backlog: Option<u32>) -> Map<String, Value> {
    let (host, port, family) = match address {
        Address::Any { port } => (Value::Null, json!(port), json!(4)),
        Address::Tcp(at) => (host(at), json!(at.port()), json!(if at.is_ipv6() { 6 } else { 4 })),
        Address::Unix(path) => (json!(path.to_string_lossy()), json!(-1), json!(-1)),
        Address::Udp(at) => (host(at), json!(at.port()), json!(if at.is_ipv6() { "udp6" } else { "udp4" })),
        // Nobody asks for one here: `Worker` says why not.
        Address::Inherited(_) => (Value::Null, Value::Null, Value::Null),
    };
    let mut fields = Map::new();
    fields.insert("index".into(), index.into());
    fields.insert("data".into(), Value::Null);
    fields.insert("address".into(), host);
    fields.insert("port".into(), port);
    fields.insert("addressType".into(), family);
    match address {
        Address::Udp(_) => {
            fields.insert("fd".into(), (-1).into());
            fields.insert("flags".into(), 0.into());
        }
        // An address of IPv6 is bound for IPv6 alone.
        Address::Tcp(SocketAddr::V6(_)) => {
            fields.insert("flags".into(), 1.into());
        }
        _ => {}
    }
    fields.insert("backlog".into(), backlog.unwrap_or(0).into());
    fields
}

fn host(at: &SocketAddr) -> Value {
    match at {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => json!(format!("{}%{}", v6.ip(), v6.scope_id())),
        at => json!(at.ip().to_string()),
    }
}
