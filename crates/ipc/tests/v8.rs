//! The bytes themselves: what was captured from Node, and each rule of the format.

#![allow(clippy::unwrap_used, reason = "tests")]

mod v8_support;

use std::collections::BTreeMap;

use everycore_ipc::v8::{
    self, BigInt, Document, Error, ErrorKind, ErrorObject, Frame, JsString, Key, Limits, Object, Value,
    ViewKind,
};
use proptest::prelude::*;
use v8_support::{bytes, describe, hex, random};

fn read(body: &str) -> Result<Document, Error> {
    Document::parse(&bytes(&format!("ff0f {body}")))
}

/// The body that a document is written as.
fn written(document: &Document) -> String {
    let payload = document.to_vec().unwrap();
    assert_eq!(payload[..2], [0xff, 0x0f]);
    hex(&payload[2..])
}

fn written_object(object: Object) -> Result<String, Error> {
    let mut document = Document::new();
    let root = document.add(object);
    document.set_root(root);
    document.to_vec().map(|payload| hex(&payload[2..]))
}

#[test]
fn captured_frames_are_read_and_written_alike() {
    let frames = [
        (
            "0000002c ff0f 6f 2203'cmd' 220c'NODE_CLUSTER' 2203'act' 2206'online' 2203'seq' 4900 7b03",
            Object::plain([
                ("cmd", Value::from("NODE_CLUSTER")),
                ("act", "online".into()),
                ("seq", 0.into()),
            ]),
        ),
        (
            "0000001b ff0f 6f 2203'cmd' 220f'NODE_HANDLE_ACK' 7b01",
            Object::plain([("cmd", "NODE_HANDLE_ACK")]),
        ),
        (
            "00000036 ff0f 6f 2203'cmd' 220b'NODE_HANDLE' 2204'type' 220a'net.Server' 2203'msg' 2206'server' 7b03",
            Object::plain([("cmd", "NODE_HANDLE"), ("type", "net.Server"), ("msg", "server")]),
        ),
        ("00000009 ff0f 5c 00 0a 03 'hey'", Object::buffer(b"hey".as_slice())),
        (
            "00000009 ff0f 5c 00 01 03 010203",
            Object::TypedArray { kind: ViewKind::Uint8, bytes: vec![1, 2, 3] },
        ),
    ];
    for (frame, object) in frames {
        let frame = bytes(frame);
        let Ok(Frame::Whole(payload)) = v8::split_frame(&frame, &Limits::default()) else { panic!() };
        assert_eq!(payload.len() + v8::PREFIX, frame.len());
        let read = Document::parse(payload).unwrap();
        assert_eq!(read.resolve(read.root()), Some(&object));
        let mut again = Vec::new();
        read.append_frame(&mut again, &Limits::default()).unwrap();
        assert_eq!(again, frame);
    }
}

#[test]
fn the_same_object_twice_is_one_object() {
    // As captured: the root is 0, the array in it 1, the object in that 2.
    let body = "6f 2201'a' 41 02 6f 2201'z' 4902 7b01 5e02 24 00 02 7b01";
    let document = read(body).unwrap();
    let list = document.property(document.root(), "a").unwrap();
    assert_eq!(document.property(list, 0), document.property(list, 1));
    assert_eq!(written(&document), hex(&bytes(body)));
}

#[test]
fn ten_is_a_bigint_and_zero_has_no_digits() {
    assert_eq!(read("5a 10 0a00000000000000").unwrap().root(), &BigInt::from(10_i128).into());
    assert_eq!(read("5a 00").unwrap().root(), &BigInt::from(0_i128).into());
    assert_eq!(read("5a 01").unwrap().root(), &BigInt::from(0_i128).into());
    let mut document = Document::new();
    document.set_root(BigInt::new(true, vec![5, 0]));
    assert_eq!(written(&document), "5a110500000000000000");
}

#[test]
fn cycles_survive() {
    let document = read("6f 2204'self' 5e00 7b01").unwrap();
    assert_eq!(document.property(document.root(), "self"), Some(document.root()));
    assert_eq!(describe(&document), "#0={\"self\":#0}");
    assert_eq!(written(&document), hex(&bytes("6f 2204'self' 5e00 7b01")));
}

#[test]
fn every_kind_takes_a_number_on_the_wire() {
    // Each list holds one object and a reference to what comes after it in numbers: the object is 1.
    let objects = [
        "44 0000000000000000",
        "52 2201'a' 00",
        "79",
        "6e 000000000000f03f",
        "7a 00",
        "73 2201'a'",
        "42 00",
        "7e 00 08",
        "5c 00 0a 00",
        "3b 3a 00",
        "27 2c 00",
        "72 2e",
        "61 00 40 00 00",
    ];
    for object in objects {
        let document = read(&format!("41 02 {object} 5e01 24 00 02")).unwrap();
        let pair = (document.property(document.root(), 0), document.property(document.root(), 1));
        assert_eq!(pair.0, pair.1, "{object}");
        assert!(read(&format!("41 02 {object} 5e02 24 00 02")).is_err(), "{object}");
    }
}

#[test]
fn a_native_object_takes_two_numbers() {
    let body = "41 03 5c 01 6f 7b00 5e01 5e02 24 00 03";
    let document = read(body).unwrap();
    let Some(Object::Native(inner)) = document.resolve(document.property(document.root(), 0).unwrap()) else {
        panic!()
    };
    assert_eq!(document.property(document.root(), 0), document.property(document.root(), 1));
    assert_eq!(document.property(document.root(), 2), Some(&Value::Object(*inner)));
    assert_eq!(written(&document), hex(&bytes(body)));
}

#[test]
fn a_view_stands_behind_its_buffer_or_a_reference_to_it() {
    let body = "41 04 42 04 01020304 56 42 01 02 00 5e01 5e02 5e01 56 57 02 02 00 24 00 04";
    let document = read(body).unwrap();
    assert_eq!(
        describe(&document),
        "#0=[4,\"0\":#1=Uint8Array(0203),\"1\":#2=ArrayBuffer(01020304),\"2\":#1,\"3\":#3=Uint16Array(0304)]"
    );
    assert_eq!(written(&document), hex(&bytes(body)));
}

#[test]
fn views_before_version_14_have_no_flags() {
    let view = "42 02 0102 56 42 01 01";
    let describe = |payload: &str| Document::parse(&bytes(payload)).map(|document| describe(&document));
    assert_eq!(describe(&format!("ff0d {view}")).unwrap(), "#0=Uint8Array(02)");
    assert_eq!(describe(&format!("ff0e {view} 00")).unwrap(), "#0=Uint8Array(02)");
    assert!(describe(&format!("ff0e {view}")).is_err());
}

#[test]
fn a_view_fits_its_buffer() {
    for view in [
        "42 05 00 00",
        "42 04 01 00",
        "57 01 02 00",
        "57 00 03 00",
        "42 00 01 01",
        "42 00 01 02",
        "41 00 01 00",
    ] {
        let result = read(&format!("42 04 01020304 56 {view}"));
        assert!(matches!(result, Err(Error::Malformed { .. })), "{view}: {result:?}");
    }
    for view in ["42 00 04 02", "57 02 00 03"] {
        assert!(read(&format!("7e 04 08 01020304 56 {view}")).is_ok(), "{view}");
    }
    assert!(read("7e 09 08 010203040506070809").is_err());
}

#[test]
fn older_versions_are_read_and_newer_ones_are_not() {
    for version in ["0d", "0e", "0f", "8f00"] {
        assert!(Document::parse(&bytes(&format!("ff{version} 30"))).is_ok());
    }
    for (header, expected) in [
        ("ff0c 30", Error::Version { found: 12 }),
        ("ff10 30", Error::Version { found: 16 }),
        ("ff8f02 30", Error::Version { found: 271 }),
        ("30", Error::NoHeader),
        ("", Error::NoHeader),
        ("ff", Error::Truncated { offset: 1 }),
        ("ff0f", Error::Truncated { offset: 2 }),
    ] {
        assert_eq!(Document::parse(&bytes(header)).unwrap_err(), expected);
    }
}

#[test]
fn padding_and_object_counts_carry_nothing() {
    let body = "0000 3f05 6f 00 3f01 3f02 2201'a' 00 4902 00 2201'b' 41 02 00 2d 00 4904 24 00 02 7b 02";
    assert_eq!(
        describe(&read(body).unwrap()),
        describe(&read("6f 2201'a' 4902 2201'b' 41 02 2d 4904 24 00 02 7b 02").unwrap())
    );
    assert!(read("6f 3f01 7b00").is_err());
}

#[test]
fn long_counts_may_be_padded() {
    assert!(read("41 8180808000 4902 24 00 81808080808000").is_ok());
}

#[test]
fn strings_come_in_three_forms() {
    for (body, expected) in [
        ("22 02 'a' e9", "aé"),
        ("63 04 6100 ac20", "a€"),
        ("53 04 'a' e282ac", "a€"),
        ("53 03 61ff62", "a\u{fffd}b"),
        ("22 00", ""),
        ("00 63 04 3dd8 00de", "\u{1f600}"),
    ] {
        assert_eq!(read(body).unwrap().root(), &Value::from(expected));
    }
    assert_eq!(read("63 02 3dd8").unwrap().root(), &Value::String(JsString::from_utf16(vec![0xd83d])));
    assert!(read("63 03 616263").is_err());
}

#[test]
fn strings_are_written_as_latin_utf8_or_units() {
    for (value, expected) in [
        (JsString::from("abc"), "2203616263"),
        (JsString::from("é"), "5302c3a9"),
        (JsString::from("€"), "5303e282ac"),
        (JsString::from_utf16(vec![0x20ac]), "5303e282ac"),
        (JsString::from_utf16(vec![0x61, 0xd83d]), "630461003dd8"),
    ] {
        let mut document = Document::new();
        document.set_root(Value::String(value));
        assert_eq!(written(&document), expected);
    }
}

#[test]
fn names_are_indices_or_text() {
    let document =
        read("6f 4902 4902 4901 4904 55ffffffff0f 4906 4e000000000000f83f 4908 2201'7' 490a 7b05").unwrap();
    let keys: Vec<_> =
        document.resolve(document.root()).unwrap().properties().iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [1.into(), Key::from("-1"), u32::MAX.into(), "1.5".into(), 7.into()]);
    assert_eq!(document.property(document.root(), "7"), Some(&Value::Int(5)));
    for key in ["54", "5a00", "5f", "30", "5e00", "6f7b00"] {
        assert!(
            matches!(read(&format!("6f {key} 4902 7b01")), Err(Error::Malformed { offset: 3, .. })),
            "{key}"
        );
    }
    let large =
        Object::plain([(Key::from(i32::MAX as u32), 0), (Key::from(1 << 31), 1), (Key::from(u32::MAX), 2)]);
    assert_eq!(
        written_object(large).unwrap(),
        hex(&bytes("6f 49feffffff0f 4900 4e000000000000e041 4902 220a'4294967295' 4904 7b03"))
    );
}

#[test]
fn counts_and_lengths_have_to_agree() {
    let bodies = [
        "6f 2201'a' 4902 7b02",
        "6f 7b01",
        "41 01 4902 24 01 01",
        "41 01 4902 24 00 02",
        "41 02 4902 24 00 02",
        "61 03 4904 4904 40 02 03",
        "61 03 4904 4904 40 01 04",
        "3b 4902 4902 3a 01",
        "3b 4902 3a 01",
        "27 4902 2c 02",
        "2d",
        "27 2d 2c 01",
        "3b 2d 4902 3a 02",
        "73 4902",
        "52 4902 00",
        "52 2201'a' 40",
        "52 2201'a' 9002",
        "72 00 2e",
        "72 41 2e",
        "72 6d 4902 2e",
        "5c 02 6f7b00",
        "5c 00 0e 00",
        "5c 00 07 03 010203",
        "5c 01 4902",
        "5c 01 5e00",
        "5c 01 5e00 56",
        "74 00",
        "75 00",
        "70 00",
    ];
    for body in bodies {
        let result = read(body);
        let fits = matches!(
            result,
            Err(Error::Malformed { .. } | Error::UnknownTag { .. } | Error::Truncated { .. })
        );
        assert!(fits, "{body}: {result:?}");
    }
}

#[test]
fn references_go_backwards() {
    assert_eq!(read("41 01 5e01 24 00 01").unwrap_err(), Error::Reference { offset: 4, id: 1 });
    assert_eq!(read("5e00").unwrap_err(), Error::Reference { offset: 2, id: 0 });
}

#[test]
fn errors_are_read_in_both_orders() {
    for body in ["72 54 6d 2201'm' 63 4902 73 2201's' 2e", "72 54 6d 2201'm' 73 2201's' 63 4902 2e"] {
        let document = read(body).unwrap();
        let expected = ErrorObject {
            kind: ErrorKind::Type,
            message: Some("m".into()),
            stack: Some("s".into()),
            cause: Some(1.into()),
        };
        assert_eq!(document.resolve(document.root()), Some(&Object::Error(Box::new(expected))));
        assert_eq!(written(&document), hex(&bytes("72 54 6d 2201'm' 73 2201's' 63 4902 2e")));
    }
}

#[test]
fn what_follows_the_value_is_ignored() {
    assert_eq!(read("4902 ffff").unwrap().root(), &Value::Int(1));
}

#[test]
fn what_a_node_peer_would_refuse_is_not_written() {
    let twice = |a: &str, b: &str| {
        Object::Plain(vec![(a.into(), 1.into()), ("x".into(), 0.into()), (b.into(), 2.into())])
    };
    assert!(matches!(written_object(twice("a", "a")), Err(Error::DuplicateKey { .. })));
    assert!(matches!(written_object(twice("1", "1")), Err(Error::DuplicateKey { .. })));
    assert!(matches!(written_object(twice("é", "é")), Err(Error::DuplicateKey { .. })));
    assert!(written_object(twice("1", "01")).is_ok());

    let with = |key: &str| Object::Array { elements: vec![None], properties: vec![(key.into(), 1.into())] };
    assert!(written_object(with("length")).is_err());
    assert!(written_object(with("0")).is_err());
    assert!(written_object(with("name")).is_ok());
    let sparse = |key: &str| Object::SparseArray { length: 3, entries: vec![(key.into(), 1.into())] };
    assert!(written_object(sparse("3")).is_err());
    assert!(written_object(sparse("length")).is_err());
    assert!(written_object(sparse("2")).is_ok());

    assert!(written_object(Object::TypedArray { kind: ViewKind::Int32, bytes: vec![0; 6] }).is_err());
    assert!(written_object(Object::ArrayBuffer { bytes: vec![0; 6], max_length: Some(5) }).is_err());
}

#[test]
fn views_on_nothing_and_strangers_are_not_written() {
    let mut other = Document::new();
    let plain = other.add(Object::plain([("a", 1)]));
    let stranger = other.add(Object::Set(vec![]));
    let mut document = Document::new();
    document.set_root(stranger);
    assert!(matches!(document.to_vec(), Err(Error::Unsupported { .. })));
    let view = other.add(Object::View {
        buffer: plain,
        kind: ViewKind::Int8,
        offset: 0,
        length: 0,
        tracks_length: false,
    });
    other.set_root(view);
    assert!(matches!(other.to_vec(), Err(Error::Unsupported { .. })));
    let buffer = other.add(Object::ArrayBuffer { bytes: vec![0; 4], max_length: None });
    let view = |offset, tracks_length| Object::View {
        buffer,
        kind: ViewKind::Int16,
        offset,
        length: 2,
        tracks_length,
    };
    for (view, fits) in
        [(view(1, false), false), (view(4, false), false), (view(0, true), false), (view(2, false), true)]
    {
        let view = other.add(view);
        other.set_root(view);
        assert_eq!(other.to_vec().is_ok(), fits);
    }
}

#[test]
fn an_error_leaves_the_buffer_as_it_was() {
    let mut document = Document::new();
    let root = document.add(Object::plain([("a", 1), ("a", 2)]));
    document.set_root(root);
    let mut out = b"before".to_vec();
    assert!(document.append_frame(&mut out, &Limits::default()).is_err());
    assert!(document.append_to(&mut out, &Limits::default()).is_err());
    assert!(v8::append_frame(&mut out, &BTreeMap::from([([1], 2)]), &Limits::default()).is_err());
    assert_eq!(out, b"before");
}

#[test]
fn frames_follow_one_another() {
    let limits = Limits { bytes: 100, ..Limits::default() };
    let mut stream = Vec::new();
    v8::append_frame(&mut stream, &1, &limits).unwrap();
    v8::append_frame(&mut stream, "two", &limits).unwrap();
    let Ok(Frame::Whole(first)) = v8::split_frame(&stream, &limits) else { panic!() };
    let rest = &stream[v8::PREFIX + first.len()..];
    for end in 0..rest.len() {
        let needed = if end < v8::PREFIX { v8::PREFIX } else { rest.len() };
        assert_eq!(v8::split_frame(&rest[..end], &limits), Ok(Frame::Part { needed }));
    }
    assert_eq!(v8::split_frame(rest, &limits), Ok(Frame::Whole(&rest[v8::PREFIX..])));
    assert_eq!(v8::split_frame(&[0; 4], &limits), Ok(Frame::Whole(&[])));
    assert!(matches!(
        v8::split_frame(&[0, 0, 0, 101], &limits),
        Err(Error::Limit { limit: "bytes", allowed: 100, .. })
    ));
    assert!(v8::split_frame(&[0x80, 0, 0, 0], &Limits { bytes: usize::MAX, ..limits }).is_err());
    assert!(v8::append_frame(&mut stream, &"x".repeat(99), &limits).is_err());
}

proptest! {
    #![proptest_config(random::config(256))]

    #[test]
    fn any_document_survives(plan in random::plan()) {
        let document = random::build(&plan);
        let payload = document.to_vec().unwrap();
        let read = Document::parse(&payload).unwrap();
        prop_assert_eq!(describe(&read), describe(&document));
        prop_assert_eq!(read.to_vec().unwrap(), payload);
    }

    #[test]
    fn any_string_survives(string in random::string()) {
        prop_assert_eq!(&JsString::from_utf16(string.to_utf16()), &string);
        let mut document = Document::new();
        document.set_root(Value::String(string.clone()));
        let read = Document::parse(&document.to_vec().unwrap()).unwrap();
        prop_assert_eq!(read.root(), &Value::String(string));
    }
}
