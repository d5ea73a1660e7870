//! Which server a worker asks for, and how it is known again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{present, truth};
use crate::address::Address;
use crate::protocol::ProtocolError;

/// What a worker may have kept for the others with a listener. Ticket keys of TLS take a hundred.
pub(super) const DATA: usize = 16 << 10;

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

impl Query {
    pub(super) fn decode(fields: &Map<String, Value>) -> Result<Self, ProtocolError> {
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
pub(super) fn is_small(value: &Value, room: &mut usize) -> bool {
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
