//! What the tests of the codec share: values of every kind at random, and one text for each value.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part, and only tests do")]

use std::collections::HashMap;
use std::fmt::Write;

use everycore_ipc::v8::{Document, Key, Object, ObjectId, Value, ViewKind};

pub(crate) mod random;

/// One text for each value; the script in `fixtures/v8_peer.js` makes the same of the same value. How a value is
/// written does not show: `Int(1)` is `Double(1.0)`, and a sparse array is an array.
pub(crate) fn describe(document: &Document) -> String {
    let mut text = String::new();
    Describer { document, seen: HashMap::new() }.value(&mut text, document.root());
    text
}

struct Describer<'a> {
    document: &'a Document,
    seen: HashMap<ObjectId, usize>,
}

impl Describer<'_> {
    fn value(&mut self, out: &mut String, value: &Value) {
        match value {
            Value::Undefined => out.push_str("undefined"),
            Value::Null => out.push_str("null"),
            Value::Bool(value) => write!(out, "{value}").unwrap(),
            Value::Int(value) => number(out, (*value).into()),
            Value::Double(value) => number(out, *value),
            Value::BigInt(value) => bigint(out, value.is_negative(), value.words()),
            Value::String(value) => string(out, &units(value)),
            Value::Object(id) => self.object(out, *id),
        }
    }

    fn object(&mut self, out: &mut String, id: ObjectId) {
        let object = self.document.object(id).unwrap();
        if let Object::Native(inner) = object {
            return self.object(out, *inner);
        }
        let count = self.seen.len();
        match self.seen.get(&id) {
            Some(number) => return write!(out, "#{number}").unwrap(),
            None => write!(out, "#{count}=").unwrap(),
        }
        self.seen.insert(id, count);
        match object {
            Object::Plain(properties) => {
                out.push('{');
                self.properties(
                    out,
                    "",
                    properties.iter().map(|(key, value)| (key.clone(), value)).collect(),
                );
                out.push('}');
            }
            Object::Array { elements, properties } => {
                write!(out, "[{}", elements.len()).unwrap();
                let elements = elements.iter().zip(0..).filter_map(|(element, index)| {
                    element.as_ref().map(|element| (Key::from(index), element))
                });
                let named = properties.iter().map(|(key, value)| (key.clone(), value));
                self.properties(out, ",", elements.chain(named).collect());
                out.push(']');
            }
            Object::SparseArray { length, entries } => {
                write!(out, "[{length}").unwrap();
                self.properties(out, ",", entries.iter().map(|(key, value)| (key.clone(), value)).collect());
                out.push(']');
            }
            Object::Map(entries) => {
                out.push_str("Map(");
                for (place, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    self.value(out, key);
                    out.push_str("=>");
                    self.value(out, value);
                }
                out.push(')');
            }
            Object::Set(items) => {
                out.push_str("Set(");
                for (place, item) in items.iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    self.value(out, item);
                }
                out.push(')');
            }
            Object::Date(time) => {
                out.push_str("Date(");
                number(out, *time);
                out.push(')');
            }
            Object::RegExp { source, flags } => {
                out.push_str("RegExp(");
                string(out, &units(source));
                write!(out, ",{flags})").unwrap();
            }
            Object::Boolean(value) => write!(out, "Boolean({value})").unwrap(),
            Object::Number(value) => {
                out.push_str("Number(");
                number(out, *value);
                out.push(')');
            }
            Object::BigInt(value) => {
                out.push_str("BigInt(");
                bigint(out, value.is_negative(), value.words());
                out.push(')');
            }
            Object::String(value) => {
                out.push_str("String(");
                string(out, &units(value));
                out.push(')');
            }
            Object::ArrayBuffer { bytes, max_length } => {
                write!(out, "ArrayBuffer({}", hex(bytes)).unwrap();
                max_length.iter().for_each(|max| write!(out, ",{max}").unwrap());
                out.push(')');
            }
            Object::TypedArray { kind, bytes } => write!(out, "{}({})", class(*kind), hex(bytes)).unwrap(),
            Object::View { buffer, kind, offset, length, .. } => {
                let Some(Object::ArrayBuffer { bytes, .. }) = self.document.object(*buffer) else { panic!() };
                let kind = if *kind == ViewKind::Buffer { ViewKind::Uint8 } else { *kind };
                let shown = &bytes[*offset as usize..][..*length as usize];
                write!(out, "{}({})", class(kind), hex(shown)).unwrap();
            }
            Object::Native(_) => unreachable!(),
            Object::Error(error) => {
                write!(out, "{}(", error.kind.name()).unwrap();
                let text = |text: &Option<_>| text.clone().map(Value::String);
                let parts = [
                    ("message", text(&error.message)),
                    ("stack", text(&error.stack)),
                    ("cause", error.cause.clone()),
                ];
                let present = parts.into_iter().filter_map(|(name, part)| part.map(|part| (name, part)));
                for (place, (name, part)) in present.enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    write!(out, "{name}=").unwrap();
                    self.value(out, &part);
                }
                out.push(')');
            }
        }
    }

    /// In JavaScript's order: indices first, by size.
    fn properties(&mut self, out: &mut String, mut separator: &str, mut properties: Vec<(Key, &Value)>) {
        properties.sort_by_key(|(key, _)| key.index().map_or(u64::MAX, u64::from));
        for (key, value) in properties {
            out.push_str(separator);
            separator = ",";
            match key.name() {
                Some(name) => string(out, &units(name)),
                None => write!(out, "\"{key}\"").unwrap(),
            }
            out.push(':');
            self.value(out, value);
        }
    }
}

fn class(kind: ViewKind) -> String {
    match kind {
        ViewKind::DataView | ViewKind::Buffer => format!("{kind:?}"),
        kind => format!("{kind:?}Array"),
    }
}

fn number(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else {
        write!(out, "{:016x}", value.to_bits()).unwrap();
    }
}

fn bigint(out: &mut String, negative: bool, words: &[u64]) {
    let sign = if negative { "-" } else { "" };
    let digits: String = words.iter().rev().map(|word| format!("{word:016x}")).collect();
    let digits = digits.trim_start_matches('0');
    write!(out, "{sign}0x{}", if digits.is_empty() { "0" } else { digits }).unwrap();
}

fn units(string: &everycore_ipc::v8::JsString) -> Vec<u16> {
    string.to_utf16()
}

fn string(out: &mut String, units: &[u16]) {
    out.push('"');
    for unit in units {
        match char::from_u32((*unit).into()) {
            Some(c @ (' '..='!' | '#'..='[' | ']'..='~')) => out.push(c),
            _ => write!(out, "\\u{unit:04x}").unwrap(),
        }
    }
    out.push('"');
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from a text of hex digits and of quoted runs of ASCII, the way the format's description spells them.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, run) in text.split('\'').enumerate() {
        if place % 2 == 1 {
            bytes.extend_from_slice(run.as_bytes());
            continue;
        }
        let digits: String = run.split_whitespace().collect();
        assert!(digits.len().is_multiple_of(2), "half a byte in {run:?}");
        let pairs = (0..digits.len()).step_by(2);
        bytes.extend(pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()));
    }
    bytes
}
