//! What strangers may send: anything. No message makes the codec panic, recurse without end, or take more memory
//! or time than its length and the limits allow.

#![allow(clippy::unwrap_used, reason = "tests")]

mod v8_support;

use everycore_ipc::v8::{self, Document, Error, Limits};
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use v8_support::{bytes, random};

fn limit(error: Option<Error>) -> &'static str {
    match error {
        Some(Error::Limit { limit, .. }) => limit,
        other => panic!("not about a limit: {other:?}"),
    }
}

/// Every tag there is, so that bytes at random get past the first one.
const TAGS: &[u8] = b"\0?_0TFIUNZ\"cS^o{A$a@-D;:',RxynzsB~Vr\\\xffmc.";

fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => proptest::sample::select(TAGS),
        4 => 0_u8..5,
        1 => any::<u8>(),
    ];
    proptest::collection::vec(byte, 0..200).prop_map(|body| [b"\xff\x0f".as_slice(), &body].concat())
}

proptest! {
    #![proptest_config(random::config(1500))]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        v8::fuzz::check(&payload);
    }

    #[test]
    fn arbitrary_tags_are_read_or_refused(payload in likely_bytes()) {
        v8::fuzz::check(&payload);
    }
}

/// One change to a payload.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Remove(usize),
    Insert(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![proptest::sample::select(TAGS), any::<u8>(), 0_u8..8];
    prop_oneof![
        (any::<usize>(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        any::<usize>().prop_map(Change::Remove),
        (any::<usize>(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), 1_usize..30).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

fn apply(payload: &mut Vec<u8>, change: &Change) {
    let place = |at: &usize, length: usize| at % length.max(1);
    match change {
        Change::Set(at, byte) => {
            let at = place(at, payload.len());
            payload[at..].iter_mut().take(1).for_each(|old| *old = *byte);
        }
        Change::Remove(at) => drop(payload.splice(
            place(at, payload.len())..,
            payload[place(at, payload.len())..].iter().skip(1).copied().collect::<Vec<_>>(),
        )),
        Change::Insert(at, byte) => payload.insert(place(at, payload.len() + 1), *byte),
        Change::Cut(at) => payload.truncate(place(at, payload.len())),
        Change::Repeat(at, length) => {
            let at = place(at, payload.len());
            let copy: Vec<u8> = payload[at..].iter().take(*length).copied().collect();
            payload.splice(at..at, copy);
        }
    }
}

proptest! {
    #![proptest_config(random::config(400))]

    #[test]
    fn changed_messages_are_read_or_refused(plan in random::plan(), changes in proptest::collection::vec(change(), 1..4)) {
        let mut payload = random::build(&plan).to_vec().unwrap();
        changes.iter().for_each(|change| apply(&mut payload, change));
        v8::fuzz::check(&payload);
    }

    #[test]
    fn whole_messages_pass_the_check(plan in random::plan()) {
        v8::fuzz::check(&random::build(&plan).to_vec().unwrap());
    }
}

#[test]
fn every_cut_of_a_message_is_refused() {
    let payload = bytes(
        "ff0f 6f 2201'a' 41 02 6f 2201'z' 4902 7b01 5e02 24 00 02 2201'b' 3b 63 02 6100 5c000803 \
         4e 000000000000f87f 5a 10 0a00000000000000 3a 04 7b02",
    );
    let payload = [&payload[..], &[]].concat();
    for end in 0..payload.len() {
        assert!(Document::parse(&payload[..end]).is_err(), "cut at {end}");
        assert!(v8::from_slice::<Json>(&payload[..end]).is_err(), "cut at {end}");
        assert!(v8::from_slice::<IgnoredAny>(&payload[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn announced_lengths_are_not_believed() {
    for body in [
        "41 ffffffff0f",
        "41 ffffff7f 4902",
        "22 ffffffff0f",
        "63 feffffff0f",
        "53 ffffffff0f",
        "42 ffffffff0f",
        "7e ffffffff0f ffffffff0f",
        "5c 00 0a ffffffff0f",
        "5a ffffffff0f",
        "5a feffffff0f",
        "61 ffffffff0f",
        "61 ffffffff0f 40 00 ffffffff0f ",
    ] {
        let payload = bytes(&format!("ff0f {body}"));
        let document = Document::parse(&payload);
        let json = v8::from_slice_with::<Json>(&payload, &Limits { expansion: 9999, ..Limits::default() });
        assert!(json.is_err(), "{body}");
        assert!(document.is_err() || body.starts_with("61 ffffffff0f 40"), "{body}");
    }
}

#[test]
fn arrays_in_arrays_that_all_claim_the_rest_cost_little() {
    let mut body = b"\xff\x0f".to_vec();
    for _ in 0..100 {
        body.extend_from_slice(b"A\x80\x80\x40");
    }
    body.resize(1 << 20, b'_');
    assert!(Document::parse(&body).is_err());
    assert!(v8::from_slice::<Json>(&body).is_err());
}

#[test]
fn depth_is_limited_in_every_direction() {
    for (open, name) in [
        (b"o\"\x01a".as_slice(), "objects"),
        (b"A\x01", "arrays"),
        (b"a\x01I\0", "sparse arrays"),
        (b";\"\0", "maps"),
        (b"'", "sets"),
        (b"rc", "errors"),
    ] {
        let payload = [b"\xff\x0f".as_slice(), &open.repeat(200_000)].concat();
        assert_eq!(limit(Document::parse(&payload).err()), "depth", "{name}");
        assert_eq!(limit(v8::from_slice::<Json>(&payload).err()), "depth", "{name}");
        assert_eq!(limit(v8::from_slice::<IgnoredAny>(&payload).err()), "depth", "{name}");
    }
    let natives = [b"\xff\x0f".as_slice(), &b"\\\x01".repeat(200_000)].concat();
    assert!(Document::parse(&natives).is_err());
    assert!(v8::from_slice::<Json>(&natives).is_err());
    assert!(v8::from_slice::<IgnoredAny>(&natives).is_err());
}

#[test]
fn depth_is_exact() {
    let nested = |levels: usize| {
        let mut payload = b"\xff\x0f".to_vec();
        payload.extend(b"A\x01".repeat(levels));
        payload.extend(b"_");
        payload.extend(b"$\0\x01".repeat(levels));
        payload
    };
    let limits = Limits { depth: 10, ..Limits::default() };
    for (levels, fits) in [(10, true), (11, false)] {
        assert_eq!(Document::parse_with(&nested(levels), &limits).is_ok(), fits);
        assert_eq!(v8::from_slice_with::<Json>(&nested(levels), &limits).is_ok(), fits);
        assert_eq!(v8::from_slice_with::<IgnoredAny>(&nested(levels), &limits).is_ok(), fits);
        let json: Json = v8::from_slice(&nested(levels)).unwrap();
        assert_eq!(v8::append_to(&mut Vec::new(), &json, &limits).is_ok(), fits);
        let document = Document::parse(&nested(levels)).unwrap();
        assert_eq!(document.append_to(&mut Vec::new(), &limits).is_ok(), fits);
    }
}

#[test]
fn deepest_default_fits_a_thread_of_two_mebibytes() {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let payload = [b"\xff\x0f".as_slice(), &b"A\x01".repeat(128), b"_", &b"$\0\x01".repeat(128)].concat();
    let work = move || {
        let json: Json = v8::from_slice(&payload).unwrap();
        assert_eq!(v8::to_vec(&json).unwrap().len(), payload.len());
        assert_eq!(Document::parse(&payload).unwrap().to_vec().unwrap(), payload);
    };
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn values_are_limited() {
    let payload = [b"\xff\x0fA\x64".as_slice(), &[b'_'; 100], b"$\0\x64"].concat();
    let limits = |values| Limits { values, ..Limits::default() };
    assert!(Document::parse_with(&payload, &limits(101)).is_ok());
    assert_eq!(limit(Document::parse_with(&payload, &limits(100)).err()), "values");
}

#[test]
fn sizes_are_limited() {
    let payload = v8::to_vec("0123456789").unwrap();
    let limits = |bytes| Limits { bytes, ..Limits::default() };
    assert!(v8::from_slice_with::<String>(&payload, &limits(payload.len())).is_ok());
    assert_eq!(limit(v8::from_slice_with::<String>(&payload, &limits(payload.len() - 1)).err()), "bytes");
    assert_eq!(
        limit(v8::append_to(&mut Vec::new(), "0123456789", &limits(payload.len() - 1)).err()),
        "bytes"
    );
}

/// A list of lists, each of which holds the one before it twice.
fn laughs(levels: u8) -> Vec<u8> {
    let mut payload = [b"\xff\x0fA".as_slice(), &[levels]].concat();
    payload.extend(b"A\x02\"\x03ha!\"\x03ha!$\0\x02");
    for level in 1..levels {
        payload.extend([b'A', 2, b'^', level, b'^', level, b'$', 0, 2]);
    }
    payload.extend([b'$', 0, levels]);
    payload
}

#[test]
fn references_to_references_do_not_blow_up() {
    let few: Json = v8::from_slice(&laughs(4)).unwrap();
    assert_eq!(few[3][0][1][0][1], "ha!");
    let many = laughs(100);
    let limits = Limits { expansion: 1 << 17, ..Limits::default() };
    assert_eq!(limit(v8::from_slice_with::<Json>(&many, &limits).err()), "expansion");
    assert_eq!(limit(v8::from_slice_with::<Vec<Json>>(&many, &limits).err()), "expansion");
    assert!(v8::from_slice::<IgnoredAny>(&many).is_ok());
    assert_eq!(Document::parse(&many).unwrap().to_vec().unwrap(), many);
}

#[test]
fn the_expansion_is_what_is_read_again() {
    let payload = bytes("ff0f 41 03 41 01 4902 24 00 01 5e01 5e01 24 00 03");
    let read = |expansion| {
        v8::from_slice_with::<Vec<Vec<i32>>>(&payload, &Limits { expansion, ..Limits::default() })
    };
    assert_eq!(read(14).unwrap(), [[1], [1], [1]]);
    assert_eq!(limit(read(13).err()), "expansion");
}

#[test]
fn holes_are_paid_for() {
    let payload = bytes("ff0f 61 8008 4900 54 40 01 8008");
    let read = |expansion| {
        v8::from_slice_with::<Vec<Option<bool>>>(&payload, &Limits { expansion, ..Limits::default() })
    };
    assert_eq!(read(1023).unwrap().len(), 1024);
    assert_eq!(limit(read(1022).err()), "expansion");
}

#[test]
fn an_object_inside_itself_is_an_error_for_serde() {
    for body in [
        "6f 2201'a' 5e00 7b01",
        "41 01 41 01 5e00 24 00 01 24 00 01",
        "41 02 6f 2201'a' 6f 2201'b' 5e01 7b01 7b01 5e02 24 00 02",
        "3b 5e00 4902 3a 02",
        "72 63 5e00 2e",
        "5c 01 5e00",
        "5c 01 6f 2201'a' 5e00 7b01",
    ] {
        let result = v8::from_slice::<Json>(&bytes(&format!("ff0f {body}")));
        assert!(matches!(result, Err(Error::Cycle { .. })), "{body}: {result:?}");
    }
    // Skipped over, the cycle is met when the object is read again from elsewhere.
    let payload = bytes("ff0f 6f 2204'skip' 6f 2201'a' 5e01 7b01 2204'read' 5e01 7b02");
    assert!(matches!(v8::from_slice::<Json>(&payload), Err(Error::Cycle { .. })));
}

#[test]
fn a_reference_into_the_future_is_an_error_for_serde() {
    let payload = bytes("ff0f 41 02 5e01 6f 7b00 24 00 02");
    assert_eq!(v8::from_slice::<Json>(&payload).unwrap_err(), Error::Reference { offset: 4, id: 1 });
}

#[test]
fn names_with_equal_digests_are_still_told_apart() {
    // Many names of many lengths, so that the comparison by digest is used in earnest.
    let names: std::collections::BTreeMap<String, usize> =
        (0..20_000).map(|n| (format!("{n:x}/{n}"), n)).collect();
    let payload = v8::to_vec(&names).unwrap();
    assert_eq!(v8::from_slice::<std::collections::BTreeMap<String, usize>>(&payload).unwrap(), names);
}
