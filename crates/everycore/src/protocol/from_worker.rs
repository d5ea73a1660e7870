//! What a worker says.

use serde_json::json;

use super::ProtocolError;
use super::address::{decode_address, encode_address};
use super::fields::Fields;
use crate::address::Address;

/// Worker → primary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FromWorker {
    /// First frame of a worker that uses the library.
    Hello { version: u64 },
    /// Asks for a listener.
    Listen { request: u64, what: Wanted },
    /// The program now accepts on this listener.
    Listening { key: u32 },
    /// The program dropped this listener; what it had not read is the primary's again.
    Closed { key: u32 },
    /// Ready by the program's own word.
    Ready,
    /// Asks for the shared secrets, now and after each rotation.
    Secrets,
    /// Leaves by its own wish; waits for `LeaveNoted`.
    Leaving,
    /// The program takes no messages, and this question of the primary's was dropped: nobody will answer it.
    Unheard { request: u64 },
}

/// Which listener is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One bound before the workers started, by its name; of several addresses the one at `place`, from 0.
    Named { name: String, place: u32 },
    /// One for this address. `index` tells several live listeners on the same address within one worker apart.
    Bound { address: Address, index: u32, backlog: Option<u32> },
}

impl FromWorker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version } => json!({"act": "hello", "version": version}),
            Self::Listen { request, what: Wanted::Named { name, place } } => {
                json!({"act": "listen", "request": request, "name": name, "place": place})
            }
            Self::Listen { request, what: Wanted::Bound { address, index, backlog } } => json!({
                "act": "listen", "request": request, "address": encode_address(address), "index": index,
                "backlog": backlog,
            }),
            Self::Listening { key } => json!({"act": "listening", "key": key}),
            Self::Closed { key } => json!({"act": "closed", "key": key}),
            Self::Ready => json!({"act": "ready"}),
            Self::Secrets => json!({"act": "secrets"}),
            Self::Leaving => json!({"act": "leaving"}),
            Self::Unheard { request } => json!({"act": "unheard", "request": request}),
        }
        .to_string()
        .into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let message = Fields::parse(bytes)?;
        match message.text("act")? {
            "hello" => Ok(Self::Hello { version: message.number("version")? }),
            "listen" => {
                let request = message.number("request")?;
                let what = match message.value("name") {
                    Some(_) => Wanted::Named {
                        name: message.text("name")?.to_owned(),
                        place: match message.value("place") {
                            Some(_) => message.small("place")?,
                            None => 0,
                        },
                    },
                    None => Wanted::Bound {
                        address: decode_address(message.text("address")?)?,
                        index: message.small("index")?,
                        backlog: match message.value("backlog") {
                            Some(_) => Some(message.small("backlog")?),
                            None => None,
                        },
                    },
                };
                Ok(Self::Listen { request, what })
            }
            "listening" => Ok(Self::Listening { key: message.small("key")? }),
            "closed" => Ok(Self::Closed { key: message.small("key")? }),
            "ready" => Ok(Self::Ready),
            "secrets" => Ok(Self::Secrets),
            "leaving" => Ok(Self::Leaving),
            "unheard" => Ok(Self::Unheard { request: message.number("request")? }),
            other => Err(ProtocolError(format!("unknown act '{other}'"))),
        }
    }
}
