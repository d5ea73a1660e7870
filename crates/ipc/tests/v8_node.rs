//! The codec against the real thing: a Node process at the other end of a channel with `serialization: 'advanced'`.
//!
//! Both sides describe every value they see in the same words, so that a value that arrives as another one shows.
//! `everycore_peers` says which Node it is, `PROPTEST_CASES` asks for more values at random.
//! Node 20 or later: older ones know neither resizable buffers nor the flag `v`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod v8_support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use everycore_ipc::v8::{
    self, BigInt, Buffer, Date, Document, ErrorKind, ErrorObject, Frame, JsString, Key, Limits, Object,
    Value, ViewKind,
};
use proptest::prelude::*;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use v8_support::{describe, random};

/// A Node process that answers what it was sent.
struct Peer {
    channel: UnixStream,
    received: Vec<u8>,
    process: Child,
}

const DEADLINE: Duration = Duration::from_secs(30);

impl Peer {
    /// None, with a word about it, where there is no Node.
    fn start() -> Option<Self> {
        let node = everycore_peers::node()?;
        if !node.writes_as_node() {
            everycore_peers::pass_over(
                "the `advanced` of Bun is its own format, that of Deno a later version which Node refuses, too",
            );
            return None;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        ours.set_write_timeout(Some(DEADLINE)).unwrap();
        let process = node
            .command()
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v8_peer.js"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env("NODE_CHANNEL_FD", "0")
            .env("NODE_CHANNEL_SERIALIZATION_MODE", "advanced")
            .spawn()
            .unwrap();
        Some(Self { channel: ours, received: Vec::new(), process })
    }

    fn send(&mut self, document: &Document) {
        let mut frame = Vec::new();
        document.append_frame(&mut frame, &Limits::default()).unwrap();
        self.channel.write_all(&frame).unwrap();
    }

    /// The payload of the next message.
    fn receive(&mut self) -> Vec<u8> {
        loop {
            match v8::split_frame(&self.received, &Limits::default()).unwrap() {
                Frame::Whole(payload) => {
                    let payload = payload.to_vec();
                    self.received.drain(..v8::PREFIX + payload.len());
                    return payload;
                }
                Frame::Part { .. } => {
                    let mut bytes = [0; 65536];
                    let count = self.channel.read(&mut bytes).expect("an answer within the deadline");
                    assert!(count > 0, "the peer has died");
                    self.received.extend_from_slice(&bytes[..count]);
                }
            }
        }
    }

    /// Sends a value and gets it back. The peer has to have seen what was sent, and what comes back is the same.
    fn check(&mut self, name: &str, document: &Document) {
        let payload = self.echo(document);
        let (seen, back) = answer(&payload);
        let sent = describe(document);
        assert_eq!(seen, sent, "{name}: the peer saw something else (left) than was sent (right)");
        assert_eq!(describe(&back), sent, "{name}: something else (left) came back than was sent (right)");
    }

    fn echo(&mut self, document: &Document) -> Vec<u8> {
        let mut request = document.clone();
        let value = request.root().clone();
        let root = request.add(Object::plain([("op", Value::from("echo")), ("value", value)]));
        request.set_root(root);
        self.send(&request);
        self.receive()
    }

    /// Sends a value by way of serde and gets its payload back.
    fn echo_serde<T: Serialize>(&mut self, value: &T) -> (String, Vec<u8>) {
        let mut frame = Vec::new();
        v8::append_frame(&mut frame, &Echo { op: "echo", value }, &Limits::default()).unwrap();
        self.channel.write_all(&frame).unwrap();
        let payload = self.receive();
        let (text, document) = answer(&payload);
        (text, document.to_vec().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the peer said about a value, and the value it sent back.
fn answer(payload: &[u8]) -> (String, Document) {
    let mut answer = Document::parse(payload).unwrap();
    if let Some(why) = answer.property(answer.root(), "failed") {
        panic!("the peer could not read it: {why:?}");
    }
    let text = answer.property(answer.root(), "text").unwrap().as_str().unwrap().to_owned();
    let value = answer.property(answer.root(), "value").cloned().unwrap_or_default();
    answer.set_root(value);
    (text, answer)
}

struct Echo<'a, T> {
    op: &'static str,
    value: &'a T,
}

impl<T: Serialize> Serialize for Echo<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Echo", 2)?;
        fields.serialize_field("op", self.op)?;
        fields.serialize_field("value", self.value)?;
        fields.end()
    }
}

/// Every row of the format's table, in every form this codec writes.
fn rows() -> Vec<(&'static str, Document)> {
    let primitives: [(&str, Value); 28] = [
        ("undefined", Value::Undefined),
        ("null", Value::Null),
        ("true", true.into()),
        ("false", false.into()),
        ("zero", 0.into()),
        ("int max", i32::MAX.into()),
        ("int min", i32::MIN.into()),
        ("minus zero", Value::Double(-0.0)),
        ("small double", Value::Double(7.0)),
        ("double", Value::Double(0.1)),
        ("2^31", Value::Double(2147483648.0)),
        ("nan", Value::Double(f64::NAN)),
        ("infinity", Value::Double(f64::NEG_INFINITY)),
        ("bigint 0", BigInt::from(0_i128).into()),
        ("bigint 10", BigInt::from(10_i128).into()),
        ("bigint min", BigInt::from(i128::MIN).into()),
        ("bigint long", BigInt::new(true, vec![1, 2, 3, 4, 5]).into()),
        ("empty", "".into()),
        ("ascii", "plain".into()),
        ("latin", "hällo".into()),
        ("wide", "€ 😀".into()),
        ("long", "x".repeat(70_000).into()),
        ("long wide", "€".repeat(70_000).into()),
        ("lone surrogate", Value::String(JsString::from_utf16(vec![0x61, 0xd83d]))),
        ("lone at odd offset", Value::String(JsString::from_utf16(vec![0xdc00, 0xd83d, 0x62]))),
        ("nul", "\0a\0".into()),
        ("newline", "\n".into()),
        ("quote", "\"\\".into()),
    ];
    let error = |kind, message: Option<&str>, cause: Option<Value>| {
        let (message, stack) = (message.map(JsString::from), Some("at x".into()));
        Object::Error(Box::new(ErrorObject { kind, message, stack, cause }))
    };
    let bytes: Vec<u8> = (0..16).collect();
    let objects: [(&str, Object); 44] = [
        ("object", Object::plain([("b", 1), ("a", 2), ("10", 3), ("9", 4), ("é", 5), ("€", 6), ("", 7)])),
        (
            "large keys",
            Object::plain([(Key::from(u32::MAX), 1), (Key::from(u32::MAX - 1), 2), (Key::from(1 << 31), 3)]),
        ),
        ("__proto__", Object::plain([("__proto__", 1)])),
        ("empty object", Object::Plain(vec![])),
        ("undefined property", Object::plain([("a", Value::Undefined)])),
        ("array", Object::array([1.into(), "two".into(), Value::Undefined])),
        ("empty array", Object::array([])),
        ("holes", Object::Array { elements: vec![None, Some(1.into()), None], properties: vec![] }),
        ("named", Object::Array { elements: vec![None], properties: vec![("x".into(), 2.into())] }),
        (
            "sparse",
            Object::SparseArray { length: 9, entries: vec![(3.into(), 1.into()), ("x".into(), 2.into())] },
        ),
        (
            "sparse longest",
            Object::SparseArray { length: u32::MAX, entries: vec![((u32::MAX - 1).into(), 1.into())] },
        ),
        (
            "map",
            Object::Map(vec![(1.into(), "a".into()), ("1".into(), Value::Null), (f64::NAN.into(), 2.into())]),
        ),
        ("empty map", Object::Map(vec![])),
        ("set", Object::Set(vec![1.into(), "1".into(), Value::Undefined])),
        ("date", Object::Date(1.7e12)),
        ("invalid date", Object::Date(f64::NAN)),
        ("regexp", Object::RegExp { source: "a+|€".into(), flags: "dgimsuy".parse().unwrap() }),
        ("regexp with sets", Object::RegExp { source: "[a--b]".into(), flags: "v".parse().unwrap() }),
        ("Boolean true", Object::Boolean(true)),
        ("Boolean false", Object::Boolean(false)),
        ("Number", Object::Number(-0.0)),
        ("BigInt", Object::BigInt(BigInt::from(-5_i128))),
        ("String", Object::String("wrapped €".into())),
        ("buffer", Object::ArrayBuffer { bytes: bytes.clone(), max_length: None }),
        ("resizable", Object::ArrayBuffer { bytes: bytes.clone(), max_length: Some(99) }),
        ("empty buffer", Object::ArrayBuffer { bytes: vec![], max_length: None }),
        ("Buffer", Object::buffer(b"hey".as_slice())),
        ("Int8", Object::TypedArray { kind: ViewKind::Int8, bytes: bytes.clone() }),
        ("Uint8", Object::TypedArray { kind: ViewKind::Uint8, bytes: bytes.clone() }),
        ("Uint8Clamped", Object::TypedArray { kind: ViewKind::Uint8Clamped, bytes: bytes.clone() }),
        ("Int16", Object::TypedArray { kind: ViewKind::Int16, bytes: bytes.clone() }),
        ("Uint16", Object::TypedArray { kind: ViewKind::Uint16, bytes: bytes.clone() }),
        ("Int32", Object::TypedArray { kind: ViewKind::Int32, bytes: bytes.clone() }),
        ("Uint32", Object::TypedArray { kind: ViewKind::Uint32, bytes: bytes.clone() }),
        ("Float32", Object::TypedArray { kind: ViewKind::Float32, bytes: bytes.clone() }),
        ("Float64", Object::TypedArray { kind: ViewKind::Float64, bytes: bytes.clone() }),
        ("DataView", Object::TypedArray { kind: ViewKind::DataView, bytes: bytes.clone() }),
        ("BigInt64", Object::TypedArray { kind: ViewKind::BigInt64, bytes: bytes.clone() }),
        ("BigUint64", Object::TypedArray { kind: ViewKind::BigUint64, bytes: bytes.clone() }),
        ("Error", error(ErrorKind::Error, Some("plain"), None)),
        ("TypeError", error(ErrorKind::Type, Some("€"), Some(1.into()))),
        ("RangeError", error(ErrorKind::Range, None, Some(Value::Undefined))),
        ("EvalError", error(ErrorKind::Eval, Some("e"), None)),
        ("URIError", error(ErrorKind::Uri, Some("u"), None)),
    ];
    let primitives = primitives.into_iter().map(|(name, value)| {
        let mut document = Document::new();
        let list = document.add(Object::array([value.clone(), value]));
        document.set_root(list);
        (name, document)
    });
    let objects = objects.into_iter().map(|(name, object)| {
        let mut document = Document::new();
        let id = document.add(object);
        let list = document.add(Object::array([id.into(), id.into()]));
        document.set_root(list);
        (name, document)
    });
    primitives.chain(objects).chain(linked()).collect()
}

/// Values that are about who refers to whom.
fn linked() -> [(&'static str, Document); 5] {
    let mut cycle = Document::new();
    let object = cycle.add(Object::plain([("a", 1)]));
    let list = cycle.add(Object::array([object.into()]));
    *cycle.object_mut(object).unwrap() = Object::plain([("list", list), ("self", object)]);
    cycle.set_root(object);

    let mut views = Document::new();
    let buffer = views.add(Object::ArrayBuffer { bytes: (0..16).collect(), max_length: None });
    let view = |kind, offset, length| Object::View { buffer, kind, offset, length, tracks_length: false };
    let kinds =
        [ViewKind::Uint8, ViewKind::Buffer, ViewKind::Float64, ViewKind::DataView, ViewKind::BigInt64];
    let kinds = kinds.map(|kind| views.add(view(kind, 8, 8)));
    let all = kinds.into_iter().chain([buffer, kinds[0]]).map(Value::from);
    let all = views.add(Object::array(all));
    views.set_root(all);

    let mut resizable = Document::new();
    let buffer = resizable.add(Object::ArrayBuffer { bytes: (0..16).collect(), max_length: Some(32) });
    let view =
        |tracks_length| Object::View { buffer, kind: ViewKind::Uint16, offset: 2, length: 14, tracks_length };
    let both = [false, true].map(|tracks_length| resizable.add(view(tracks_length)).into());
    let both = resizable.add(Object::array(both));
    resizable.set_root(both);

    let mut native = Document::new();
    let fields = native.add(Object::plain([("fd", 3)]));
    let outer = native.add(Object::Native(fields));
    let both = native.add(Object::array([outer.into(), fields.into(), outer.into()]));
    native.set_root(both);

    let mut deep = Document::new();
    let innermost = deep.add(Object::Set(vec![]));
    let root = (0..120).fold(innermost, |inner, _| deep.add(Object::plain([("inner", inner)])));
    deep.set_root(root);

    [("cycle", cycle), ("views", views), ("resizable views", resizable), ("native", native), ("deep", deep)]
}

#[test]
fn every_row_of_the_table_crosses_both_ways() {
    let Some(mut peer) = Peer::start() else { return };
    for (name, document) in rows() {
        peer.check(name, &document);
    }
}

#[test]
fn every_value_that_node_writes_is_read_and_returned() {
    let Some(mut peer) = Peer::start() else { return };
    let mut request = Document::new();
    let root = request.add(Object::plain([("op", "samples")]));
    request.set_root(root);
    peer.send(&request);
    let mut samples = Vec::new();
    loop {
        let payload = peer.receive();
        let (text, value) = answer(&payload);
        if text == "end" {
            break;
        }
        assert_eq!(describe(&value), text);
        v8::fuzz::check(&payload);
        samples.push((text, value));
    }
    assert!(samples.len() > 90, "only {} samples", samples.len());
    for (text, value) in &samples {
        peer.check(text, value);
    }
}

#[test]
fn any_value_crosses_both_ways() {
    let Some(peer) = Peer::start() else { return };
    let peer = Mutex::new(peer);
    let mut runner = random::runner(400);
    let outcome = runner.run(&random::plan(), |plan| {
        peer.lock().unwrap_or_else(|broken| broken.into_inner()).check("at random", &random::build(&plan));
        Ok(())
    });
    outcome.unwrap();
}

/// A sequence that does not know its length in advance.
struct Stream(Vec<Vec<i64>>);

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Items<'a>(&'a [i64]);
        impl Serialize for Items<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut items = serializer.serialize_seq(None)?;
                self.0.iter().try_for_each(|item| items.serialize_element(item))?;
                items.end()
            }
        }
        let mut lists = serializer.serialize_seq(None)?;
        self.0.iter().try_for_each(|list| lists.serialize_element(&Items(list)))?;
        lists.end()
    }
}

#[test]
fn what_serde_writes_comes_back_to_serde() {
    let Some(mut peer) = Peer::start() else { return };
    let (text, back) = peer.echo_serde(&(Buffer(b"hey".to_vec()), Date(5.0), 1_u64 << 40, u64::MAX, "é€"));
    let forty = (f64::from(2).powi(40)).to_bits();
    let five = 5_f64.to_bits();
    assert_eq!(
        text,
        format!(
            r##"#0=[5,"0":#1=Buffer(686579),"1":#2=Date({five:016x}),"2":{forty:016x},"3":0xffffffffffffffff,"4":"\u00e9\u20ac"]"##
        )
    );
    let read: (Buffer, Date, u64, u64, String) = v8::from_slice(&back).unwrap();
    assert_eq!(read, (Buffer(b"hey".to_vec()), Date(5.0), 1 << 40, u64::MAX, "é€".into()));

    let lists = vec![vec![], vec![1, -2, 1 << 45], (0..300).collect()];
    let (_, back) = peer.echo_serde(&Stream(lists.clone()));
    assert_eq!(v8::from_slice::<Vec<Vec<i64>>>(&back).unwrap(), lists);

    let by_number: BTreeMap<i64, Option<bool>> =
        [(-5, None), (7, Some(true)), (1 << 40, None), (u32::MAX.into(), None)].into();
    let (_, back) = peer.echo_serde(&by_number);
    assert_eq!(v8::from_slice::<BTreeMap<i64, Option<bool>>>(&back).unwrap(), by_number);
}

#[test]
fn any_json_comes_back_to_serde() {
    let Some(peer) = Peer::start() else { return };
    let peer = Mutex::new(peer);
    let mut runner = random::runner(200);
    let outcome = runner.run(&json(), |value| {
        let (_, back) = peer.lock().unwrap_or_else(|broken| broken.into_inner()).echo_serde(&value);
        prop_assert_eq!(v8::from_slice::<serde_json::Value>(&back).unwrap(), value);
        Ok(())
    });
    outcome.unwrap();
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let text = prop_oneof!["[a-z]{0,8}", ".{0,12}", "[0-9]{1,11}"];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        (-1e9..1e9_f64)
            .prop_filter("an integer", |value| value.fract() != 0.0)
            .prop_map(serde_json::Value::from),
        text.clone().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(5, 80, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(text.clone(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
