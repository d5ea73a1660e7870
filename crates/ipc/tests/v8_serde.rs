//! Types in and out, without a document in between.

#![allow(clippy::unwrap_used, reason = "tests")]

mod v8_support;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use everycore_ipc::v8::{self, Buffer, Date, Error};
use proptest::prelude::*;
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, EnumAccess, MapAccess, VariantAccess, Visitor,
};
use serde::ser::{
    Serialize, SerializeMap, SerializeStruct, SerializeStructVariant, SerializeTupleVariant, Serializer,
};
use serde_json::{Value as Json, json};
use v8_support::{bytes, hex, random};

fn body<T: Serialize + ?Sized>(value: &T) -> String {
    let payload = v8::to_vec(value).unwrap();
    assert_eq!(payload[..2], [0xff, 0x0f]);
    hex(&payload[2..])
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T, Error> {
    v8::from_slice(&bytes(&format!("ff0f {body}")))
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
    let payload = v8::to_vec(&value).unwrap();
    assert_eq!(v8::from_slice::<T>(&payload).unwrap(), value, "{}", hex(&payload));
    v8::fuzz::check(&payload);
}

#[test]
fn plain_values_have_their_tags() {
    assert_eq!(body(&()), "30");
    assert_eq!(body(&None::<u8>), "30");
    assert_eq!(body(&Some(true)), "54");
    assert_eq!(body(&-1_i8), "4901");
    assert_eq!(body(&u32::MAX), "4e0000e0ffffffef41");
    assert_eq!(body(&1.0_f32), "4902");
    assert_eq!(body(&-0.0), "4e0000000000000080");
    assert_eq!(body(&0.5), "4e000000000000e03f");
    assert_eq!(body(&(1_u64 << 53)), "4e0000000000004043");
    assert_eq!(body(&((1_u64 << 53) + 1)), "5a100100000000002000");
    assert_eq!(body(&i64::MIN), "5a110000000000000080");
    assert_eq!(body(&u128::MAX), "5a20ffffffffffffffffffffffffffffffff");
    assert_eq!(body(&'é'), "5302c3a9");
    assert_eq!(body("a"), "220161");
    assert_eq!(body(&Buffer(vec![1, 2])), "5c000a020102");
    assert_eq!(body(&Date(1.0)), "44000000000000f03f");
    assert_eq!(body(&Date(0.5)), "44000000000000e03f");
    assert_eq!(body(&(1, "a")), "4102490222016124".to_owned() + "0002");
    assert_eq!(body(&BTreeMap::from([("a", 1)])), "6f22016149027b01");
    assert_eq!(body(&BTreeMap::from([(1, 1)])), "6f490249027b01");
    assert_eq!(body(&BTreeMap::from([("1", 1)])), "6f490249027b01");
    assert_eq!(body(&BTreeMap::from([(-1, 1)])), "6f22022d3149027b01");
    assert_eq!(body(&BTreeMap::from([(u32::MAX, 1)])), hex(&bytes("6f 220a'4294967295' 4902 7b01")));
    assert_eq!(body(&BTreeMap::from([(u32::MAX - 1, 1)])), hex(&bytes("6f 4e0000c0ffffffef41 4902 7b01")));
    assert_eq!(body(&BTreeMap::from([(true, 1)])), hex(&bytes("6f 2204'true' 4902 7b01")));
    assert_eq!(body(&BTreeMap::from([('7', 1)])), hex(&bytes("6f 490e 4902 7b01")));
}

#[test]
fn keys_that_are_no_names_are_refused() {
    assert!(matches!(v8::to_vec(&BTreeMap::from([([1], 1)])), Err(Error::Unsupported { .. })));
    assert!(matches!(v8::to_vec(&BTreeMap::from([((), 1)])), Err(Error::Unsupported { .. })));
    assert!(matches!(
        v8::to_vec(&BTreeMap::from([(Some("a"), 1), (None, 2)])),
        Err(Error::Unsupported { .. })
    ));
}

/// What `#[serde(flatten)]` makes of a struct.
struct Flattened(Vec<(&'static str, i32)>);

impl Serialize for Flattened {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

#[test]
fn a_name_twice_is_refused() {
    assert!(v8::to_vec(&Flattened(vec![("a", 1), ("b", 2), ("c", 3)])).is_ok());
    let twice = v8::to_vec(&Flattened(vec![("a", 1), ("b", 2), ("a", 3)]));
    assert!(matches!(twice, Err(Error::DuplicateKey { .. })), "{twice:?}");
    // Names of an inner object are no names of the outer one.
    assert!(
        v8::to_vec(&BTreeMap::from([("a", BTreeMap::from([("a", 1)])), ("b", BTreeMap::from([("a", 1)]))]))
            .is_ok()
    );
}

#[test]
fn integers_are_taken_in_every_form() {
    for body in [
        "490e",
        "55 07",
        "4e 0000000000001c40",
        "6e 0000000000001c40",
        "5a 10 0700000000000000",
        "5a 02 07",
        "7a 02 07",
    ] {
        assert_eq!(read::<u8>(body).unwrap(), 7, "{body}");
        assert_eq!(read::<i8>(body).unwrap(), 7, "{body}");
        assert_eq!(read::<u128>(body).unwrap(), 7, "{body}");
        assert_eq!(read::<i64>(body).unwrap(), 7, "{body}");
        assert_eq!(read::<f32>(body).unwrap(), 7.0, "{body}");
        assert_eq!(read::<Json>(body).unwrap(), json!(7), "{body}");
    }
    assert_eq!(read::<u64>("4e 000000000000d043").unwrap(), 1 << 62);
    assert_eq!(read::<i64>("4e 000000000000e0c3").unwrap(), i64::MIN);
    assert!(read::<u64>("4e 000000000000e0c3").is_err());
    assert!(read::<u64>("4e 000000000000f043").is_err());
    assert!(read::<i32>("4e 000000000000e03f").is_err());
    assert!(read::<u8>("49 01").is_err());
    assert!(read::<i32>("4e 000000000000f87f").is_err());
    assert!(read::<Json>("5a 30 00000000000000000000000000000000 0100000000000000").is_err());
    assert_eq!(read::<i128>("5a 21 00000000000000000000000000000080").unwrap(), i128::MIN);
    assert!(read::<i128>("5a 21 01000000000000000000000000000080").is_err());
}

#[test]
fn nothing_comes_in_four_forms() {
    assert_eq!(read::<Option<u8>>("5f").unwrap(), None);
    assert_eq!(read::<Option<u8>>("30").unwrap(), None);
    read::<()>("5f").unwrap();
    let body = "41 04 2d 5f 30 4902 24 00 04";
    assert_eq!(read::<Vec<Option<u8>>>(body).unwrap(), [None, None, None, Some(1)]);
    assert_eq!(read::<Json>(body).unwrap(), json!([null, null, null, 1]));
    assert_eq!(read::<Json>("61 03 4902 4902 40 01 03").unwrap(), json!([null, 1, null]));
}

#[test]
fn undefined_properties_are_absent() {
    let body = "6f 2201'a' 5f 2201'b' 4902 2201'c' 00 5f 7b03";
    assert_eq!(read::<BTreeMap<String, u8>>(body).unwrap(), BTreeMap::from([("b".into(), 1)]));
    assert_eq!(read::<Json>(body).unwrap(), json!({"b": 1}));
}

#[test]
fn properties_beside_elements_are_passed_over() {
    assert_eq!(read::<Vec<u8>>("41 01 4902 2201'x' 6f 7b00 24 01 01").unwrap(), [1]);
    assert_eq!(read::<Vec<u8>>("61 02 4900 4902 4902 4904 2201'x' 5f 40 03 02").unwrap(), [1, 2]);
    assert!(read::<Vec<u8>>("61 00 2201'x' 5f 40 01 00").unwrap().is_empty());
    assert!(read::<Vec<u8>>("61 02 4902 4902 4900 4904 40 02 02").is_err());
    assert!(read::<Vec<u8>>("61 01 4900 4902 4902 4904 40 02 01").is_err());
}

#[test]
fn numbers_as_names_are_names() {
    let body = "6f 4902 4902 4903 4904 4e000000000000f83f 4906 7b03";
    let text = BTreeMap::from([("1".to_owned(), 1), ("-2".into(), 2), ("1.5".into(), 3)]);
    assert_eq!(read::<BTreeMap<String, u8>>(body).unwrap(), text);
    let body = "6f 4902 4902 2202'-2' 4904 4e000000000000e041 4906 7b03";
    assert_eq!(read::<BTreeMap<i64, u8>>(body).unwrap(), BTreeMap::from([(1, 1), (-2, 2), (1 << 31, 3)]));
    assert_eq!(read::<BTreeMap<bool, u8>>("6f 2204'true' 4902 7b01").unwrap(), BTreeMap::from([(true, 1)]));
    assert_eq!(read::<BTreeMap<char, u8>>("6f 4902 4902 7b01").unwrap(), BTreeMap::from([('1', 1)]));
    assert!(read::<BTreeMap<u8, u8>>("6f 2201'x' 4902 7b01").is_err());
    assert!(read::<BTreeMap<u8, u8>>("6f 2203'256' 4902 7b01").is_err());
}

#[test]
fn bytes_are_bytes_or_elements() {
    let bodies = [
        "5c 00 0a 03 010203",
        "5c 00 01 03 010203",
        "42 03 010203",
        "7e 03 08 010203",
        "42 05 0001020304 56 42 01 03 00",
        "41 03 4902 4904 4906 24 00 03",
    ];
    for body in bodies {
        assert_eq!(read::<Buffer>(body).unwrap().0, [1, 2, 3], "{body}");
        assert_eq!(read::<Vec<u8>>(body).unwrap(), [1, 2, 3], "{body}");
        assert_eq!(read::<(u8, u8, u8)>(body).unwrap(), (1, 2, 3), "{body}");
        assert_eq!(read::<Json>(body).unwrap(), json!([1, 2, 3]), "{body}");
        assert!(read::<(u8, u8)>(body).is_err(), "{body}");
        assert!(read::<[u8; 4]>(body).is_err(), "{body}");
    }
    assert_eq!(read::<Vec<f64>>("5c 00 08 08 000000000000f83f").unwrap(), [1.5]);
    assert_eq!(read::<Vec<f64>>("5c 00 0d 04 003c 00c0").unwrap(), [1.0, -2.0]);
    assert_eq!(read::<Vec<f32>>("5c 00 07 04 0000c03f").unwrap(), [1.5]);
    assert_eq!(read::<Vec<i16>>("5c 00 03 04 feff0100").unwrap(), [-2, 1]);
    assert_eq!(read::<Vec<i64>>("5c 00 0b 08 ffffffffffffffff").unwrap(), [-1]);
    assert_eq!(read::<Vec<u64>>("5c 00 0c 08 ffffffffffffffff").unwrap(), [u64::MAX]);
    assert_eq!(read::<Buffer>("5c 00 03 04 feff0100").unwrap().0, [0xfe, 0xff, 1, 0]);
    assert_eq!(
        read::<Vec<Buffer>>("41 03 42 02 0102 5e01 56 42 01 01 00 5e02 24 00 03").unwrap(),
        [vec![1, 2], vec![2], vec![2]].map(Buffer)
    );
}

#[test]
fn other_objects_have_their_counterparts() {
    assert_eq!(read::<f64>("44 000000000000f03f").unwrap(), 1.0);
    assert_eq!(read::<Date>("44 000000000000f03f").unwrap(), Date(1.0));
    assert_eq!(read::<i64>("44 00000000000000c0").unwrap(), -2);
    assert!(read::<Date>("44 000000000000f87f").unwrap().0.is_nan());
    assert_eq!(read::<Json>("44 000000000000f87f").unwrap(), Json::Null);
    assert_eq!(read::<String>("52 2202'a+' 03").unwrap(), "/a+/gi");
    assert_eq!(read::<String>("73 2201'a'").unwrap(), "a");
    assert!(read::<bool>("79").unwrap());
    assert!(!read::<bool>("78").unwrap());
    assert_eq!(read::<BTreeSet<u8>>("27 4902 4904 2c 02").unwrap(), BTreeSet::from([1, 2]));
    assert_eq!(
        read::<BTreeMap<u8, bool>>("3b 4902 54 4904 46 3a 04").unwrap(),
        BTreeMap::from([(1, true), (2, false)])
    );
    let numbered = "3b 4902 54 2201'2' 46 4e000000000000f83f 30 3a 06";
    assert_eq!(read::<Json>(numbered).unwrap(), json!({"1": true, "2": false, "1.5": null}));
    assert_eq!(read::<BTreeMap<bool, u8>>("3b 54 4902 3a 02").unwrap(), BTreeMap::from([(true, 1)]));
    assert_eq!(
        read::<BTreeMap<Vec<u8>, u8>>("3b 41 01 4902 24 00 01 4902 3a 02").unwrap(),
        BTreeMap::from([(vec![1], 1)])
    );
    assert_eq!(read::<Json>("5c 01 6f 2201'a' 4902 7b01").unwrap(), json!({"a": 1}));
    assert_eq!(
        read::<Json>("72 54 6d 2201'm' 63 6f 2201'n' 4902 7b01 73 2201's' 2e").unwrap(),
        json!({"name": "TypeError", "message": "m", "stack": "s", "cause": {"n": 1}})
    );
    assert_eq!(read::<Json>("72 2e").unwrap(), json!({"name": "Error"}));
}

#[test]
fn the_same_object_is_read_as_often_as_it_is_named() {
    let body =
        "6f 2201'a' 41 01 2201'x' 24 00 01 2201'b' 5e01 2201'c' 41 02 5e01 5e01 24 00 02 2201'd' 5e02 7b04";
    assert_eq!(
        read::<Json>(body).unwrap(),
        json!({"a": ["x"], "b": ["x"], "c": [["x"], ["x"]], "d": [["x"], ["x"]]})
    );
    type Unread = HashMap<String, de::IgnoredAny>;
    assert_eq!(read::<Unread>(body).unwrap().len(), 4);
    assert_eq!(
        read::<Vec<Option<Vec<u8>>>>("41 02 41 01 4902 24 00 01 5e01 24 00 02").unwrap(),
        [Some(vec![1]), Some(vec![1])]
    );
}

#[test]
fn text_is_borrowed_where_it_can_be() {
    let payload = bytes("ff0f 41 03 2203'abc' 5302c3a9 2201e9 24 00 03");
    let (ascii, utf8, latin): (&str, Cow<'_, str>, String) = v8::from_slice(&payload).unwrap();
    assert_eq!((ascii, &*utf8, &*latin), ("abc", "é", "é"));
    assert!(v8::from_slice::<(&str, &str, &str)>(&payload).is_err());
    let payload = v8::to_vec(&Buffer(vec![1, 2, 3])).unwrap();
    assert_eq!(v8::from_slice::<&[u8]>(&payload).unwrap(), [1, 2, 3]);
}

#[test]
fn lone_surrogates_become_replacements() {
    assert_eq!(read::<String>("63 04 6100 3dd8").unwrap(), "a\u{fffd}");
    assert_eq!(read::<String>("53 02 61ff").unwrap(), "a\u{fffd}");
}

/// One variant of each shape.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Unit,
    New(u8),
    Tuple(u8, String),
    Fields { x: Option<u8> },
}

const SHAPES: &[&str] = &["Unit", "New", "Tuple", "Fields"];

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unit => serializer.serialize_unit_variant("Shape", 0, "Unit"),
            Self::New(value) => serializer.serialize_newtype_variant("Shape", 1, "New", value),
            Self::Tuple(a, b) => {
                let mut tuple = serializer.serialize_tuple_variant("Shape", 2, "Tuple", 2)?;
                tuple.serialize_field(a)?;
                tuple.serialize_field(b)?;
                tuple.end()
            }
            Self::Fields { x } => {
                let mut fields = serializer.serialize_struct_variant("Shape", 3, "Fields", 1)?;
                fields.serialize_field("x", x)?;
                fields.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape")
            }
            fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Shape, A::Error> {
                let (name, content): (String, _) = access.variant()?;
                match &*name {
                    "Unit" => content.unit_variant().map(|()| Shape::Unit),
                    "New" => content.newtype_variant().map(Shape::New),
                    "Tuple" => content.tuple_variant(2, TupleVisitor),
                    "Fields" => content.struct_variant(&["x"], FieldsVisitor),
                    other => Err(de::Error::unknown_variant(other, SHAPES)),
                }
            }
        }
        struct TupleVisitor;
        impl<'de> Visitor<'de> for TupleVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two elements")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<Shape, A::Error> {
                let missing = || de::Error::invalid_length(2, &self);
                let first = elements.next_element()?.ok_or_else(missing)?;
                Ok(Shape::Tuple(first, elements.next_element()?.ok_or_else(missing)?))
            }
        }
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Shape, A::Error> {
                let mut x = None;
                while let Some(name) = fields.next_key::<String>()? {
                    match &*name {
                        "x" => x = fields.next_value()?,
                        _ => drop(fields.next_value::<de::IgnoredAny>()?),
                    }
                }
                Ok(Shape::Fields { x })
            }
        }
        deserializer.deserialize_enum("Shape", SHAPES, ShapeVisitor)
    }
}

#[test]
fn variants_are_names_or_objects_of_one() {
    assert_eq!(body(&Shape::Unit), hex(&bytes("2204'Unit'")));
    assert_eq!(body(&Shape::New(1)), hex(&bytes("6f 2203'New' 4902 7b01")));
    assert_eq!(
        body(&Shape::Tuple(1, "a".into())),
        hex(&bytes("6f 2205'Tuple' 41 02 4902 2201'a' 24 00 02 7b01"))
    );
    assert_eq!(body(&Shape::Fields { x: None }), hex(&bytes("6f 2206'Fields' 6f 2201'x' 30 7b01 7b01")));
    round_trip(vec![Shape::Unit, Shape::New(7), Shape::Tuple(1, "é".into()), Shape::Fields { x: Some(3) }]);
    assert_eq!(
        read::<Vec<Shape>>("41 02 6f 2203'New' 4902 7b01 5e01 24 00 02").unwrap(),
        [Shape::New(1), Shape::New(1)]
    );
    assert_eq!(read::<Shape>("6f 2204'Unit' 5f 7b01").unwrap(), Shape::Unit);
    assert!(read::<Shape>("6f 2203'New' 4902 2201'x' 4902 7b02").is_err());
    assert!(read::<Shape>("6f 7b00").is_err());
    assert!(read::<Shape>("4902").is_err());
    assert!(read::<Shape>("2203'Not'").is_err());
    round_trip(BTreeMap::from([("k".to_owned(), Shape::Tuple(0, String::new()))]));
}

/// A struct with a field it may lack; unknown fields are passed over.
#[derive(Debug, PartialEq)]
struct Listen<'a> {
    port: u16,
    host: Option<Cow<'a, str>>,
}

impl Serialize for Listen<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Listen", 2)?;
        fields.serialize_field("port", &self.port)?;
        match &self.host {
            Some(host) => fields.serialize_field("host", host)?,
            None => fields.skip_field("host")?,
        }
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Listen<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListenVisitor<'de>(PhantomData<&'de str>);
        impl<'de> Visitor<'de> for ListenVisitor<'de> {
            type Value = Listen<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("where to listen")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Listen<'de>, A::Error> {
                let (mut port, mut host) = (None, None);
                while let Some(name) = fields.next_key::<&str>()? {
                    match name {
                        "port" => port = Some(fields.next_value()?),
                        "host" => host = fields.next_value::<Option<&str>>()?.map(Cow::Borrowed),
                        _ => drop(fields.next_value::<de::IgnoredAny>()?),
                    }
                }
                Ok(Listen { port: port.ok_or_else(|| de::Error::missing_field("port"))?, host })
            }
        }
        deserializer.deserialize_struct("Listen", &["port", "host"], ListenVisitor(PhantomData))
    }
}

#[test]
fn structs_are_objects() {
    let full = Listen { port: 80, host: Some("::1".into()) };
    assert_eq!(body(&full), hex(&bytes("6f 2204'port' 49a001 2204'host' 2203'::1' 7b02")));
    assert_eq!(body(&Listen { port: 80, host: None }), hex(&bytes("6f 2204'port' 49a001 7b01")));
    let payload = v8::to_vec(&full).unwrap();
    assert_eq!(v8::from_slice::<Listen<'_>>(&payload).unwrap(), full);

    let payload =
        bytes("ff0f 6f 2202'fd' 5f 2205'other' 41 01 5e00 24 00 01 2204'port' 4902 2204'host' 5f 7b04");
    assert_eq!(v8::from_slice::<Listen<'_>>(&payload).unwrap(), Listen { port: 1, host: None });
    let payload = bytes("ff0f 6f 2204'port' 5f 7b01");
    let error = v8::from_slice::<Listen<'_>>(&payload).unwrap_err();
    assert_eq!(error.to_string(), "missing field `port` (at byte 10 of the message)");
}

#[test]
fn mismatches_say_where() {
    let error = read::<Vec<u8>>("41 02 4902 2201'x' 24 00 02").unwrap_err();
    assert_eq!(error.offset(), Some(9));
    assert_eq!(error.to_string(), "invalid type: string \"x\", expected u8 (at byte 9 of the message)");
    let error = read::<bool>("4902").unwrap_err();
    assert_eq!(error.to_string(), "invalid type: integer `1`, expected a boolean (at byte 4 of the message)");
}

/// Shows a deserializer only what the value says of itself, as untagged enums do.
#[derive(Debug, PartialEq)]
struct Untagged(BTreeMap<String, Json>);

impl<'de> Deserialize<'de> for Untagged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = Untagged;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Untagged, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(Untagged)
            }
        }
        deserializer.deserialize_any(AnyVisitor)
    }
}

#[test]
fn types_from_everywhere_survive() {
    round_trip((1_u8, -2_i16, u32::MAX, i64::MIN, u64::MAX, i128::MIN, u128::MAX));
    round_trip((0.1_f32, f64::MAX, f64::MIN_POSITIVE, -0.0, f64::INFINITY));
    round_trip(('x', '€', String::from("a\0b"), ()));
    round_trip(vec![Some(1), None]);
    round_trip(Some(Some(5)));
    round_trip(BTreeMap::from([(IpAddr::from([127, 0, 0, 1]), 80_u16)]));
    round_trip(std::time::Duration::from_millis(1500));
    round_trip(Buffer((0..=255).collect()));
    round_trip([[1_u8; 3]; 3]);
    round_trip(BTreeMap::from([(String::from("a"), vec![Date(1.5)])]));
    round_trip(Result::<u8, String>::Err("no".into()));
    let payload = v8::to_vec(&json!({"a": [1, {"b": null}], "2": 3})).unwrap();
    let Untagged(map) = v8::from_slice(&payload).unwrap();
    assert_eq!(map["a"], json!([1, {"b": null}]));
}

proptest! {
    #![proptest_config(random::config(64))]

    #[test]
    fn any_map_survives(map in proptest::collection::btree_map(".{0,12}", any::<(i64, u64, Option<bool>, String)>(), 0..20)) {
        round_trip(map);
    }

    #[test]
    fn any_number_survives(float in any::<f64>(), signed in any::<i128>(), unsigned in any::<u128>(), narrow in any::<f32>()) {
        let payload = v8::to_vec(&(float, narrow)).unwrap();
        let (read, read_narrow): (f64, f32) = v8::from_slice(&payload).unwrap();
        prop_assert_eq!((read.to_bits(), read_narrow.to_bits()), (float.to_bits(), narrow.to_bits()));
        round_trip((signed, unsigned, signed >> 64, unsigned >> 70, signed >> 90));
    }

    #[test]
    fn any_keys_survive(signed in any::<BTreeMap<i64, u8>>(), unsigned in any::<BTreeMap<u128, u8>>(), small in any::<BTreeMap<u32, u8>>()) {
        round_trip((signed, unsigned, small));
    }
}
