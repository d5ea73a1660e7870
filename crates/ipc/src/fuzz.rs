//! What has to hold for any bytes and any order of events; for fuzzers and for the tests of this crate.
//!
//! Each entry point takes arbitrary bytes and panics when a promise is broken.

mod handoff;

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::ops::Range;

use serde::de::{Deserialize, Deserializer};

use crate::limits::Limits;
use crate::wire::node::{Heard, Inner, Payload};
use crate::wire::{self, Codec, Cut, WireError, advanced, json, native};

pub use handoff::handoff;

/// Bytes from a peer on the `json` codec.
pub fn json(bytes: &[u8]) {
    for (_, line) in frames(Codec::Json, bytes) {
        let heard = json::hear(&line, None);
        let (heard, mended) = heard.map_or((None, None), |(heard, mended)| (Some(heard), mended));
        let text = mended.unwrap_or(line);
        let _ = json::check_depth(&text, 16);
        if let Some(heard) = heard {
            assert_eq!(json::read(&text).as_ref(), Ok(&heard));
            assert_inside(&heard, &text);
            if let Heard::User(_) = heard {
                assert!(!json::is_reserved(&text), "a message for the program would not be taken for one");
            }
        }
        if let Some(inside) = text.strip_prefix(b"{") {
            let with =
                |pad: usize| [format!("{{\"pad\":\"{}\",", "x".repeat(pad)).as_bytes(), inside].concat();
            assert_eq!(
                json::is_reserved(&with(2000)),
                json::is_reserved(&with(1)),
                "long lines are looked at otherwise"
            );
        }
        if let Ok(text) = std::str::from_utf8(&text)
            && let Ok(value) = json::from_str::<serde_json::Value>(text)
        {
            assert_eq!(Some(value), serde_json::from_str(text).ok(), "read otherwise than serde_json does");
        }
        if let Ok(text) = std::str::from_utf8(&text)
            && let Ok(value) = json::from_str::<Lenient>(text)
        {
            assert_eq!(
                Some(value),
                serde_json::from_str(text).ok(),
                "read otherwise by who passes over errors"
            );
        }
        if let Some(mended) = json::mend_surrogates(&text) {
            assert_eq!(mended.len(), text.len());
            assert_eq!(json::mend_surrogates(&mended), None);
        }
    }
}

/// What a program reads that makes do with nothing where it finds something else.
type Lenient = OrDefault<BTreeMap<String, OrDefault<Vec<OrDefault<String>>>>>;

/// A value, or what stands for it where it cannot be read.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrDefault<T>(pub(crate) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrDefault<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(T::deserialize(from).unwrap_or_default()))
    }
}

/// Bytes from a peer on the `advanced` codec. The values inside have an entry point of their own,
/// [`crate::v8::fuzz::check`].
pub fn advanced(bytes: &[u8]) {
    for (_, payload) in frames(Codec::Advanced, bytes) {
        if let Ok(heard) = advanced::read(&payload, None, &limits()) {
            assert_inside(&heard, &payload);
        }
    }
}

/// Bytes from a peer on the `native` codec.
pub fn native(bytes: &[u8]) {
    for (frame, payload) in frames(Codec::Native, bytes) {
        if let Ok(header) = native::read_header(&frame) {
            let again = native::write_header(&header, payload.len() as u32);
            assert_eq!(native::read_header(&again), Ok(header));
        }
    }
}

fn limits() -> Limits {
    Limits { frame: 1 << 16, ..Limits::default() }
}

/// A frame and its payload.
type Found = (Vec<u8>, Vec<u8>);

/// The frames as they come when everything is there at once; checked to be
/// the same when every byte comes alone, and when the rest comes after a while.
fn frames(codec: Codec, bytes: &[u8]) -> Vec<Found> {
    let whole = cut_all(codec, bytes, bytes.len());
    for step in [1, 7, 4096] {
        assert_eq!(cut_all(codec, bytes, step), whole, "frames depend on how the bytes are split");
    }
    whole.0
}

/// Cuts frames out of bytes that come `step` at a time. Errors are compared by kind: one that names a length may be
/// found before all of it is there.
fn cut_all(codec: Codec, bytes: &[u8], step: usize) -> (Vec<Found>, Option<Discriminant<WireError>>) {
    let (mut found, mut start, mut scanned, mut seen) = (Vec::new(), 0, 0, 0);
    loop {
        match wire::cut(codec, &bytes[start..seen], scanned, &limits()) {
            Ok(Cut::Frame(span)) => {
                assert!(span.total > 0 && span.payload.end <= span.total && span.total <= seen - start);
                let frame = bytes[start..start + span.total].to_vec();
                let payload = frame[span.payload.clone()].to_vec();
                found.push((frame, payload));
                start += span.total;
                scanned = 0;
            }
            Ok(Cut::Partial { total }) => {
                assert!(
                    total.is_none_or(|total| total > seen - start),
                    "a frame that is there is not partial"
                );
                if seen == bytes.len() {
                    return (found, None);
                }
                scanned = seen - start;
                seen = (seen + step.max(1)).min(bytes.len());
            }
            Err(error) => return (found, Some(discriminant(&error))),
        }
    }
}

fn assert_inside(heard: &Heard, text: &[u8]) {
    let payload = match heard {
        Heard::User(payload) | Heard::Internal(payload) => payload,
        Heard::Handle { inner: Inner::User(payload) | Inner::Internal(payload), .. } => payload,
        _ => return,
    };
    if let Payload::At(Range { start, end }) = payload {
        assert!(start <= end && *end <= text.len(), "a payload lies outside its frame");
    }
}
