//! Node's cluster messages (`NODE_CLUSTER`) as typed values and back. Pure, but for the numbers of network
//! interfaces.
//!
//! What a real Node worker says and understands, on Node 18 to 26. A worker is not trusted: a query that makes no sense
//! is answered with an error, and what cannot be understood at all is ignored, as Node ignores it.
//!
//! Here is what workers say; `query` has the server they ask for, `told` what they are told.

mod query;
#[cfg(test)]
mod tests;
mod told;

use std::time::Duration;

use serde_json::{Map, Value};

pub(crate) use query::{Asked, Query};
pub(crate) use told::{Reply, ack, disconnect, listener, new_connection, refused};

use crate::protocol::ProtocolError;

/// More than this a loop is not said to have been late.
const LATEST: Duration = Duration::from_secs(24 * 3600);

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

/// A number that nobody would write in another way, and what follows it.
fn digits(text: &[u8]) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(length);
    let is_plain = (1..=18).contains(&length) && (length == 1 || number[0] != b'0');
    is_plain.then(|| (number.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

/// `undefined` (absent) and `null` mean the same everywhere in these messages.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn truth(fields: &Map<String, Value>, name: &str) -> bool {
    present(fields, name).and_then(Value::as_bool).unwrap_or(false)
}
