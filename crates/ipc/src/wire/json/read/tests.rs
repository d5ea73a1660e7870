//! What is read is what `serde_json` reads; it may read more.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::fuzz::OrDefault;

/// Reads it as `serde_json` does.
#[track_caller]
fn reads<T: DeserializeOwned + Debug + PartialEq>(text: &str) {
    let theirs = serde_json::from_str::<T>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let ours = from_str::<T>(text).unwrap_or_else(|_| panic!("{text} was refused"));
    assert_eq!(ours, theirs, "{text}");
}

/// Refuses it, as `serde_json` does.
#[track_caller]
fn refuses<T: DeserializeOwned + Debug>(text: &str) {
    assert!(serde_json::from_str::<T>(text).is_err(), "{text} is valid");
    assert!(from_str::<T>(text).is_err(), "{text}");
}

/// Leaves it to `serde_json`, which can read it.
#[track_caller]
fn leaves<T: DeserializeOwned + Debug>(text: &str) {
    assert!(serde_json::from_str::<T>(text).is_ok(), "{text} is invalid");
    assert!(from_str::<T>(text).is_err(), "{text}");
}

#[test]
fn every_shape_is_read_as_serde_json_does() {
    reads::<(u8, i8, f32, f64, bool, char, String)>(r#" [ 255 , -128 , 1.5 , -0 , true , "é" , "x" ] "#);
    reads::<HashMap<String, Vec<u64>>>(r#"{"a":[],"b":[1,2],"\u0063":[3]}"#);
    reads::<BTreeMap<i16, Option<bool>>>(r#"{"-3":null,"4":true,"0":false}"#);
    reads::<BTreeMap<bool, ()>>(r#"{"true":null,"false":null}"#);
    reads::<BTreeMap<char, PhantomData<u8>>>(r#"{"a":null}"#);
    reads::<BTreeMap<Option<String>, u8>>(r#"{"a":1}"#);
    reads::<Vec<std::result::Result<u8, String>>>(r#"[{"Ok":1},{"Err":"no"},{"\u004fk":2}]"#);
    reads::<Vec<Bound<u8>>>(r#"["Unbounded",{"Included":1},{"Unbounded":null}]"#);
    reads::<Vec<Duration>>(r#"[{"secs":1,"nanos":2},[3,4]]"#);
    reads::<Vec<IpAddr>>(r#"["::1","127.0.0.1"]"#);
    reads::<BTreeMap<IpAddr, IgnoredAny>>(r#"{"::1":{"a":[1e5,"\\"]}}"#);
    reads::<Box<str>>(r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#);
}

#[test]
fn numbers_are_what_they_are_to_serde_json() {
    for number in [
        "0",
        "-0",
        "-1",
        "999999999999999999",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e3",
        "1E-3",
        "0.1",
        "-2.5e+10",
        "123456789012345678901234567890",
        "5e-324",
    ] {
        reads::<Value>(number);
        reads::<f64>(number);
    }
    for number in ["", "-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "1-1", "0x1", "1e999", "--1", "NaN"] {
        refuses::<Value>(number);
        refuses::<Vec<f64>>(&format!("[{number},1]"));
        refuses::<BTreeMap<i64, u8>>(&format!("{{\"{number}\":1}}"));
    }
    refuses::<u8>("256");
    refuses::<u8>("-1");
    refuses::<u8>("1.0");
    refuses::<u8>("\"1\"");
    refuses::<BTreeMap<u8, u8>>(r#"{" 1":1}"#);
    refuses::<BTreeMap<u8, u8>>(r#"{"1 ":1}"#);
    refuses::<BTreeMap<u8, u8>>(r#"{"\u0031":1}"#);
    refuses::<BTreeMap<bool, u8>>(r#"{"tru\u0065":1}"#);
    leaves::<u128>("1");
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "truefalse",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{",
        "{}}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u00g0\"",
        "\"\\u+123\"",
        "\"\\ud800\"",
        "\"\\ud800\\n\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"a\nb\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "1 1",
        "[1] x",
        "\u{a0}1",
        "'a'",
    ] {
        refuses::<Value>(text);
        refuses::<Value>(&format!("[0,{text}"));
    }
    refuses::<(u8, u8)>("[1]");
    refuses::<(u8, u8)>("[1,2,3]");
    refuses::<Bound<u8>>(r#"{"Included":1,"Excluded":2}"#);
    refuses::<Bound<u8>>(r#"{}"#);
    refuses::<Bound<u8>>(r#""Included""#);
    refuses::<Bound<u8>>("1");
    refuses::<Duration>(r#"{"secs":1,"nanos":2,"secs":3}"#);
    refuses::<String>("null");
    refuses::<bool>("1");
}

#[test]
fn text_is_nested_as_deep_as_serde_json_reads() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    reads::<Value>(&nested(DEPTH));
    refuses::<Value>(&nested(DEPTH + 1));
    let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    reads::<Value>(&objects(DEPTH));
    refuses::<Value>(&objects(DEPTH + 1));
    refuses::<Value>(&"[".repeat(1 << 20));
    // Without a stack one may ignore any depth.
    leaves::<IgnoredAny>(&nested(DEPTH + 1));
}

#[test]
fn text_that_is_kept_as_it_is_is_left_to_serde_json() {
    leaves::<Box<RawValue>>("[1, 2]");
    leaves::<Vec<Box<RawValue>>>("[1, 2]");
}

#[test]
fn what_is_special_is_found_at_every_place() {
    for special in ["\"", "\\n\"", "\n\"", "\u{1f}\"", "é\"", ""] {
        for before in 0..100 {
            let text = format!("\"{}{special}", "x".repeat(before));
            match serde_json::from_str::<String>(&text) {
                Ok(_) => reads::<String>(&text),
                Err(_) => refuses::<String>(&text),
            }
        }
    }
}

/// What is read although errors are passed over is what `serde_json` reads so.
fn is_read_as_lenient(text: &str) {
    fn check<T: DeserializeOwned + Debug + Default + PartialEq>(text: &str) {
        if let Ok(ours) = from_str::<OrDefault<T>>(text) {
            assert_eq!(
                Some(ours.0),
                serde_json::from_str::<OrDefault<T>>(text).ok().map(|own| own.0),
                "{text}"
            );
        }
        if let Ok(ours) = from_str::<T>(text) {
            assert_eq!(Some(ours), serde_json::from_str::<T>(text).ok(), "{text}");
        }
    }
    check::<BTreeMap<String, OrDefault<String>>>(text);
    check::<BTreeMap<OrDefault<u8>, OrDefault<Vec<OrDefault<u8>>>>>(text);
    check::<BTreeMap<OrDefault<bool>, OrDefault<Option<bool>>>>(text);
    check::<Vec<OrDefault<(u8, u8)>>>(text);
    check::<OrDefault<BTreeMap<String, OrDefault<f64>>>>(text);
    check::<Vec<OrDefault<Value>>>(text);
    check::<Vec<OrDefault<u128>>>(text);
}

#[test]
fn who_passes_over_an_error_gets_no_further_than_serde_json() {
    for text in [
        "{\"a\":\"xxx\",\"b\":\"\\ud83d\\ude00\\n\"}",
        "{\"1\":[1,256,\"x\"],\"x\":[],\"300\":[1],\"true\":null,\"false\":true}",
        "{\"1\":[01],\"a\":01,\"b\":\"\\ud800\",\"c\":1e999,\"d\":truth}",
        "[[1,2],[1],[1,2,3],[[1,2],{\"a\":nul}],\"\\u12\",340282366920938463463374607431768211455]",
        "[[1]",
        "[{\"x\":1]]",
    ] {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            is_read_as_lenient(&text[..end]);
        }
    }
    let unended = format!("{{\"a\":\"{}", "x".repeat(2000));
    assert!(from_str::<BTreeMap<String, OrDefault<String>>>(&unended).is_err());
    let told = crate::wire::convert::parse_json::<BTreeMap<String, OrDefault<String>>>(unended.as_bytes());
    assert!(told.is_err(), "{told:?}");
}

#[test]
fn a_key_that_is_no_number_is_none_to_who_takes_anything() {
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Any;

    impl<'de> Deserialize<'de> for Any {
        fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
            struct Takes;
            impl<'de> Visitor<'de> for Takes {
                type Value = Any;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("anything")
                }
                fn visit_bool<E>(self, _: bool) -> std::result::Result<Any, E> {
                    Ok(Any)
                }
                fn visit_unit<E>(self) -> std::result::Result<Any, E> {
                    Ok(Any)
                }
                fn visit_u64<E>(self, _: u64) -> std::result::Result<Any, E> {
                    Ok(Any)
                }
                fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> std::result::Result<Any, A::Error> {
                    while all.next_element::<u8>()?.is_some() {}
                    Ok(Any)
                }
            }
            from.deserialize_u64(Takes)
        }
    }
    reads::<BTreeMap<Any, u8>>(r#"{"1":1}"#);
    for key in ["true", "null", "[1]"] {
        refuses::<BTreeMap<Any, u8>>(&format!("{{\"{key}\":1}}"));
    }
}

#[test]
fn a_number_is_rounded_once() {
    // To serde_json with `float_roundtrip`; without, by its way through 64 bits.
    reads::<f32>("1.00000017881393432617187499");
    reads::<BTreeMap<String, Vec<f32>>>(r#"{"a":[1.00000017881393432617187499,7.038531e-26]}"#);
}

fn value() -> impl Strategy<Value = Value> {
    let text = || prop_oneof!["[ -~]{0,5}", "(?s).{0,40}", "\\\\{0,3}\"{0,3}[a-z]{0,100}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(text(), inner, 0..6).prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(value in value(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        reads::<Value>(&text.unwrap());
    }

    #[test]
    fn what_is_nearly_json_is_never_read_as_something_else(
        value in value(),
        edits in vec((any::<prop::sample::Index>(), "[\\[\\]{}:,\"\\\\ntf0-9.eE+\\- u]|\\\\ud8|\\\\udc00|é"), 1..4),
    ) {
        let mut text = value.to_string();
        for (place, edit) in edits {
            let mut at = place.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
            text.replace_range(at..end, &edit);
        }
        if let Ok(ours) = from_str::<Value>(&text) {
            prop_assert_eq!(Some(ours), serde_json::from_str(&text).ok(), "{}", text);
        }
        if let Ok(ours) = from_str::<BTreeMap<String, Option<Vec<f64>>>>(&text) {
            prop_assert_eq!(Some(ours), serde_json::from_str(&text).ok(), "{}", text);
        }
        is_read_as_lenient(&text);
        if from_str::<IgnoredAny>(&text).is_ok() {
            prop_assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        }
    }
}
