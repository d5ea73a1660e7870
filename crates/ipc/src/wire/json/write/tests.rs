//! What is written is what `serde_json` writes.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[track_caller]
fn same<T: Serialize + ?Sized>(value: &T) {
    let (ours, theirs) = (write(value).map(|written| written.text), serde_json::to_vec(value));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap());
        }
        (ours, theirs) => assert!(ours.is_err() && theirs.is_err(), "{ours:?} {theirs:?}"),
    }
}

/// Says everything that serde can say, without a derive.
enum Said {
    Unit,
    Newtype(f64),
    Tuple(i8, char),
    Struct { name: &'static str },
    Bytes,
}

impl Serialize for Said {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use ser::{SerializeStructVariant, SerializeTupleVariant};
        match self {
            Self::Unit => to.serialize_unit_variant("Said", 0, "Unit"),
            Self::Newtype(value) => to.serialize_newtype_variant("Said", 1, "Newtype", value),
            Self::Tuple(one, other) => {
                let mut tuple = to.serialize_tuple_variant("Said", 2, "Tu\"ple", 2)?;
                tuple.serialize_field(one)?;
                tuple.serialize_field(other)?;
                tuple.end()
            }
            Self::Struct { name } => {
                let mut fields = to.serialize_struct_variant("Said", 3, "Struct", 2)?;
                fields.serialize_field("name", name)?;
                fields.serialize_field("again", &Some(name))?;
                fields.end()
            }
            Self::Bytes => to.serialize_bytes(b"\0\xff"),
        }
    }
}

#[test]
fn every_shape_is_written_as_serde_json_does() {
    same(&[
        Said::Unit,
        Said::Newtype(-0.0),
        Said::Tuple(-1, '\u{7f}'),
        Said::Struct { name: "" },
        Said::Bytes,
    ]);
    same(&(i128::MIN, u128::MAX, f64::NAN, f32::MIN_POSITIVE, 1e300, None::<()>, ((), [0; 0])));
    same(&BTreeMap::from([(1, "one"), (-2, "two")]));
    same(&BTreeMap::from([(true, 'x')]));
    same(&BTreeMap::from([('k', BTreeMap::<u8, u8>::new())]));
    same(&BTreeMap::from([(Some("some"), 1)]));
    same(&BTreeMap::from([(None::<u8>, 1)]));
    same(&BTreeMap::from([(vec![1], 1)]));
    same(&BTreeMap::from([((), 1)]));
    let raw = serde_json::value::RawValue::from_string(" [1,\n2]".to_owned()).unwrap();
    same(&(&raw, BTreeMap::from([("raw", &raw)])));
}

fn value() -> impl Strategy<Value = Value> {
    let text =
        prop_oneof!["\\PC*", ".{0,100}", "[\\x00-\\x7f]{0,80}", "[ -~]{0,20}[\"\\\\\n]{0,2}[ -~]{25,70}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(text.clone(), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_written_as_serde_json_does(value in value()) {
        same(&value);
    }
}

#[test]
fn what_may_be_taken_for_a_message_of_the_library_is_not_plain() {
    let is_plain = |value: &Value| write(value).unwrap().is_plain;
    assert!(is_plain(&json!({"command": "NODE_CLUSTER", "data": ["\n", 1.5]})));
    assert!(!is_plain(&json!({"data": 1, "cmd": "NODE_CLUSTER"})));
    assert!(!is_plain(&json!([{"cmd": 1}])));
    assert!(!write(&BTreeMap::from([(Some("cmd"), 1)])).unwrap().is_plain);
    let raw = serde_json::value::RawValue::from_string("{\"cmd\":\n\"NODE_CLUSTER\"}".to_owned()).unwrap();
    assert!(!write(&raw).unwrap().is_plain);
}

/// A number that a program has `serde_json` keep as text; here, the feature is off.
struct Verbatim(&'static str);

impl Serialize for Verbatim {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use ser::SerializeStruct;
        let mut number = to.serialize_struct(VERBATIM[1], 1)?;
        number.serialize_field(VERBATIM[1], self.0)?;
        number.end()
    }
}

#[test]
fn numbers_kept_as_text_are_written_as_they_are() {
    assert_eq!(write(&[Verbatim("1.10"), Verbatim("2")]).unwrap().text, b"[1.10,2]");
}

#[test]
fn room_for_many_long_texts_is_made_a_few_times() {
    let text = "x".repeat(LARGE);
    let mut writer = Writer { out: Vec::new(), is_plain: true };
    writer.text(&text);
    assert!(writer.out.capacity() < 2 * LARGE, "one alone takes what it needs");
    let (mut growths, mut capacity) = (0, writer.out.capacity());
    for _ in 0..500 {
        writer.text(&text);
        growths += usize::from(writer.out.capacity() != capacity);
        capacity = writer.out.capacity();
    }
    assert!(growths < 15, "{growths} times");
}
