//! Node's cluster messages (`NODE_CLUSTER`) as typed values and back. Pure, but for the numbers of network
//! interfaces.
//!
//! What a real Node worker says and understands, on Node 18 to 26. A worker is not trusted: a query that makes no sense
//! is answered with an error, and what cannot be understood at all is ignored, as Node ignores it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use everycore_core::ListenerKey;
use everycore_ipc::Message;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Map, Value, json};

use crate::address::{Address, BoundAddress};
use crate::protocol::ProtocolError;

/// What a worker may have kept for the others with a listener. Ticket keys of TLS take a hundred.
const DATA: usize = 16 << 10;

/// More than this a loop is not said to have been late.
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// `EINVAL`.
const INVALID: i32 = 22;

/// Worker → primary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FromNode {
    /// First message of every worker, before its program runs.
    Online,
    /// Asks for a server; what was asked, or what is wrong with the question.
    QueryServer { seq: i64, query: Result<Query, ProtocolError> },
    /// The server listens; the query's fields again, with the real port.
    Listening { query: Query },
    /// The answer to `newconn`.
    Accepted { ack: i64, accepted: bool },
    /// The server closed.
    Close { key: String },
    /// Leaves by its own wish, and waits for the answer.
    ExitedAfterDisconnect { seq: Option<i64> },
    /// From our own preloaded script: connections that are open, and by how much the event loop was late.
    Report { live: u64, late: Duration, is_deno: bool },
    /// Nothing the primary has to know of.
    Other,
}

/// Which server a worker means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub(crate) what: Asked,
    /// Tells several servers on one address in one worker apart.
    pub(crate) index: u64,
    pub(crate) backlog: Option<u32>,
    /// Opaque; the first worker's is given to all, so that TLS tickets agree.
    pub(crate) data: Value,
    /// Access for everybody to a Unix socket: `readableAll`, `writableAll`.
    pub(crate) all: (bool, bool),
    /// Our script tells of a server that never asked.
    pub(crate) is_own: bool,
}

/// The address of a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// A stream address.
    Stream { address: Address, only_v6: bool },
    /// A UDP address.
    Datagram { at: SocketAddr, only_v6: bool, reuse: bool },
    /// A descriptor number of the primary, as `listen({fd})` gives it.
    Descriptor(i32),
}

impl FromNode {
    /// The answer to `newconn` in just the words of Node, or `None` for anything else: there is one for every connection.
    pub(crate) fn accepted(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(br#"{"cmd":"NODE_CLUSTER","ack":"#)?;
        let (ack, rest) = digits(rest)?;
        let rest = rest.strip_prefix(br#","accepted":"#)?;
        let (accepted, rest) = match rest.strip_prefix(b"true") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix(b"false")?),
        };
        let (_, rest) = digits(rest.strip_prefix(br#","seq":"#)?)?;
        (rest == b"}").then_some(Self::Accepted { ack, accepted })
    }

    pub(crate) fn decode(message: &Value) -> Self {
        let Some(fields) = message.as_object() else { return Self::Other };
        let seq = fields.get("seq").and_then(Value::as_i64);
        if let Some(ack) = fields.get("ack").and_then(Value::as_i64) {
            let accepted = fields.get("accepted").and_then(Value::as_bool);
            return accepted.map_or(Self::Other, |accepted| Self::Accepted { ack, accepted });
        }
        match (fields.get("act").and_then(Value::as_str), seq) {
            (Some("online"), _) => Self::Online,
            (Some("queryServer"), Some(seq)) => Self::QueryServer { seq, query: Query::decode(fields) },
            (Some("listening"), _) => {
                Query::decode(fields).map_or(Self::Other, |query| Self::Listening { query })
            }
            (Some("close"), _) => match present(fields, "key").and_then(Value::as_str) {
                Some(key) => Self::Close { key: key.to_owned() },
                None => Self::Other,
            },
            (Some("exitedAfterDisconnect"), seq) => Self::ExitedAfterDisconnect { seq },
            (Some("everycore:report"), _) => {
                let number = |name| fields.get(name).and_then(Value::as_u64);
                let late = Duration::from_millis(number("late").unwrap_or(0)).min(LATEST);
                let is_deno = truth(fields, "deno");
                number("live").map_or(Self::Other, |live| Self::Report { live, late, is_deno })
            }
            (Some(_) | None, _) => Self::Other,
        }
    }
}

impl Query {
    fn decode(fields: &Map<String, Value>) -> Result<Self, ProtocolError> {
        let data = present(fields, "data").cloned().unwrap_or(Value::Null);
        if !is_small(&data, &mut { DATA }) {
            return Err(ProtocolError(format!("'data' is larger than {DATA} bytes")));
        }
        Ok(Self {
            what: Asked::decode(fields)?,
            index: present(fields, "index").and_then(Value::as_u64).unwrap_or(0),
            // `0`, `false` and nothing at all mean the default.
            backlog: present(fields, "backlog")
                .and_then(Value::as_u64)
                .filter(|backlog| *backlog > 0)
                .map(|backlog| u32::try_from(backlog).unwrap_or(u32::MAX)),
            data,
            all: (truth(fields, "readableAll"), truth(fields, "writableAll")),
            is_own: truth(fields, "everycore:own"),
        })
    }
}

impl Asked {
    fn decode(fields: &Map<String, Value>) -> Result<Self, ProtocolError> {
        let flags = present(fields, "flags").and_then(Value::as_u64).unwrap_or(0);
        let host = present(fields, "address").and_then(Value::as_str).filter(|host| !host.is_empty());
        let port = || {
            let port = present(fields, "port").and_then(Value::as_i64).unwrap_or(0);
            u16::try_from(port).map_err(|_| wrong("port", &port.to_string()))
        };
        match present(fields, "addressType") {
            Some(Value::String(family)) => {
                let any: IpAddr = match family.as_str() {
                    "udp4" => Ipv4Addr::UNSPECIFIED.into(),
                    "udp6" => Ipv6Addr::UNSPECIFIED.into(),
                    other => return Err(wrong("addressType", other)),
                };
                let at =
                    host.map_or_else(|| Ok(SocketAddr::new(any, port()?)), |host| parse(host, port()?))?;
                if at.is_ipv6() != any.is_ipv6() {
                    return Err(wrong("address", &at.to_string()));
                }
                Ok(Self::Datagram { at, only_v6: flags & 1 != 0, reuse: flags & 4 != 0 })
            }
            Some(Value::Number(family)) if family.as_i64() == Some(-1) => {
                let path = host.ok_or_else(|| wrong("address", "null"))?;
                // An abstract name comes with the worker's directory in front of its NUL.
                let path = path.find('\0').map_or(path, |nul| &path[nul..]);
                Ok(Self::Stream { address: Address::Unix(PathBuf::from(path)), only_v6: false })
            }
            Some(Value::Number(_)) => {
                let port = port()?;
                let address = match host {
                    Some(host) => Address::Tcp(parse(host, port)?),
                    None => Address::Any { port },
                };
                Ok(Self::Stream { address, only_v6: flags & 1 != 0 })
            }
            _ => {
                let descriptor = present(fields, "fd").and_then(Value::as_i64).filter(|fd| *fd >= 0);
                let descriptor = descriptor.and_then(|fd| i32::try_from(fd).ok());
                descriptor.map(Self::Descriptor).ok_or_else(|| wrong("addressType", "null"))
            }
        }
    }

    /// Whether `told` is this, as a worker says it again once it listens: with the real port where it asked for any.
    pub(crate) fn is_told_as(&self, told: &Self, port: Option<u16>) -> bool {
        self == told || port.is_some_and(|port| self.any_port_as(port).is_some_and(|real| real == *told))
    }

    /// The same with this port, if any port would do.
    fn any_port_as(&self, port: u16) -> Option<Self> {
        let mut real = self.clone();
        let asked = match &mut real {
            Self::Stream { address: Address::Tcp(at), .. } | Self::Datagram { at, .. } => {
                let asked = at.port();
                at.set_port(port);
                asked
            }
            Self::Stream { address: Address::Any { port: any }, .. } => std::mem::replace(any, port),
            Self::Stream { .. } | Self::Descriptor(_) => return None,
        };
        (asked == 0).then_some(real)
    }
}

/// The answer to a query that is granted.
pub(crate) struct Reply {
    pub(crate) key: ListenerKey,
    /// What the first worker said with its query.
    pub(crate) data: Value,
    /// Where the server is, when its connections will be handed over one by one. `None`: the socket itself rides on
    /// the answer.
    pub(crate) at: Option<BoundAddress>,
}

impl Reply {
    pub(crate) fn written(&self, seq: i64, ack: i64) -> Value {
        let (key, data) = (key(self.key), &self.data);
        let Some(at) = &self.at else {
            return json!({"cmd": "NODE_CLUSTER", "errno": 0, "key": key, "ack": ack, "data": data, "seq": seq});
        };
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
}

/// The answer to a query that failed. `errno` counts upwards here and goes out negative: a positive number would
/// throw in the worker. One without a number is invalid.
pub(crate) fn refused(seq: i64, ack: i64, key: &str, errno: i32) -> Value {
    let errno = if errno == 0 { -INVALID } else { -errno.abs() };
    json!({"cmd": "NODE_CLUSTER", "errno": errno, "key": key, "ack": ack, "data": null, "seq": seq})
}

/// Written field by field, since there is one for every connection.
struct NewConnection {
    key: ListenerKey,
    seq: i64,
}

impl Serialize for NewConnection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("newconn", 4)?;
        fields.serialize_field("cmd", "NODE_CLUSTER")?;
        fields.serialize_field("act", "newconn")?;
        fields.serialize_field("key", &format_args!("{}", self.key))?;
        fields.serialize_field("seq", &self.seq)?;
        fields.end()
    }
}

/// A connection; the socket rides on it.
pub(crate) fn new_connection(seq: i64, on: ListenerKey) -> Message {
    // Text and a number: there is nothing that could not be written.
    Message::json(&NewConnection { key: on, seq }).unwrap_or_default()
}

/// A number that nobody would write in another way, and what follows it.
fn digits(text: &[u8]) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(length);
    let is_plain = (1..=18).contains(&length) && (length == 1 || number[0] != b'0');
    is_plain.then(|| (number.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

/// What a worker is told to call a listener by.
fn key(listener: ListenerKey) -> String {
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

/// An address as Node resolved it; of IPv6 perhaps with a zone, `%lo` or `%2`.
fn parse(host: &str, port: u16) -> Result<SocketAddr, ProtocolError> {
    let (plain, zone) = host.split_once('%').map_or((host, None), |(plain, zone)| (plain, Some(zone)));
    let ip: IpAddr = plain.parse().map_err(|_| wrong("address", host))?;
    match (ip, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let zone = zone.parse().ok().or_else(|| interface(zone)).ok_or_else(|| wrong("address", host))?;
            Ok(SocketAddrV6::new(ip, port, 0, zone).into())
        }
        (ip, _) => Ok(SocketAddr::new(ip, port)),
    }
}

/// The number of a network interface.
fn interface(name: &str) -> Option<u32> {
    let is_name = !name.contains('/') && !name.starts_with('.');
    let number = is_name.then(|| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")))?;
    number.ok()?.trim().parse().ok()
}

/// Whether a value takes no more than `room` bytes, about.
fn is_small(value: &Value, room: &mut usize) -> bool {
    let own = match value {
        Value::String(text) => text.len(),
        _ => 8,
    };
    let Some(left) = room.checked_sub(own) else { return false };
    *room = left;
    match value {
        Value::Array(items) => items.iter().all(|item| is_small(item, room)),
        Value::Object(fields) => fields.iter().all(|(name, item)| {
            let left = room.checked_sub(name.len());
            *room = left.unwrap_or(0);
            left.is_some() && is_small(item, room)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn wrong(field: &str, value: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' cannot be '{value}'"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What JavaScript may put anywhere.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-2..70_000_i64).prop_map(Value::from),
            prop::sample::select(vec![
                "udp4",
                "udp6",
                "127.0.0.1",
                "::1",
                "localhost",
                "/x",
                "\0x",
                "",
                "4",
                "6"
            ])
            .prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// Objects with the fields that Node's workers and our script send.
    fn object() -> impl Strategy<Value = Value> {
        const ACTS: [&str; 8] = [
            "online",
            "queryServer",
            "listening",
            "close",
            "exitedAfterDisconnect",
            "everycore:report",
            "disconnect",
            "dance",
        ];
        const FIELDS: [&str; 18] = [
            "cmd",
            "seq",
            "ack",
            "accepted",
            "key",
            "address",
            "port",
            "addressType",
            "fd",
            "flags",
            "index",
            "backlog",
            "data",
            "readableAll",
            "writableAll",
            "live",
            "late",
            "deno",
        ];
        let values = prop::collection::vec(prop::option::weighted(0.7, value()), FIELDS.len());
        (prop::sample::select(&ACTS[..]), any::<Option<i64>>(), values).prop_map(|(act, seq, values)| {
            let set = FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).into(), value?)));
            let mut object: Map<String, Value> = set.collect();
            object.insert("act".into(), act.into());
            object.extend(seq.map(|seq| ("seq".into(), seq.into())));
            Value::Object(object)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn whatever_a_worker_says_is_read_within_bounds(message in prop_oneof![value(), object()]) {
            match FromNode::decode(&message) {
                FromNode::QueryServer { query: Ok(query), .. } | FromNode::Listening { query } => {
                    let mut room = DATA;
                    prop_assert!(is_small(&query.data, &mut room));
                    // Zero means the default.
                    prop_assert_ne!(query.backlog, Some(0));
                }
                FromNode::Report { late, .. } => prop_assert!(late <= LATEST),
                _ => {}
            }
        }
    }

    fn decode(text: &str) -> FromNode {
        FromNode::decode(&serde_json::from_str(text).unwrap())
    }

    fn query(fields: &str) -> Result<Query, ProtocolError> {
        match decode(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,{fields}}}"#)) {
            FromNode::QueryServer { seq: 1, query } => query,
            other => panic!("{other:?}"),
        }
    }

    fn asked(fields: &str) -> Asked {
        query(fields).unwrap().what
    }

    fn stream(address: &str, only_v6: bool) -> Asked {
        Asked::Stream { address: Address::Tcp(address.parse().unwrap()), only_v6 }
    }

    #[test]
    fn an_answer_in_nodes_own_words_is_read_as_the_long_way_does() {
        let answer = |text: &str| FromNode::accepted(text.as_bytes());
        for text in [
            r#"{"cmd":"NODE_CLUSTER","ack":1842,"accepted":true,"seq":1147}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":false,"seq":0}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":999999999999999999,"accepted":true,"seq":1}"#,
        ] {
            assert!(matches!(answer(text), Some(FromNode::Accepted { .. })), "{text}");
            assert_eq!(answer(text), Some(decode(text)));
        }
        for other in [
            r#"{"cmd":"NODE_CLUSTER","ack":01,"accepted":true,"seq":1}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":-1,"accepted":true,"seq":1}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":9223372036854775808,"accepted":true,"seq":1}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":,"accepted":true,"seq":1}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":maybe,"seq":1}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":1,"ack":2}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":1}}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true"#,
            "",
        ] {
            assert_eq!(answer(other), None, "{other}");
        }
    }

    #[test]
    fn a_connection_is_announced_in_nodes_words() {
        let message = new_connection(7, ListenerKey::new(3));
        assert_eq!(&message.bytes()[..], br#"{"cmd":"NODE_CLUSTER","act":"newconn","key":"3","seq":7}"#);
    }

    #[test]
    fn what_node_20_sends_is_understood() {
        assert_eq!(decode(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#), FromNode::Online);
        let query = decode(
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":8000,"addressType":4,"backlog":0,"seq":1}"#,
        );
        let expected = Query {
            what: Asked::Stream { address: Address::Any { port: 8000 }, only_v6: false },
            index: 0,
            backlog: None,
            data: Value::Null,
            all: (false, false),
            is_own: false,
        };
        assert_eq!(query, FromNode::QueryServer { seq: 1, query: Ok(expected) });
        assert_eq!(
            decode(r#"{"cmd":"NODE_CLUSTER","ack":2,"accepted":true,"seq":3}"#),
            FromNode::Accepted { ack: 2, accepted: true }
        );
    }

    #[test]
    fn every_form_of_address_is_read() {
        assert_eq!(
            asked(r#""address":"127.0.0.1","port":80,"addressType":4,"backlog":false"#),
            stream("127.0.0.1:80", false)
        );
        assert_eq!(asked(r#""address":"::1","port":80,"addressType":6,"flags":1"#), stream("[::1]:80", true));
        assert_eq!(
            asked(r#""address":"fe80::1%lo","port":80,"addressType":6"#),
            stream("[fe80::1%1]:80", false)
        );
        assert_eq!(
            asked(r#""address":"fe80::1%7","port":80,"addressType":6"#),
            stream("[fe80::1%7]:80", false)
        );
        let unix = |path: &str| Asked::Stream { address: Address::Unix(path.into()), only_v6: false };
        assert_eq!(asked(r#""address":"/srv/x.sock","port":-1,"addressType":-1"#), unix("/srv/x.sock"));
        assert_eq!(asked(r#""address":"/home/\u0000x","port":-1,"addressType":-1"#), unix("\0x"));
        assert_eq!(
            asked(r#""address":"0.0.0.0","port":8557,"addressType":"udp4","fd":-1,"flags":4"#),
            Asked::Datagram { at: "0.0.0.0:8557".parse().unwrap(), only_v6: false, reuse: true }
        );
        assert_eq!(
            asked(r#""address":null,"port":0,"addressType":"udp6","fd":-1,"flags":1"#),
            Asked::Datagram { at: "[::]:0".parse().unwrap(), only_v6: true, reuse: false }
        );
        assert_eq!(asked(r#""address":null,"port":null,"addressType":null,"fd":9"#), Asked::Descriptor(9));
    }

    #[test]
    fn a_query_that_makes_no_sense_says_why() {
        for (fields, field) in [
            (r#""address":"x","port":80,"addressType":4"#, "'address'"),
            (r#""address":"::1%nowhere","port":80,"addressType":6"#, "'address'"),
            (r#""address":"::1%../x","port":80,"addressType":6"#, "'address'"),
            (r#""address":null,"port":99999,"addressType":4"#, "'port'"),
            (r#""address":null,"port":1,"addressType":"udp9""#, "'addressType'"),
            (r#""address":"::1","port":1,"addressType":"udp4""#, "'address'"),
            (r#""address":null,"port":-1,"addressType":-1"#, "'address'"),
            (r#""address":null"#, "'addressType'"),
        ] {
            let error = query(fields).unwrap_err().to_string();
            assert!(error.contains(field), "{fields}: {error}");
        }
        let keys = "x".repeat(DATA);
        let error = query(&format!(r#""port":0,"addressType":4,"data":["{keys}"]"#)).unwrap_err().to_string();
        assert!(error.contains("'data'"), "{error}");
        assert!(query(r#""port":0,"addressType":4,"data":{"ticketKeys":"00ff"}"#).is_ok());
    }

    #[test]
    fn what_nobody_understands_is_ignored() {
        for text in [
            r#"{"cmd":"NODE_CLUSTER","act":"dance","seq":3}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","port":80,"addressType":4}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"listening","addressType":{}}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"close","key":7}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"everycore:report"}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":-1,"late":"x"}"#,
            r#"{"cmd":"NODE_CLUSTER","ack":1}"#,
            r#"{"cmd":"NODE_CLUSTER"}"#,
            r#"[]"#,
        ] {
            assert_eq!(decode(text), FromNode::Other, "{text}");
        }
    }

    #[test]
    fn a_report_is_numbers_within_reason() {
        let report = |live, late| FromNode::Report { live, late, is_deno: false };
        let text = r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":3,"late":1500}"#;
        assert_eq!(decode(text), report(3, Duration::from_millis(1500)));
        let text = r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":18446744073709551615,"late":18446744073709551615}"#;
        assert_eq!(decode(text), report(u64::MAX, LATEST));
        assert_eq!(decode(r#"{"act":"everycore:report","live":0,"late":"soon"}"#), report(0, Duration::ZERO));
    }

    #[test]
    fn a_server_on_any_port_is_known_again_by_the_real_one() {
        let any = asked(r#""address":"::1","port":0,"addressType":6"#);
        let told = asked(r#""address":"::1","port":81,"addressType":6"#);
        assert!(any.is_told_as(&told, Some(81)) && told.is_told_as(&told, Some(81)));
        assert!(!any.is_told_as(&told, Some(82)) && !told.is_told_as(&any, Some(81)));
        let other = asked(r#""address":null,"port":81,"addressType":4"#);
        assert!(!any.is_told_as(&other, Some(81)));
        assert!(!any.is_told_as(&asked(r#""address":"::1","port":81,"addressType":"udp6""#), Some(81)));
    }

    #[test]
    fn replies_have_the_fields_node_reads() {
        let at = Some(BoundAddress::Tcp("[::]:8000".parse().unwrap()));
        let mut reply = Reply { key: ListenerKey::new(3), data: Value::Null, at };
        assert_eq!(
            reply.written(0, 1),
            json!({"cmd":"NODE_CLUSTER","errno":null,"key":"3","ack":1,"data":null,
                "sockname":{"address":"::","family":"IPv6","port":8000},"seq":0})
        );
        assert_eq!(refused(1, 2, "k", 98)["errno"], -98);
        assert_eq!(refused(1, 2, "k", 0)["errno"], -22, "never 0, which would be success");
        reply.at = None;
        assert_eq!(
            reply.written(1, 2),
            json!({"cmd":"NODE_CLUSTER","errno":0,"key":"3","ack":2,"data":null,"seq":1})
        );
    }
}
