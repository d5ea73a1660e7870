//! What a worker is told.

use everycore_core::ListenerKey;
use everycore_ipc::Message;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Value, json};

use crate::address::BoundAddress;

/// `EINVAL`.
const INVALID: i32 = 22;

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
