//! Addresses as text: what a worker asks for and what the primary has bound.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::ProtocolError;
use super::fields::bad;
use crate::address::{Address, BoundAddress};

/// Before the bytes of a path that is no text, in hexadecimal.
const UNIX_BYTES: &str = "unix-bytes:";

pub(super) fn encode_address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Any { port } => format!(":{port}"),
        Address::Unix(path) => encode_path(path),
        Address::Udp(address) => format!("udp://{address}"),
        Address::Inherited(which) => format!("fd://{which}"),
    }
}

/// Unlike [`Address::from_str`](std::str::FromStr) this never resolves a host name: the worker has done that.
pub(super) fn decode_address(text: &str) -> Result<Address, ProtocolError> {
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

pub(super) fn encode_bound(address: &BoundAddress) -> String {
    match address {
        BoundAddress::Tcp(address) => address.to_string(),
        BoundAddress::Unix(path) => encode_path(path),
        BoundAddress::Udp(address) => format!("udp://{address}"),
    }
}

pub(super) fn decode_bound(text: &str) -> Result<BoundAddress, ProtocolError> {
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
