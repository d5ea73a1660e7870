//! The frame between Rust programs: 16 bytes of header, then the payload as it is.
//!
//! | Bytes | Field | |
//! |---|---|---|
//! | 0..4 | length of the payload | little-endian, as all numbers here |
//! | 4 | kind | 1 user, 2 internal, 3 request, 4 reply |
//! | 5 | flags | bit 0: the payload is raw bytes, not JSON; all others 0 |
//! | 6..8 | number of descriptors beside it | at most 253, all in one piece of the stream that ends with the frame |
//! | 8..16 | number that joins a request and its reply | else 0 |

use super::{Cut, Span, WireError};
use crate::limits::Limits;
use crate::message::{Format, Kind};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 16;

const RAW: u8 = 1;

/// What the header says, beside the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) format: Format,
    pub(crate) handles: u16,
}

/// Finds the end of the frame at the front of `bytes`.
#[inline(always)]
pub(crate) fn cut(bytes: &[u8], limits: &Limits) -> Result<Cut, WireError> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(Cut::Partial { total: None });
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > limits.frame {
        return Err(WireError::TooLarge { bytes: length, limit: limits.frame });
    }
    let total = HEADER + length;
    if bytes.len() < total {
        return Ok(Cut::Partial { total: Some(total) });
    }
    Ok(Cut::Frame(Span { payload: HEADER..total, total }))
}

/// Reads the header at the front of a complete frame.
pub(crate) fn read_header(frame: &[u8]) -> Result<Header, WireError> {
    let header = frame.first_chunk::<HEADER>().expect("a complete frame has a header");
    let [_, _, _, _, kind, flags, handles @ .., _, _, _, _, _, _, _, _] = *header;
    let [_, _, _, _, _, _, _, _, id @ ..] = *header;
    let id = u64::from_le_bytes(id);
    let kind = match kind {
        1 => Kind::User,
        2 => Kind::Internal,
        3 => Kind::Request(id),
        4 => Kind::Reply(id),
        _ => return Err(WireError::UnknownFrame { kind, flags }),
    };
    let format = match flags {
        0 => Format::Json,
        RAW => Format::Raw,
        _ => return Err(WireError::UnknownFrame { kind: header[4], flags }),
    };
    Ok(Header { kind, format, handles: u16::from_le_bytes(handles) })
}

/// The format and the length of the payload of a message for the program that brings no descriptors; `None` of any other.
#[inline(always)]
pub(crate) fn small(header: &[u8; HEADER]) -> Option<(Format, usize)> {
    let [a, b, c, d, kind, flags, handles @ .., _, _, _, _, _, _, _, _] = *header;
    let format = match (kind, flags, handles) {
        (1, 0, [0, 0]) => Format::Json,
        (1, RAW, [0, 0]) => Format::Raw,
        _ => return None,
    };
    Some((format, u32::from_le_bytes([a, b, c, d]) as usize))
}

/// Writes the header for a payload of this length.
pub(crate) fn write_header(header: &Header, length: u32) -> [u8; HEADER] {
    let (kind, id) = match header.kind {
        Kind::User => (1, 0),
        Kind::Internal => (2, 0),
        Kind::Request(id) => (3, id),
        Kind::Reply(id) => (4, id),
    };
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4] = kind;
    bytes[5] = if header.format == Format::Raw { RAW } else { 0 };
    bytes[6..8].copy_from_slice(&header.handles.to_le_bytes());
    bytes[8..].copy_from_slice(&id.to_le_bytes());
    bytes
}
