//! Frames: how payloads follow one another on a channel. Four bytes of length, the highest first, which
//! do not count themselves, then the payload.

use super::error::{Error, Result};
use super::limits::Limits;
use super::output::Output;

/// The length of a frame's length.
pub const PREFIX: usize = 4;

/// What the start of a stream of frames holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole frame with this payload; the next one starts `PREFIX + payload.len()` bytes on.
    Whole(&'a [u8]),
    /// Only a part of a frame; it takes at least this many bytes in all, those there included.
    Part {
        /// At least [`PREFIX`]; the frame's exact size once its length is there.
        needed: usize,
    },
}

/// Looks for a frame at the start of `bytes`.
///
/// # Errors
/// The frame is longer than the limit. The stream is of no further use then: a length beyond the limit
/// cannot be skipped, since it may be no length at all.
///
/// ```
/// # use everycore_ipc::v8::{self, Frame, Limits};
/// let limits = Limits::default();
/// let mut stream = Vec::new();
/// v8::append_frame(&mut stream, "ping", &limits).unwrap();
/// assert_eq!(v8::split_frame(&stream[..6], &limits), Ok(Frame::Part { needed: stream.len() }));
/// let Ok(Frame::Whole(payload)) = v8::split_frame(&stream, &limits) else { panic!() };
/// assert_eq!(v8::from_slice::<String>(payload).unwrap(), "ping");
/// ```
pub fn split_frame<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Frame<'a>, Error> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(Frame::Part { needed: PREFIX });
    };
    let length = u32::from_be_bytes(*prefix) as usize;
    let allowed = limits.longest();
    if length > allowed {
        return Err(Error::Limit { offset: 0, limit: "bytes", allowed });
    }
    Ok(rest.get(..length).map_or(Frame::Part { needed: PREFIX + length }, Frame::Whole))
}

/// Writes a payload by `write` behind what is in `out`; takes it back if that fails.
pub(super) fn append(
    out: &mut Vec<u8>,
    limits: &Limits,
    write: impl FnOnce(Output<'_>) -> Result<()>,
) -> Result<()> {
    let before = out.len();
    let written = write(Output::new(out)).and_then(|()| check(out.len() - before, limits));
    if written.is_err() {
        out.truncate(before);
    }
    written
}

/// As [`append`], with the length in front.
pub(super) fn append_framed(
    out: &mut Vec<u8>,
    limits: &Limits,
    write: impl FnOnce(Output<'_>) -> Result<()>,
) -> Result<()> {
    let before = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    let payload = out.len();
    let written = append(out, limits, write);
    match written {
        Ok(()) => {
            let length = (out.len() - payload) as u32; // checked to be below 2^31
            out[before..payload].copy_from_slice(&length.to_be_bytes());
        }
        Err(_) => out.truncate(before),
    }
    written
}

fn check(length: usize, limits: &Limits) -> Result<()> {
    let allowed = limits.longest();
    if length > allowed { Err(Error::Limit { offset: length, limit: "bytes", allowed }) } else { Ok(()) }
}
