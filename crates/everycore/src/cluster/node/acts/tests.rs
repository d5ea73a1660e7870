//! What Node says, and whatever else may come.

use everycore_core::ListenerKey;
use proptest::prelude::*;
use serde_json::json;

use super::query::{DATA, is_small};
use super::*;
use crate::address::{Address, BoundAddress};

/// What JavaScript may put anywhere.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2..70_000_i64).prop_map(Value::from),
        prop::sample::select(vec![
            "udp4",
            "udp6",
            "127.0.0.1",
            "::1",
            "localhost",
            "/x",
            "\0x",
            "",
            "4",
            "6"
        ])
        .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,4}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Objects with the fields that Node's workers and our script send.
fn object() -> impl Strategy<Value = Value> {
    const ACTS: [&str; 8] = [
        "online",
        "queryServer",
        "listening",
        "close",
        "exitedAfterDisconnect",
        "everycore:report",
        "disconnect",
        "dance",
    ];
    const FIELDS: [&str; 18] = [
        "cmd",
        "seq",
        "ack",
        "accepted",
        "key",
        "address",
        "port",
        "addressType",
        "fd",
        "flags",
        "index",
        "backlog",
        "data",
        "readableAll",
        "writableAll",
        "live",
        "late",
        "deno",
    ];
    let values = prop::collection::vec(prop::option::weighted(0.7, value()), FIELDS.len());
    (prop::sample::select(&ACTS[..]), any::<Option<i64>>(), values).prop_map(|(act, seq, values)| {
        let set = FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).into(), value?)));
        let mut object: Map<String, Value> = set.collect();
        object.insert("act".into(), act.into());
        object.extend(seq.map(|seq| ("seq".into(), seq.into())));
        Value::Object(object)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_a_worker_says_is_read_within_bounds(message in prop_oneof![value(), object()]) {
        match FromNode::decode(&message) {
            FromNode::QueryServer { query: Ok(query), .. } | FromNode::Listening { query } => {
                let mut room = DATA;
                prop_assert!(is_small(&query.data, &mut room));
                // Zero means the default.
                prop_assert_ne!(query.backlog, Some(0));
            }
            FromNode::Report { late, .. } => prop_assert!(late <= LATEST),
            _ => {}
        }
    }
}

fn decode(text: &str) -> FromNode {
    FromNode::decode(&serde_json::from_str(text).unwrap())
}

fn query(fields: &str) -> Result<Query, ProtocolError> {
    match decode(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,{fields}}}"#)) {
        FromNode::QueryServer { seq: 1, query } => query,
        other => panic!("{other:?}"),
    }
}

fn asked(fields: &str) -> Asked {
    query(fields).unwrap().what
}

fn stream(address: &str, only_v6: bool) -> Asked {
    Asked::Stream { address: Address::Tcp(address.parse().unwrap()), only_v6 }
}

#[test]
fn an_answer_in_nodes_own_words_is_read_as_the_long_way_does() {
    let answer = |text: &str| FromNode::accepted(text.as_bytes());
    for text in [
        r#"{"cmd":"NODE_CLUSTER","ack":1842,"accepted":true,"seq":1147}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":false,"seq":0}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":999999999999999999,"accepted":true,"seq":1}"#,
    ] {
        assert!(matches!(answer(text), Some(FromNode::Accepted { .. })), "{text}");
        assert_eq!(answer(text), Some(decode(text)));
    }
    for other in [
        r#"{"cmd":"NODE_CLUSTER","ack":01,"accepted":true,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":-1,"accepted":true,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":9223372036854775808,"accepted":true,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":,"accepted":true,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":maybe,"seq":1}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":1,"ack":2}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":1}}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true"#,
        "",
    ] {
        assert_eq!(answer(other), None, "{other}");
    }
}

#[test]
fn a_connection_is_announced_in_nodes_words() {
    let message = new_connection(7, ListenerKey::new(3));
    assert_eq!(&message.bytes()[..], br#"{"cmd":"NODE_CLUSTER","act":"newconn","key":"3","seq":7}"#);
}

#[test]
fn what_node_20_sends_is_understood() {
    assert_eq!(decode(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#), FromNode::Online);
    let query = decode(
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":8000,"addressType":4,"backlog":0,"seq":1}"#,
    );
    let expected = Query {
        what: Asked::Stream { address: Address::Any { port: 8000 }, only_v6: false },
        index: 0,
        backlog: None,
        data: Value::Null,
        all: (false, false),
        is_own: false,
    };
    assert_eq!(query, FromNode::QueryServer { seq: 1, query: Ok(expected) });
    assert_eq!(
        decode(r#"{"cmd":"NODE_CLUSTER","ack":2,"accepted":true,"seq":3}"#),
        FromNode::Accepted { ack: 2, accepted: true }
    );
}

#[test]
fn every_form_of_address_is_read() {
    assert_eq!(
        asked(r#""address":"127.0.0.1","port":80,"addressType":4,"backlog":false"#),
        stream("127.0.0.1:80", false)
    );
    assert_eq!(asked(r#""address":"::1","port":80,"addressType":6,"flags":1"#), stream("[::1]:80", true));
    assert_eq!(asked(r#""address":"fe80::1%lo","port":80,"addressType":6"#), stream("[fe80::1%1]:80", false));
    assert_eq!(asked(r#""address":"fe80::1%7","port":80,"addressType":6"#), stream("[fe80::1%7]:80", false));
    let unix = |path: &str| Asked::Stream { address: Address::Unix(path.into()), only_v6: false };
    assert_eq!(asked(r#""address":"/srv/x.sock","port":-1,"addressType":-1"#), unix("/srv/x.sock"));
    assert_eq!(asked(r#""address":"/home/\u0000x","port":-1,"addressType":-1"#), unix("\0x"));
    assert_eq!(
        asked(r#""address":"0.0.0.0","port":8557,"addressType":"udp4","fd":-1,"flags":4"#),
        Asked::Datagram { at: "0.0.0.0:8557".parse().unwrap(), only_v6: false, reuse: true }
    );
    assert_eq!(
        asked(r#""address":null,"port":0,"addressType":"udp6","fd":-1,"flags":1"#),
        Asked::Datagram { at: "[::]:0".parse().unwrap(), only_v6: true, reuse: false }
    );
    assert_eq!(asked(r#""address":null,"port":null,"addressType":null,"fd":9"#), Asked::Descriptor(9));
}

#[test]
fn a_query_that_makes_no_sense_says_why() {
    for (fields, field) in [
        (r#""address":"x","port":80,"addressType":4"#, "'address'"),
        (r#""address":"::1%nowhere","port":80,"addressType":6"#, "'address'"),
        (r#""address":"::1%../x","port":80,"addressType":6"#, "'address'"),
        (r#""address":null,"port":99999,"addressType":4"#, "'port'"),
        (r#""address":null,"port":1,"addressType":"udp9""#, "'addressType'"),
        (r#""address":"::1","port":1,"addressType":"udp4""#, "'address'"),
        (r#""address":null,"port":-1,"addressType":-1"#, "'address'"),
        (r#""address":null"#, "'addressType'"),
    ] {
        let error = query(fields).unwrap_err().to_string();
        assert!(error.contains(field), "{fields}: {error}");
    }
    let keys = "x".repeat(DATA);
    let error = query(&format!(r#""port":0,"addressType":4,"data":["{keys}"]"#)).unwrap_err().to_string();
    assert!(error.contains("'data'"), "{error}");
    assert!(query(r#""port":0,"addressType":4,"data":{"ticketKeys":"00ff"}"#).is_ok());
}

#[test]
fn what_nobody_understands_is_ignored() {
    for text in [
        r#"{"cmd":"NODE_CLUSTER","act":"dance","seq":3}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","port":80,"addressType":4}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"listening","addressType":{}}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"close","key":7}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"everycore:report"}"#,
        r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":-1,"late":"x"}"#,
        r#"{"cmd":"NODE_CLUSTER","ack":1}"#,
        r#"{"cmd":"NODE_CLUSTER"}"#,
        r#"[]"#,
    ] {
        assert_eq!(decode(text), FromNode::Other, "{text}");
    }
}

#[test]
fn a_report_is_numbers_within_reason() {
    let report = |live, late| FromNode::Report { live, late, is_deno: false };
    let text = r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":3,"late":1500}"#;
    assert_eq!(decode(text), report(3, Duration::from_millis(1500)));
    let text = r#"{"cmd":"NODE_CLUSTER","act":"everycore:report","live":18446744073709551615,"late":18446744073709551615}"#;
    assert_eq!(decode(text), report(u64::MAX, LATEST));
    assert_eq!(decode(r#"{"act":"everycore:report","live":0,"late":"soon"}"#), report(0, Duration::ZERO));
}

#[test]
fn a_server_on_any_port_is_known_again_by_the_real_one() {
    let any = asked(r#""address":"::1","port":0,"addressType":6"#);
    let told = asked(r#""address":"::1","port":81,"addressType":6"#);
    assert!(any.is_told_as(&told, Some(81)) && told.is_told_as(&told, Some(81)));
    assert!(!any.is_told_as(&told, Some(82)) && !told.is_told_as(&any, Some(81)));
    let other = asked(r#""address":null,"port":81,"addressType":4"#);
    assert!(!any.is_told_as(&other, Some(81)));
    assert!(!any.is_told_as(&asked(r#""address":"::1","port":81,"addressType":"udp6""#), Some(81)));
}

#[test]
fn replies_have_the_fields_node_reads() {
    let at = Some(BoundAddress::Tcp("[::]:8000".parse().unwrap()));
    let mut reply = Reply { key: ListenerKey::new(3), data: Value::Null, at };
    assert_eq!(
        reply.written(0, 1),
        json!({"cmd":"NODE_CLUSTER","errno":null,"key":"3","ack":1,"data":null,
            "sockname":{"address":"::","family":"IPv6","port":8000},"seq":0})
    );
    assert_eq!(refused(1, 2, "k", 98)["errno"], -98);
    assert_eq!(refused(1, 2, "k", 0)["errno"], -22, "never 0, which would be success");
    reply.at = None;
    assert_eq!(
        reply.written(1, 2),
        json!({"cmd":"NODE_CLUSTER","errno":0,"key":"3","ack":2,"data":null,"seq":1})
    );
}
