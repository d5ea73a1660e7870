//! What the primary says.

use std::time::Duration;

use serde_json::{Value, json};

use super::address::{decode_bound, encode_bound};
use super::fields::{Fields, missing};
use super::{ListenFailure, Mode, ProtocolError, VERSION};
use crate::address::BoundAddress;
use crate::secret::{Secret, SecretSet};

/// Primary → worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ToWorker {
    /// The first frame, in the channel before the worker runs. Handles: the page of counters, the wake event.
    Welcome(Welcome),
    /// The answer to `Listen`; a granted one carries one handle, by `mode`.
    /// `more`: the name it was asked for has another address, at the next place.
    Granted { request: u64, key: u32, mode: Mode, address: BoundAddress, more: bool },
    /// The answer to a `Listen` that failed.
    Refused { request: u64, failure: ListenFailure },
    /// Accept from this slot's own socket too, since its worker is missing; the handle is the socket.
    Adopt { key: u32, slot: u32 },
    /// Do so no longer.
    Release { key: u32, slot: u32 },
    /// Stop accepting, drain, leave. `stopping`: the whole cluster does, so nobody is left for a client to go to.
    Disconnect { stopping: bool },
    /// `Leaving` has been noted.
    LeaveNoted,
    /// The shared secrets: the answer to `Secrets`, and again after each rotation.
    Secrets(SecretSet),
    /// Nobody will answer this question of the worker's program.
    Unheard { request: u64 },
}

/// Who the worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) name: String,
    pub(crate) worker: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// The class it belongs to, where workers are told apart.
    pub(crate) class: Option<String>,
    /// How long the worker may drain, in milliseconds: after that it must expect `TERM`.
    pub(crate) drain_ms: u64,
}

impl ToWorker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome(welcome) => json!({
                "act": "welcome", "version": VERSION, "name": welcome.name, "worker": welcome.worker,
                "slot": welcome.slot, "generation": welcome.generation, "drain_ms": welcome.drain_ms,
                "class": welcome.class,
            }),
            Self::Granted { request, key, mode, address, more } => json!({
                "act": "granted", "request": request, "key": key, "mode": mode.name(),
                "address": encode_bound(address), "more": more,
            }),
            Self::Refused { request, failure } => json!({
                "act": "refused", "request": request, "errno": failure.errno, "message": failure.message,
            }),
            Self::Adopt { key, slot } => json!({"act": "adopt", "key": key, "slot": slot}),
            Self::Release { key, slot } => json!({"act": "release", "key": key, "slot": slot}),
            Self::Disconnect { stopping } => json!({"act": "disconnect", "stopping": stopping}),
            Self::LeaveNoted => json!({"act": "leave-noted"}),
            Self::Secrets(set) => encode_secrets(set),
            Self::Unheard { request } => json!({"act": "unheard", "request": request}),
        }
        .to_string()
        .into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let message = Fields::parse(bytes)?;
        match message.text("act")? {
            "welcome" => {
                let version = message.number("version")?;
                if version != VERSION {
                    return Err(ProtocolError(format!(
                        "the primary speaks version {version}, this worker version {VERSION}; build both from one release"
                    )));
                }
                Ok(Self::Welcome(Welcome {
                    name: message.text("name")?.to_owned(),
                    worker: message.small("worker")?,
                    slot: message.small("slot")?,
                    generation: message.small("generation")?,
                    class: match message.value("class") {
                        Some(_) => Some(message.text("class")?.to_owned()),
                        None => None,
                    },
                    drain_ms: message.number("drain_ms")?,
                }))
            }
            "granted" => Ok(Self::Granted {
                request: message.number("request")?,
                key: message.small("key")?,
                mode: Mode::from_name(message.text("mode")?)?,
                address: decode_bound(message.text("address")?)?,
                more: message.value("more").and_then(Value::as_bool).unwrap_or(false),
            }),
            "refused" => Ok(Self::Refused {
                request: message.number("request")?,
                failure: ListenFailure {
                    errno: message.signed("errno")?,
                    message: message.text("message")?.to_owned(),
                },
            }),
            "adopt" => Ok(Self::Adopt { key: message.small("key")?, slot: message.small("slot")? }),
            "release" => Ok(Self::Release { key: message.small("key")?, slot: message.small("slot")? }),
            "disconnect" => {
                let stopping = message.value("stopping").and_then(Value::as_bool).unwrap_or(false);
                Ok(Self::Disconnect { stopping })
            }
            "leave-noted" => Ok(Self::LeaveNoted),
            "secrets" => decode_secrets(&message).map(Self::Secrets),
            "unheard" => Ok(Self::Unheard { request: message.number("request")? }),
            other => Err(ProtocolError(format!("unknown act '{other}'"))),
        }
    }
}

/// The numbers follow each other, so one is enough.
fn encode_secrets(set: &SecretSet) -> Value {
    json!({
        "act": "secrets", "id": set.current.id(), "period_ms": set.period.as_millis() as u64,
        "current": set.current.to_hex(), "next": set.next.to_hex(),
        "previous": set.previous.as_ref().map(Secret::to_hex),
    })
}

fn decode_secrets(message: &Fields) -> Result<SecretSet, ProtocolError> {
    let id = message.small("id")?;
    // Whatever was there in its place is not repeated: it may be half a secret.
    let secret = |field, id| {
        Secret::from_hex(id, message.text(field)?).ok_or_else(|| missing(field, "32 bytes in hexadecimal"))
    };
    Ok(SecretSet {
        current: secret("current", id)?,
        next: secret("next", id.wrapping_add(1))?,
        previous: match message.value("previous") {
            Some(_) => Some(secret("previous", id.wrapping_sub(1))?),
            None => None,
        },
        period: Duration::from_millis(message.number("period_ms")?),
    })
}
