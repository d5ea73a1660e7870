//! Values of every kind at random, as instructions for building a document, so that a failing one shrinks.

use std::collections::HashSet;

use everycore_ipc::v8::{
    BigInt, Document, ErrorKind, ErrorObject, JsString, Key, Object, ObjectId, Value, ViewKind,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// That many cases, or as many as `PROPTEST_CASES` says.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|asked| asked.parse().ok());
    let cases = asked.unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

pub(crate) fn runner(cases: u32) -> TestRunner {
    TestRunner::new(config(cases))
}

/// How to build one value.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    Primitive(Value),
    /// An object that was begun before, this one of them, if it can be referred to.
    Again(usize),
    Whole(Object),
    Plain(Vec<(Key, Plan)>),
    Array(Vec<Option<Plan>>, Vec<(Key, Plan)>),
    Sparse(Vec<(u32, Plan)>, u32),
    Map(Vec<(Plan, Plan)>),
    Set(Vec<Plan>),
    View(ViewKind, Vec<u8>, u32, u32, bool),
    Native(Vec<(Key, Plan)>),
    Error(ErrorKind, Option<JsString>, Option<Box<Plan>>),
}

/// The document of a plan. Everything in it is what a Node peer can take.
pub(crate) fn build(plan: &Plan) -> Document {
    let mut builder = Builder { document: Document::new(), referable: Vec::new() };
    let root = builder.value(plan);
    builder.document.set_root(root);
    builder.document
}

struct Builder {
    document: Document,
    /// A Node reader does not know an error or a native object before it is complete.
    referable: Vec<ObjectId>,
}

impl Builder {
    fn value(&mut self, plan: &Plan) -> Value {
        match plan {
            Plan::Primitive(value) => value.clone(),
            Plan::Again(_) if self.referable.is_empty() => Value::Null,
            Plan::Again(place) => self.referable[place % self.referable.len()].into(),
            Plan::Whole(object) => self.begin(object.clone()).into(),
            Plan::Plain(properties) => {
                let id = self.begin(Object::Plain(Vec::new()));
                let properties = self.properties(properties);
                self.finish(id, Object::Plain(properties))
            }
            Plan::Array(elements, properties) => {
                let id = self.begin(Object::array([]));
                let elements =
                    elements.iter().map(|element| element.as_ref().map(|plan| self.value(plan))).collect();
                let mut properties = self.properties(properties);
                properties.retain(|(key, _)| key.name().is_some_and(|name| *name != "length"));
                self.finish(id, Object::Array { elements, properties })
            }
            Plan::Sparse(entries, length) => {
                let id = self.begin(Object::array([]));
                let entries: Vec<_> =
                    entries.iter().map(|(index, plan)| (Key::from(*index), plan.clone())).collect();
                let entries = self.properties(&entries);
                self.finish(id, Object::SparseArray { length: *length, entries })
            }
            Plan::Map(entries) => {
                let id = self.begin(Object::Map(Vec::new()));
                let mut seen = Seen::default();
                let mut kept = Vec::new();
                for (key, value) in entries {
                    let key = self.value(key);
                    if seen.is_new(&key) {
                        kept.push((key, self.value(value)));
                    }
                }
                self.finish(id, Object::Map(kept))
            }
            Plan::Set(items) => {
                let id = self.begin(Object::Set(Vec::new()));
                let mut seen = Seen::default();
                let items =
                    items.iter().map(|item| self.value(item)).filter(|item| seen.is_new(item)).collect();
                self.finish(id, Object::Set(items))
            }
            Plan::View(kind, bytes, offset, length, resizable) => {
                let max_length = resizable.then_some(bytes.len() as u32 + 8);
                let buffer = self.begin(Object::ArrayBuffer { bytes: bytes.clone(), max_length });
                let size = kind.element_size() as u32;
                let offset = offset.min(&(bytes.len() as u32)) / size * size;
                let length = length.min(&(bytes.len() as u32 - offset)) / size * size;
                let view = Object::View { buffer, kind: *kind, offset, length, tracks_length: false };
                self.begin(view).into()
            }
            Plan::Native(properties) => {
                let inner = self.document.add(Object::Plain(Vec::new()));
                let properties = self.properties(properties);
                self.finish(inner, Object::Plain(properties));
                let id = self.document.add(Object::Native(inner));
                self.referable.push(id);
                id.into()
            }
            Plan::Error(kind, message, cause) => {
                let cause = cause.as_ref().map(|cause| self.value(cause));
                let error = ErrorObject {
                    kind: *kind,
                    message: message.clone(),
                    stack: Some("at test".into()),
                    cause,
                };
                self.begin(Object::Error(Box::new(error))).into()
            }
        }
    }

    fn properties(&mut self, properties: &[(Key, Plan)]) -> Vec<(Key, Value)> {
        let mut seen = HashSet::new();
        let properties = properties.iter().filter(|(key, _)| seen.insert(key));
        properties.map(|(key, plan)| (key.clone(), self.value(plan))).collect()
    }

    fn begin(&mut self, object: Object) -> ObjectId {
        let id = self.document.add(object);
        self.referable.push(id);
        id
    }

    fn finish(&mut self, id: ObjectId, object: Object) -> Value {
        *self.document.object_mut(id).unwrap() = object;
        id.into()
    }
}

/// The keys of a map so far.
#[derive(Default)]
struct Seen(HashSet<String>);

impl Seen {
    /// Whether JavaScript would take this for another key than those before, and for itself.
    fn is_new(&mut self, key: &Value) -> bool {
        let text = match key.as_f64() {
            Some(value) if value == 0.0 && value.is_sign_negative() => return false,
            Some(value) => format!("{value:?}"),
            None => format!("{key:?}"),
        };
        self.0.insert(text)
    }
}

pub(crate) fn string() -> impl Strategy<Value = JsString> + Clone {
    prop_oneof![
        4 => "[a-z]{0,8}".prop_map(JsString::from),
        2 => ".{0,12}".prop_map(JsString::from),
        1 => "[a-zé-ÿ]{0,300}".prop_map(JsString::from),
        1 => vec(any::<u16>(), 0..6).prop_map(JsString::from_utf16),
        1 => vec(0xd7f0_u16..0xe010, 0..6).prop_map(JsString::from_utf16),
    ]
}

fn key() -> impl Strategy<Value = Key> + Clone {
    prop_oneof![
        4 => string().prop_map(Key::from),
        1 => (0_u32..20).prop_map(Key::from),
        1 => any::<u32>().prop_map(Key::from),
        1 => Just(Key::from("__proto__")),
        1 => (-9_i64..9).prop_map(|key| Key::from(key.to_string())),
    ]
}

fn double() -> impl Strategy<Value = f64> + Clone {
    prop_oneof![
        any::<f64>(),
        any::<i32>().prop_map(f64::from),
        any::<u64>().prop_map(f64::from_bits),
        Just(-0.0),
        Just(2147483648.0)
    ]
}

fn bigint() -> impl Strategy<Value = BigInt> + Clone {
    (any::<bool>(), vec(any::<u64>(), 0..4)).prop_map(|(negative, words)| BigInt::new(negative, words))
}

fn primitive() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        Just(Value::Undefined),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(Value::Int),
        (-9..9).prop_map(Value::Int),
        double().prop_map(Value::Double),
        bigint().prop_map(Value::BigInt),
        string().prop_map(Value::String),
    ]
}

const VIEWS: [ViewKind; 13] = [
    ViewKind::Int8,
    ViewKind::Uint8,
    ViewKind::Uint8Clamped,
    ViewKind::Int16,
    ViewKind::Uint16,
    ViewKind::Int32,
    ViewKind::Uint32,
    ViewKind::Float32,
    ViewKind::Float64,
    ViewKind::DataView,
    ViewKind::Buffer,
    ViewKind::BigInt64,
    ViewKind::BigUint64,
];

fn view_kind() -> impl Strategy<Value = ViewKind> + Clone {
    proptest::sample::select(&VIEWS[..])
}

fn whole() -> impl Strategy<Value = Object> + Clone {
    let sources = proptest::sample::select(&["a", "a+(b|c)", "[x-z]", "€", r"\/\\"][..]);
    let flags = proptest::sample::select(&["", "g", "gi", "dgimsuy", "v", "y"][..]);
    prop_oneof![
        prop_oneof![
            (-8_640_000_000_000_000_i64..=8_640_000_000_000_000).prop_map(|time| time as f64),
            Just(f64::NAN)
        ]
        .prop_map(Object::Date),
        (sources, flags).prop_map(|(source, flags)| Object::RegExp {
            source: source.into(),
            flags: flags.parse().unwrap()
        }),
        any::<bool>().prop_map(Object::Boolean),
        double().prop_map(Object::Number),
        bigint().prop_map(Object::BigInt),
        string().prop_map(Object::String),
        (vec(any::<u8>(), 0..40), proptest::option::of(0_u32..9)).prop_map(|(bytes, room)| {
            let max_length = room.map(|room| bytes.len() as u32 + room);
            Object::ArrayBuffer { bytes, max_length }
        }),
        (view_kind(), vec(any::<[u8; 8]>(), 0..20))
            .prop_map(|(kind, bytes)| Object::TypedArray { kind, bytes: bytes.concat() }),
    ]
}

fn error_kind() -> impl Strategy<Value = ErrorKind> + Clone {
    use ErrorKind::{Error, Eval, Range, Reference, Syntax, Type, Uri};
    proptest::sample::select(&[Error, Eval, Range, Reference, Syntax, Type, Uri][..])
}

/// Any value, with objects inside one another up to five deep.
pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let leaf = prop_oneof![
        4 => primitive().prop_map(Plan::Primitive),
        2 => any::<usize>().prop_map(Plan::Again),
        2 => whole().prop_map(Plan::Whole),
        1 => (view_kind(), vec(any::<u8>(), 0..40), 0_u32..40, 0_u32..40, any::<bool>())
            .prop_map(|(kind, bytes, offset, length, resizable)| Plan::View(kind, bytes, offset, length, resizable)),
    ];
    leaf.prop_recursive(5, 80, 8, |inner| {
        let properties = vec((key(), inner.clone()), 0..8);
        prop_oneof![
            4 => properties.clone().prop_map(Plan::Plain),
            4 => (vec(proptest::option::weighted(0.9, inner.clone()), 0..8), vec((key(), inner.clone()), 0..2))
                .prop_map(|(elements, properties)| Plan::Array(elements, properties)),
            1 => (vec((0_u32..50, inner.clone()), 0..5), 50_u32..)
                .prop_map(|(entries, length)| Plan::Sparse(entries, length)),
            2 => vec((inner.clone(), inner.clone()), 0..5).prop_map(Plan::Map),
            2 => vec(inner.clone(), 0..5).prop_map(Plan::Set),
            1 => properties.prop_map(Plan::Native),
            1 => (error_kind(), proptest::option::of(string()), proptest::option::of(inner.prop_map(Box::new)))
                .prop_map(|(kind, message, cause)| Plan::Error(kind, message, cause)),
        ]
    })
}
