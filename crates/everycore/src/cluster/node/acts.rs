//! Node's cluster messages (`NODE_CLUSTER`) as typed values and back. Pure.
//!
//! What a real Node worker says and understands, on Node 18 to 26. A worker is not trusted: what does not decode is an
//! error that costs that worker its channel. Unknown acts and answers to nothing are ignored, as Node ignores them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use everycore_core::ListenerKey;
use serde_json::{Map, Value, json};

use crate::address::{Address, BoundAddress};
use crate::protocol::ProtocolError;

/// Worker → primary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FromNode {
    /// First message of every worker, before its program runs.
    Online,
    /// Asks for a server.
    QueryServer { seq: i64, query: Query },
    /// The server listens; the query's fields again, with the real port.
    Listening { query: Query },
    /// The answer to `newconn`.
    Accepted { ack: i64, accepted: bool },
    /// The server closed.
    Close { key: String },
    /// Leaves by its own wish, and waits for the answer.
    ExitedAfterDisconnect { seq: i64 },
    /// From our own preloaded hook: connections closed and event-loop state.
    Report { closed: u64 },
    /// Nothing the primary has to know of.
    Other,
}

/// Which server a worker means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) what: Asked,
    /// Tells several servers on one address in one worker apart.
    pub(crate) index: i64,
    pub(crate) backlog: Option<u32>,
    /// Opaque; the first worker's is given to all, so that TLS tickets agree.
    pub(crate) data: Value,
    /// Access for everybody to a Unix socket: `readableAll`, `writableAll`.
    pub(crate) all: (bool, bool),
}

/// The address of a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// A stream address.
    Stream { address: Address, only_v6: bool },
    /// A UDP address; `None` is every address of the family.
    Datagram { ip: Option<IpAddr>, port: u16, v6: bool, only_v6: bool, reuse: bool },
    /// A descriptor number of the primary, as `listen({fd})` gives it.
    Descriptor(i32),
}

impl FromNode {
    pub(crate) fn decode(message: &Value) -> Result<Self, ProtocolError> {
        let Some(fields) = message.as_object() else { return Ok(Self::Other) };
        if let Some(ack) = fields.get("ack").and_then(Value::as_i64) {
            let accepted = fields.get("accepted").and_then(Value::as_bool);
            return Ok(accepted.map_or(Self::Other, |accepted| Self::Accepted { ack, accepted }));
        }
        match fields.get("act").and_then(Value::as_str) {
            Some("online") => Ok(Self::Online),
            Some("queryServer") => Ok(Self::QueryServer { seq: seq(fields)?, query: Query::decode(fields)? }),
            Some("listening") => Ok(Self::Listening { query: Query::decode(fields)? }),
            Some("close") => Ok(Self::Close { key: text(fields, "key")?.to_owned() }),
            Some("exitedAfterDisconnect") => Ok(Self::ExitedAfterDisconnect { seq: seq(fields)? }),
            Some("everycore:report") => {
                Ok(Self::Report { closed: fields.get("closed").and_then(Value::as_u64).unwrap_or(0) })
            }
            Some(_) | None => Ok(Self::Other),
        }
    }
}

impl Query {
    fn decode(fields: &Map<String, Value>) -> Result<Self, ProtocolError> {
        Ok(Self {
            what: Asked::decode(fields)?,
            index: present(fields, "index").and_then(Value::as_i64).unwrap_or(0),
            // `0`, `false` and nothing at all mean the default.
            backlog: present(fields, "backlog")
                .and_then(Value::as_u64)
                .filter(|backlog| *backlog > 0)
                .map(|backlog| u32::try_from(backlog).unwrap_or(u32::MAX)),
            data: present(fields, "data").cloned().unwrap_or(Value::Null),
            all: (truth(fields, "readableAll"), truth(fields, "writableAll")),
        })
    }
}

impl Asked {
    fn decode(fields: &Map<String, Value>) -> Result<Self, ProtocolError> {
        let flags = present(fields, "flags").and_then(Value::as_u64).unwrap_or(0);
        let host = present(fields, "address").and_then(Value::as_str);
        let port = || {
            let port = present(fields, "port").and_then(Value::as_i64).unwrap_or(0);
            u16::try_from(port).map_err(|_| wrong("port", &port.to_string()))
        };
        match present(fields, "addressType") {
            Some(Value::String(family)) => {
                let v6 = match family.as_str() {
                    "udp4" => false,
                    "udp6" => true,
                    other => return Err(wrong("addressType", other)),
                };
                let ip = host.filter(|host| !host.is_empty()).map(parse_ip).transpose()?;
                Ok(Self::Datagram { ip, port: port()?, v6, only_v6: flags & 1 != 0, reuse: flags & 4 != 0 })
            }
            Some(Value::Number(family)) if family.as_i64() == Some(-1) => {
                let path = host.ok_or_else(|| wrong("address", "null"))?;
                // An abstract name comes with the worker's directory in front of its NUL.
                let path = path.find('\0').map_or(path, |nul| &path[nul..]);
                Ok(Self::Stream { address: Address::Unix(PathBuf::from(path)), only_v6: false })
            }
            Some(Value::Number(_)) => {
                let port = port()?;
                let only_v6 = flags & 1 != 0;
                let address = match host {
                    Some(host) => Address::Tcp(SocketAddr::new(parse_ip(host)?, port)),
                    None => Address::Any { port },
                };
                Ok(Self::Stream { address, only_v6 })
            }
            _ => {
                let descriptor = present(fields, "fd").and_then(Value::as_i64).filter(|fd| *fd >= 0);
                let descriptor = descriptor.and_then(|fd| i32::try_from(fd).ok());
                descriptor.map(Self::Descriptor).ok_or_else(|| wrong("addressType", "null"))
            }
        }
    }
}

/// The answer to a query whose connections will be handed over one by one.
pub(crate) fn handed_over(seq: i64, ack: i64, key: &str, data: &Value, at: &BoundAddress) -> Value {
    let mut reply = json!({
        "cmd": "NODE_CLUSTER", "errno": null, "key": key, "ack": ack, "data": data, "seq": seq,
    });
    if let BoundAddress::Tcp(address) = at {
        reply["sockname"] = json!({
            "address": address.ip().to_string(),
            "family": if address.is_ipv6() { "IPv6" } else { "IPv4" },
            "port": address.port(),
        });
    }
    reply
}

/// The answer to a query that the listening socket itself rides on.
pub(crate) fn shared(seq: i64, ack: i64, key: &str, data: &Value) -> Value {
    json!({"cmd": "NODE_CLUSTER", "errno": 0, "key": key, "ack": ack, "data": data, "seq": seq})
}

/// The answer to a query that failed. `errno` counts upwards here and goes out negative: a positive number would
/// throw in the worker.
pub(crate) fn refused(seq: i64, ack: i64, key: &str, errno: i32) -> Value {
    let errno = -errno.abs().max(1);
    json!({"cmd": "NODE_CLUSTER", "errno": errno, "key": key, "ack": ack, "data": null, "seq": seq})
}

/// A connection; the socket rides on it.
pub(crate) fn new_connection(seq: i64, key: &str) -> Value {
    json!({"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": seq})
}

/// What a worker is told to call a listener by.
pub(crate) fn key(listener: ListenerKey) -> String {
    listener.to_string()
}

/// The listener of a key, if it is one of ours.
pub(crate) fn listener(key: &str) -> Option<ListenerKey> {
    key.parse().ok().map(ListenerKey::new)
}

/// Close the servers, drain, leave.
pub(crate) fn disconnect(seq: i64) -> Value {
    json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": seq})
}

/// A plain answer.
pub(crate) fn ack(seq: i64, ack: i64) -> Value {
    json!({"cmd": "NODE_CLUSTER", "ack": ack, "seq": seq})
}

/// `undefined` (absent) and `null` mean the same everywhere in these messages.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn truth(fields: &Map<String, Value>, name: &str) -> bool {
    present(fields, name).and_then(Value::as_bool).unwrap_or(false)
}

fn seq(fields: &Map<String, Value>) -> Result<i64, ProtocolError> {
    fields.get("seq").and_then(Value::as_i64).ok_or_else(|| wrong("seq", "nothing"))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, ProtocolError> {
    present(fields, name).and_then(Value::as_str).ok_or_else(|| wrong(name, "nothing"))
}

fn parse_ip(text: &str) -> Result<IpAddr, ProtocolError> {
    // A scope such as `%eth0` names an interface of this machine; the address alone decides where we bind.
    let plain = text.split('%').next().unwrap_or(text);
    plain.parse().map_err(|_| wrong("address", text))
}

fn wrong(field: &str, value: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' cannot be '{value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<FromNode, ProtocolError> {
        FromNode::decode(&serde_json::from_str(text).unwrap())
    }

    fn asked(text: &str) -> Asked {
        match decode(text).unwrap() {
            FromNode::QueryServer { query, .. } => query.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_node_20_sends_is_understood() {
        assert_eq!(decode(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#), Ok(FromNode::Online));
        let query = decode(
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":8000,"addressType":4,"backlog":0,"seq":1}"#,
        );
        let expected = Query {
            what: Asked::Stream { address: Address::Any { port: 8000 }, only_v6: false },
            index: 0,
            backlog: None,
            data: Value::Null,
            all: (false, false),
        };
        assert_eq!(query, Ok(FromNode::QueryServer { seq: 1, query: expected }));
        assert_eq!(
            decode(r#"{"cmd":"NODE_CLUSTER","ack":2,"accepted":true,"seq":3}"#),
            Ok(FromNode::Accepted { ack: 2, accepted: true })
        );
        assert_eq!(decode(r#"{"cmd":"NODE_CLUSTER","act":"dance","seq":3}"#), Ok(FromNode::Other));
    }

    #[test]
    fn every_form_of_address_is_read() {
        let query = |fields: &str| {
            asked(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,{fields}}}"#))
        };
        assert_eq!(
            query(r#""address":"127.0.0.1","port":80,"addressType":4,"backlog":false"#),
            Asked::Stream { address: Address::Tcp("127.0.0.1:80".parse().unwrap()), only_v6: false }
        );
        assert_eq!(
            query(r#""address":"::1","port":80,"addressType":6,"flags":1"#),
            Asked::Stream { address: Address::Tcp("[::1]:80".parse().unwrap()), only_v6: true }
        );
        assert_eq!(
            query(r#""address":"/srv/x.sock","port":-1,"addressType":-1"#),
            Asked::Stream { address: Address::Unix("/srv/x.sock".into()), only_v6: false }
        );
        assert_eq!(
            query(r#""address":"/home/\u0000x","port":-1,"addressType":-1"#),
            Asked::Stream { address: Address::Unix("\0x".into()), only_v6: false }
        );
        assert_eq!(
            query(r#""address":"0.0.0.0","port":8557,"addressType":"udp4","fd":-1,"flags":4"#),
            Asked::Datagram {
                ip: Some("0.0.0.0".parse().unwrap()),
                port: 8557,
                v6: false,
                only_v6: false,
                reuse: true
            }
        );
        assert_eq!(query(r#""address":null,"port":null,"addressType":null,"fd":9"#), Asked::Descriptor(9));
    }

    #[test]
    fn hostile_queries_are_errors() {
        for fields in [
            r#""address":"x","port":80,"addressType":4"#,
            r#""address":null,"port":99999,"addressType":4"#,
            r#""address":null,"port":1,"addressType":"udp9""#,
            r#""address":null,"port":-1,"addressType":-1"#,
            r#""address":null"#,
        ] {
            let text = format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,{fields}}}"#);
            assert!(decode(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn replies_have_the_fields_node_reads() {
        let at = BoundAddress::Tcp("[::]:8000".parse().unwrap());
        assert_eq!(
            handed_over(0, 1, "k", &Value::Null, &at).to_string(),
            json!({"cmd":"NODE_CLUSTER","errno":null,"key":"k","ack":1,"data":null,
                "sockname":{"address":"::","family":"IPv6","port":8000},"seq":0})
            .to_string()
        );
        assert_eq!(refused(1, 2, "k", 98)["errno"], -98);
        assert_eq!(shared(1, 2, "k", &Value::Null)["errno"], 0);
    }
}
