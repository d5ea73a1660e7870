//! Every message there and back, and whatever else may come.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::address::{Address, BoundAddress};
use crate::secret::{Secret, SecretSet};

fn secrets() -> SecretSet {
    SecretSet {
        current: Secret::new(u32::MAX, [1; Secret::LEN]),
        next: Secret::new(0, [2; Secret::LEN]),
        previous: None,
        period: Duration::from_secs(3600),
    }
}

#[test]
fn a_secret_that_is_none_is_not_repeated() {
    let torn = String::from_utf8(ToWorker::Secrets(secrets()).encode()).unwrap().replace("0202\"", "02\"");
    let error = ToWorker::decode(torn.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("'next'") && !error.contains("0202"), "{error}");
}

#[test]
fn every_message_survives_the_channel() {
    let to_worker = [
        ToWorker::Welcome(Welcome {
            name: "web".into(),
            worker: 7,
            slot: 2,
            generation: 3,
            class: Some("special".into()),
            drain_ms: 8000,
        }),
        ToWorker::Granted {
            request: 9,
            key: 4,
            mode: Mode::HandOff,
            address: BoundAddress::Tcp("[::1]:80".parse().unwrap()),
            more: true,
        },
        ToWorker::Refused {
            request: 1,
            failure: ListenFailure { errno: 98, message: "bind: in use".into() },
        },
        ToWorker::Adopt { key: 4, slot: 1 },
        ToWorker::Release { key: 4, slot: 1 },
        ToWorker::Disconnect { stopping: true },
        ToWorker::Disconnect { stopping: false },
        ToWorker::LeaveNoted,
        ToWorker::Unheard { request: 6 },
        ToWorker::Secrets(secrets()),
        ToWorker::Secrets(secrets().rotated([3; Secret::LEN])),
    ];
    for message in to_worker {
        assert_eq!(ToWorker::decode(&message.encode()), Ok(message));
    }
    let from_worker = [
        FromWorker::Hello { version: VERSION },
        FromWorker::Listen { request: 1, what: Wanted::Named { name: "http".into(), place: 2 } },
        FromWorker::Listen {
            request: 2,
            what: Wanted::Bound { address: Address::Any { port: 0 }, index: 1, backlog: Some(9) },
        },
        FromWorker::Listen {
            request: 3,
            what: Wanted::Bound { address: Address::Unix("/x".into()), index: 0, backlog: None },
        },
        FromWorker::Listening { key: 1 },
        FromWorker::Closed { key: 1 },
        FromWorker::Ready,
        FromWorker::Secrets,
        FromWorker::Leaving,
        FromWorker::Unheard { request: 7 },
    ];
    for message in from_worker {
        assert_eq!(FromWorker::decode(&message.encode()), Ok(message));
    }
}

#[test]
fn what_is_not_a_message_says_which_field_is_wrong() {
    for (bytes, part) in [
        (&b"\xff"[..], "no JSON"),
        (b"[]", "'act'"),
        (b"{\"act\":\"dance\"}", "'dance'"),
        (b"{\"act\":\"listening\",\"key\":-1}", "'key'"),
        (b"{\"act\":\"listen\",\"request\":1,\"address\":\"x\",\"index\":0}", "'address'"),
    ] {
        let error = FromWorker::decode(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_record_keeps_the_peer_address() {
    for peer in [None, Some("127.0.0.3:9".parse().unwrap()), Some("[fe80::1%3]:8".parse().unwrap())] {
        let record = record::encode(peer, 9);
        assert_eq!((record::decode(&record), record::class(&record)), (Some(peer), 9));
    }
    assert_eq!(record::decode(&[9; record::LEN]), None);
    assert_eq!(record::decode(&[0; 3]), None);
}

/// Values for fields of every kind, right and wrong.
fn field() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..10_u64).prop_map(Value::from),
        prop::sample::select(vec![
            "hand-off",
            "shared",
            "127.0.0.1:1",
            "[::1]:2",
            "[fe80::1%3]:8",
            "udp://127.0.0.1:3",
            ":4",
            "unix:/x",
            "unix-bytes:2fff",
            "unix-bytes:2f0",
            "fd://3",
        ])
        .prop_map(Value::from),
        "[0-9a-f]{64}".prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::from),
    ]
}

/// Objects with the fields that messages have.
fn object() -> impl Strategy<Value = Vec<u8>> {
    const ACTS: [&str; 16] = [
        "welcome",
        "granted",
        "refused",
        "adopt",
        "release",
        "disconnect",
        "leave-noted",
        "secrets",
        "unheard",
        "hello",
        "listen",
        "listening",
        "closed",
        "ready",
        "leaving",
        "dance",
    ];
    const FIELDS: [&str; 24] = [
        "version",
        "name",
        "worker",
        "slot",
        "generation",
        "class",
        "drain_ms",
        "request",
        "key",
        "mode",
        "address",
        "more",
        "errno",
        "message",
        "stopping",
        "id",
        "current",
        "next",
        "previous",
        "period_ms",
        "place",
        "index",
        "backlog",
        "else",
    ];
    (
        prop::sample::select(&ACTS[..]),
        prop::collection::vec(prop::option::weighted(0.8, field()), FIELDS.len()),
    )
        .prop_map(move |(act, values)| {
            let mut object = serde_json::Map::new();
            object.insert("act".into(), act.into());
            let set = FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).into(), value?)));
            object.extend(set);
            // As this version has it, or few would get past it.
            if act == "welcome" {
                object.insert("version".into(), VERSION.into());
            }
            Value::Object(object).to_string().into_bytes()
        })
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| OsString::from_vec(bytes).into())
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
    prop_oneof![
        (any::<Ipv4Addr>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<Ipv6Addr>(), any::<u16>(), any::<u32>())
            .prop_map(|(ip, port, scope)| SocketAddrV6::new(ip, port, 0, scope).into()),
    ]
}

/// What was understood is said again in the same words.
fn holds(bytes: &[u8]) {
    if let Ok(message) = ToWorker::decode(bytes) {
        assert_eq!(ToWorker::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = FromWorker::decode(bytes) {
        assert_eq!(FromWorker::decode(&message.encode()), Ok(message));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_comes_is_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes);
    }

    #[test]
    fn whatever_the_fields_are_it_is_a_message_or_an_error(bytes in object()) {
        holds(&bytes);
    }

    #[test]
    fn a_path_is_what_it_was_whatever_its_bytes(path in path()) {
        let what = Wanted::Bound { address: Address::Unix(path.clone()), index: 0, backlog: None };
        let asks = FromWorker::Listen { request: 1, what };
        prop_assert_eq!(FromWorker::decode(&asks.encode()), Ok(asks));
        let (mode, address) = (Mode::HandOff, BoundAddress::Unix(path));
        let grants = ToWorker::Granted { request: 1, key: 2, mode, address, more: false };
        prop_assert_eq!(ToWorker::decode(&grants.encode()), Ok(grants));
    }

    #[test]
    fn addresses_are_what_they_were(at in socket_address(), datagram in any::<bool>()) {
        let address = if datagram { Address::Udp(at) } else { Address::Tcp(at) };
        let asks = FromWorker::Listen { request: 1, what: Wanted::Bound { address, index: 0, backlog: None } };
        prop_assert_eq!(FromWorker::decode(&asks.encode()), Ok(asks));
        let address = if datagram { BoundAddress::Udp(at) } else { BoundAddress::Tcp(at) };
        let grants = ToWorker::Granted { request: 1, key: 2, mode: Mode::Shared, address, more: true };
        prop_assert_eq!(ToWorker::decode(&grants.encode()), Ok(grants));
    }

    #[test]
    fn a_record_is_what_it_was(peer in prop::option::of(socket_address()), class in any::<u8>()) {
        let record = record::encode(peer, class);
        prop_assert_eq!((record::decode(&record), record::class(&record)), (Some(peer), class));
    }

    #[test]
    fn whatever_comes_is_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..record::LEN * 2)) {
        let class = record::class(&bytes);
        if let Some(peer) = record::decode(&bytes) {
            prop_assert_eq!(bytes.len(), record::LEN);
            prop_assert_eq!(record::decode(&record::encode(peer, class)), Some(peer));
        }
    }

    #[test]
    fn a_record_of_either_family_is_one(kind in prop::sample::select(vec![0_u8, 4, 6]), rest in any::<[u8; record::LEN - 1]>()) {
        let mut bytes = vec![kind];
        bytes.extend(rest);
        let peer = record::decode(&bytes);
        prop_assert!(peer.is_some());
        prop_assert_eq!(record::decode(&record::encode(peer.flatten(), rest[0])), peer);
    }
}
