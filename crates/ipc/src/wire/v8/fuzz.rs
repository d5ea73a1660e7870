//! What has to hold for any bytes at all; for fuzzers and for the tests of this crate.

use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::read::Reader;
use super::{Document, Error, Limits, from_slice_with, scan};

/// Reads the bytes in every way there is and compares the results.
///
/// # Panics
///
/// If the ways contradict one another: that is what it looks for.
pub fn check(bytes: &[u8]) {
    let limits = Limits { bytes: 1 << 20, depth: 64, values: 1 << 16, expansion: 1 << 11 };
    let ignored = from_slice_with::<IgnoredAny>(bytes, &limits);
    let json = from_slice_with::<Json>(bytes, &limits);
    let Ok(document) = Document::parse_with(bytes, &limits) else { return };
    assert!(ignored.is_ok(), "a readable message cannot be skipped: {ignored:?}");
    same_extent(bytes, &limits);
    survives_writing(&document, &json, &limits);
}

/// Building and skipping have to agree on where the value ends and on how many objects it has.
fn same_extent(bytes: &[u8], limits: &Limits) {
    let Ok(mut input) = super::input::Input::new(bytes, limits) else { return };
    let spans = scan::spans(input.clone(), limits);
    assert!(spans.is_ok(), "a readable message has objects that cannot be found: {spans:?}");
    let skipped = scan::skip(&mut input, limits, 0);
    let mut reader = Reader::new(bytes, limits).expect("the header was read before");
    let (position, objects) = reader.measure();
    assert_eq!((skipped, input.position()), (Ok(()), position));
    assert_eq!(spans.map(|spans| spans.len()), Ok(objects));
}

/// What was read can be written, unless it is something a Node peer would refuse; and once written, it
/// stays the same.
fn survives_writing(document: &Document, json: &Result<Json, Error>, limits: &Limits) {
    let limits = Limits { depth: limits.depth + 1, bytes: 4 * limits.bytes, ..*limits };
    let mut first = Vec::new();
    match document.append_to(&mut first, &limits) {
        Ok(()) => {}
        Err(Error::DuplicateKey { .. } | Error::Unsupported { .. }) => return,
        Err(error) => panic!("a message that was read cannot be written: {error}"),
    }
    let again = Document::parse_with(&first, &limits).expect("what is written can be read");
    let mut second = Vec::new();
    again.append_to(&mut second, &limits).expect("what was written once can be written again");
    assert_eq!(first, second);
    if let Ok(json) = json {
        let reread = from_slice_with::<Json>(&first, &limits);
        assert_eq!(reread.as_ref(), Ok(json), "writing changed what serde sees");
    }
}
