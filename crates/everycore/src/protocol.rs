//! What the primary and a Rust worker say to each other, as typed values and as bytes.
//!
//! Pure. The values travel as JSON in *internal* frames of the control channel; users' messages are frames of
//! another kind and never pass through here. Descriptors ride beside the frame: a `Welcome` brings the page of
//! counters and the wake-up event, a granted listener brings its hand-off channel or the listening socket.
//! Nothing a worker sends is trusted: whatever does not decode is an error that costs that worker its channel.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::address::{Address, BoundAddress};
use crate::secret::{Secret, SecretSet};

/// Spoken in `Welcome` and `Hello`; both ends refuse a version they do not know.
pub(crate) const VERSION: u64 = 1;

/// Names the inherited channel: `FD,IDENTITY`, the latter as `everycore_sys::inherit::identity` tells it: a stale
/// variable in some grandchild names a descriptor that is something else, and is harmless.
pub(crate) const CHANNEL_VARIABLE: &str = "EVERYCORE_CHANNEL";

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

/// How connections of a granted listener reach the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The handle is the reading end of a hand-off channel: one record and one connection per message.
    HandOff,
    /// The handle is the listening socket itself.
    Shared,
}

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

/// Why a `Listen` failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenFailure {
    /// The error number, as `errno` counts; 0 where no system call failed.
    pub(crate) errno: i32,
    /// One line for people: what happened, to which address, who holds it.
    pub(crate) message: String,
}

/// A frame that is not part of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) String);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a cluster message: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}

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

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::HandOff => "hand-off",
            Self::Shared => "shared",
        }
    }

    fn from_name(name: &str) -> Result<Self, ProtocolError> {
        match name {
            "hand-off" => Ok(Self::HandOff),
            "shared" => Ok(Self::Shared),
            other => Err(ProtocolError(format!("unknown mode '{other}'"))),
        }
    }
}

fn encode_address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Any { port } => format!(":{port}"),
        Address::Unix(path) => encode_path(path),
        Address::Udp(address) => format!("udp://{address}"),
        Address::Inherited(which) => format!("fd://{which}"),
    }
}

/// Unlike [`Address::from_str`](std::str::FromStr) this never resolves a host name: the worker has done that.
fn decode_address(text: &str) -> Result<Address, ProtocolError> {
    if let Some(path) = decode_path(text)? {
        return Ok(Address::Unix(path));
    }
    if let Some(address) = text.strip_prefix("udp://") {
        return address.parse().map(Address::Udp).map_err(|_| bad("address", text));
    }
    if let Some(port) = text.strip_prefix(':') {
        return port.parse().map(|port| Address::Any { port }).map_err(|_| bad("address", text));
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| bad("address", text))
}

fn encode_bound(address: &BoundAddress) -> String {
    match address {
        BoundAddress::Tcp(address) => address.to_string(),
        BoundAddress::Unix(path) => encode_path(path),
        BoundAddress::Udp(address) => format!("udp://{address}"),
    }
}

fn decode_bound(text: &str) -> Result<BoundAddress, ProtocolError> {
    if let Some(path) = decode_path(text)? {
        return Ok(BoundAddress::Unix(path));
    }
    let (datagram, address) = match text.strip_prefix("udp://") {
        Some(address) => (true, address),
        None => (false, text),
    };
    let address = address.parse().map_err(|_| bad("address", text))?;
    Ok(if datagram { BoundAddress::Udp(address) } else { BoundAddress::Tcp(address) })
}

/// A path may be any bytes, and JSON is text.
fn encode_path(path: &Path) -> String {
    match path.to_str() {
        Some(path) => format!("unix:{path}"),
        None => path.as_os_str().as_bytes().iter().fold(UNIX_BYTES.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

/// `None` when it is no path at all.
fn decode_path(text: &str) -> Result<Option<PathBuf>, ProtocolError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Some(path.into()));
    }
    let Some(digits) = text.strip_prefix(UNIX_BYTES) else { return Ok(None) };
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes.map(|bytes| Some(OsString::from_vec(bytes).into())).ok_or_else(|| bad("address", text))
}

/// Before the bytes of a path that is no text, in hexadecimal.
const UNIX_BYTES: &str = "unix-bytes:";

fn bad(field: &str, value: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' cannot be '{value}'"))
}

/// One decoded JSON object, read field by field.
struct Fields(Value);

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ProtocolError(format!("no JSON: {error}")))?;
        Ok(Self(value))
    }

    /// `null` and an absent field mean the same.
    fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn text(&self, field: &str) -> Result<&str, ProtocolError> {
        self.value(field).and_then(Value::as_str).ok_or_else(|| missing(field, "a text"))
    }

    fn number(&self, field: &str) -> Result<u64, ProtocolError> {
        self.value(field).and_then(Value::as_u64).ok_or_else(|| missing(field, "a whole number"))
    }

    fn small(&self, field: &str) -> Result<u32, ProtocolError> {
        u32::try_from(self.number(field)?).map_err(|_| missing(field, "a number below 2^32"))
    }

    fn signed(&self, field: &str) -> Result<i32, ProtocolError> {
        self.value(field)
            .and_then(Value::as_i64)
            .and_then(|number| i32::try_from(number).ok())
            .ok_or_else(|| missing(field, "a 32-bit number"))
    }
}

fn missing(field: &str, kind: &str) -> ProtocolError {
    ProtocolError(format!("'{field}' is missing or not {kind}"))
}

/// The fixed record beside each handed-over connection: who connected, as the primary's `accept` said.
pub(crate) mod record {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

    /// Length in bytes of every record.
    pub(crate) const LEN: usize = 24;

    /// Writes a peer address, `None` for a Unix peer, and the class of the connection. The latter is for the primary, should
    /// it have to take the connection back: 0 stands for none.
    pub(crate) fn encode(peer: Option<SocketAddr>, class: u8) -> [u8; LEN] {
        let mut record = [0; LEN];
        record[1] = class;
        match peer {
            None => {}
            Some(SocketAddr::V4(v4)) => {
                record[0] = 4;
                record[2..4].copy_from_slice(&v4.port().to_be_bytes());
                record[4..8].copy_from_slice(&v4.ip().octets());
            }
            Some(SocketAddr::V6(v6)) => {
                record[0] = 6;
                record[2..4].copy_from_slice(&v6.port().to_be_bytes());
                record[4..20].copy_from_slice(&v6.ip().octets());
                record[20..24].copy_from_slice(&v6.scope_id().to_be_bytes());
            }
        }
        record
    }

    /// The class in a record.
    pub(crate) fn class(record: &[u8]) -> u8 {
        record.get(1).copied().unwrap_or(0)
    }

    /// Reads the address in a record; `None` for one that is not a record at all.
    pub(crate) fn decode(record: &[u8]) -> Option<Option<SocketAddr>> {
        let record: &[u8; LEN] = record.try_into().ok()?;
        let port = u16::from_be_bytes([record[2], record[3]]);
        match record[0] {
            0 => Some(None),
            4 => {
                let ip = Ipv4Addr::new(record[4], record[5], record[6], record[7]);
                Some(Some(SocketAddr::new(IpAddr::V4(ip), port)))
            }
            6 => {
                let ip: [u8; 16] = record[4..20].try_into().ok()?;
                let scope = u32::from_be_bytes([record[20], record[21], record[22], record[23]]);
                Some(Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope))))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
