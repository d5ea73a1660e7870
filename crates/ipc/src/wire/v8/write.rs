//! [`Document`] → bytes. Objects are numbered in the order in which they start; one that was written before
//! becomes a reference to its number.

use super::document::Document;
use super::error::{Error, Result};
use super::key::Key;
use super::keys::WrittenKeys;
use super::limits::Limits;
use super::object::{ErrorObject, Object};
use super::output::Output;
use super::tag;
use super::value::{ObjectId, Value};
use super::view::{Buffer, ViewKind, Window};

pub(super) struct Writer<'a> {
    document: &'a Document,
    out: Output<'a>,
    limits: Limits,
    depth: usize,
    /// The number on the wire of each object of the document that has been written.
    numbers: Vec<Option<u32>>,
    next_number: u32,
    keys: WrittenKeys,
}

impl<'a> Writer<'a> {
    pub(super) fn new(document: &'a Document, out: Output<'a>, limits: &Limits) -> Self {
        Self {
            document,
            out,
            limits: *limits,
            depth: 0,
            numbers: vec![None; document.objects.len()],
            next_number: 0,
            keys: WrittenKeys::default(),
        }
    }

    pub(super) fn document(mut self) -> Result<()> {
        self.value(&self.document.root)
    }

    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Undefined => self.out.byte(tag::UNDEFINED),
            Value::Null => self.out.byte(tag::NULL),
            Value::Bool(true) => self.out.byte(tag::TRUE),
            Value::Bool(false) => self.out.byte(tag::FALSE),
            Value::Int(value) => self.out.int(*value),
            Value::Double(value) => self.out.double(*value),
            Value::BigInt(value) => {
                self.out.byte(tag::BIGINT);
                self.out.bigint(value);
            }
            Value::String(value) => self.out.string(value),
            Value::Object(id) => return self.object(*id),
        }
        Ok(())
    }

    fn object(&mut self, id: ObjectId) -> Result<()> {
        let object = self.resolve(id)?;
        if let Some(number) = self.numbers.get(id.index()).copied().flatten() {
            self.out.byte(tag::REFERENCE);
            self.out.varint(number);
            return Ok(());
        }
        if self.depth == self.limits.depth {
            let (offset, allowed) = (self.out.length(), self.limits.depth);
            return Err(Error::Limit { offset, limit: "depth", allowed });
        }
        self.out.check(&self.limits)?;
        self.depth += 1;
        if let Object::View { buffer, kind, offset, length, tracks_length } = *object {
            self.view(id, buffer, Window { kind, offset, length, tracks_length })?;
        } else {
            self.number(id);
            self.body(id, object)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn resolve(&self, id: ObjectId) -> Result<&'a Object> {
        self.document.object(id).ok_or(Error::Unsupported { what: "an object of another document" })
    }

    fn number(&mut self, id: ObjectId) {
        if let Some(number) = self.numbers.get_mut(id.index()) {
            *number = Some(self.next_number);
        }
        self.next_number += 1;
    }

    fn body(&mut self, id: ObjectId, object: &Object) -> Result<()> {
        match object {
            Object::Plain(properties) => {
                self.out.byte(tag::OBJECT);
                self.properties(properties, tag::END_OBJECT, |_| true)?;
            }
            Object::Array { elements, properties } => self.dense_array(elements, properties)?,
            Object::SparseArray { length, entries } => {
                self.out.byte(tag::SPARSE_ARRAY);
                self.out.varint(*length);
                let fits = |key: &Key| key.index().map_or(is_own_name(key), |index| index < *length);
                self.properties(entries, tag::END_SPARSE_ARRAY, fits)?;
                self.out.varint(*length);
            }
            Object::Map(entries) => {
                self.out.byte(tag::MAP);
                for (key, value) in entries {
                    self.value(key)?;
                    self.value(value)?;
                }
                self.out.byte(tag::END_MAP);
                self.out.count(entries.len() * 2);
            }
            Object::Set(items) => {
                self.out.byte(tag::SET);
                items.iter().try_for_each(|item| self.value(item))?;
                self.out.byte(tag::END_SET);
                self.out.count(items.len());
            }
            Object::Date(time) => {
                self.out.byte(tag::DATE);
                self.out.bare_double(*time);
            }
            Object::RegExp { source, flags } => {
                self.out.byte(tag::REGEXP);
                self.out.string(source);
                self.out.varint(flags.bits());
            }
            Object::Boolean(true) => self.out.byte(tag::TRUE_OBJECT),
            Object::Boolean(false) => self.out.byte(tag::FALSE_OBJECT),
            Object::Number(value) => {
                self.out.byte(tag::NUMBER_OBJECT);
                self.out.bare_double(*value);
            }
            Object::BigInt(value) => {
                self.out.byte(tag::BIGINT_OBJECT);
                self.out.bigint(value);
            }
            Object::String(value) => {
                self.out.byte(tag::STRING_OBJECT);
                self.out.string(value);
            }
            Object::ArrayBuffer { bytes, max_length } => self.array_buffer(bytes, *max_length)?,
            Object::TypedArray { kind, bytes } => typed_array(&mut self.out, *kind, bytes)?,
            Object::View { .. } => {}
            Object::Native(inner) if *inner == id => {
                return Err(Error::Unsupported { what: "a native object that stands for itself" });
            }
            Object::Native(inner) => {
                self.out.byte(tag::HOST_OBJECT);
                self.out.varint(tag::HOST_PLAIN);
                self.object(*inner)?;
            }
            Object::Error(error) => self.error(error)?,
        }
        Ok(())
    }

    fn properties(
        &mut self,
        properties: &[(Key, Value)],
        end: u8,
        allowed: impl Fn(&Key) -> bool,
    ) -> Result<()> {
        let mark = self.keys.begin();
        for (key, value) in properties {
            if !allowed(key) {
                return Err(Error::Unsupported { what: "an array with this property" });
            }
            let start = self.out.length();
            self.out.key(key);
            self.keys.push(&mut self.out, start);
            self.value(value)?;
        }
        let count = self.keys.end(mark, &mut self.out)?;
        self.out.byte(end);
        self.out.count(count);
        Ok(())
    }

    fn dense_array(&mut self, elements: &[Option<Value>], properties: &[(Key, Value)]) -> Result<()> {
        self.out.byte(tag::DENSE_ARRAY);
        self.out.count(elements.len());
        for element in elements {
            match element {
                Some(value) => self.value(value)?,
                None => self.out.byte(tag::HOLE),
            }
        }
        self.properties(properties, tag::END_DENSE_ARRAY, is_own_name)?;
        self.out.count(elements.len());
        Ok(())
    }

    fn array_buffer(&mut self, bytes: &[u8], max_length: Option<u32>) -> Result<()> {
        match max_length {
            None => {
                self.out.byte(tag::ARRAY_BUFFER);
                self.out.sized(bytes);
            }
            Some(max) if bytes.len() <= max as usize => {
                self.out.byte(tag::RESIZABLE_BUFFER);
                self.out.count(bytes.len());
                self.out.varint(max);
                self.out.raw(bytes);
            }
            Some(_) => {
                return Err(Error::Unsupported { what: "a resizable buffer longer than it may become" });
            }
        }
        Ok(())
    }

    /// The buffer, or a reference to it, and behind it what the view shows of it. The view takes its
    /// number after the buffer.
    fn view(&mut self, id: ObjectId, buffer: ObjectId, window: Window) -> Result<()> {
        let Object::ArrayBuffer { bytes, max_length } = self.resolve(buffer)? else {
            return Err(Error::Unsupported { what: "a view on something else than a buffer" });
        };
        let buffer_bytes = Buffer { bytes, max_length: *max_length };
        window.on(buffer_bytes).map_err(|what| Error::Unsupported { what })?;
        self.object(buffer)?;
        self.number(id);
        self.out.byte(tag::VIEW);
        self.out.byte(window.kind.letter());
        self.out.varint(window.offset);
        self.out.varint(window.length);
        let resizable = if max_length.is_some() { tag::VIEW_OF_RESIZABLE } else { 0 };
        let tracks = if window.tracks_length { tag::VIEW_TRACKS_LENGTH } else { 0 };
        self.out.varint(resizable | tracks);
        Ok(())
    }

    /// The cause comes last: from Node 22 on, the error exists by then and its cause may refer to it.
    fn error(&mut self, error: &ErrorObject) -> Result<()> {
        self.out.byte(tag::ERROR);
        if let Some(letter) = error.kind.letter() {
            self.out.byte(letter);
        }
        if let Some(message) = &error.message {
            self.out.byte(tag::ERROR_MESSAGE);
            self.out.string(message);
        }
        if let Some(stack) = &error.stack {
            self.out.byte(tag::ERROR_STACK);
            self.out.string(stack);
        }
        if let Some(cause) = &error.cause {
            self.out.byte(tag::ERROR_CAUSE);
            self.value(cause)?;
        }
        self.out.byte(tag::ERROR_END);
        Ok(())
    }
}

/// Writes bytes as a host object of one of the kinds Node knows.
pub(super) fn typed_array(out: &mut Output<'_>, kind: ViewKind, bytes: &[u8]) -> Result<()> {
    if !bytes.len().is_multiple_of(kind.element_size()) {
        return Err(Error::Unsupported { what: "a typed array with part of an element" });
    }
    out.byte(tag::HOST_OBJECT);
    out.varint(tag::HOST_VIEW);
    out.byte(kind.host_number());
    out.sized(bytes);
    Ok(())
}

/// Whether an array can have this property besides its elements: Node refuses an index or `length`.
fn is_own_name(key: &Key) -> bool {
    key.name().is_some_and(|name| *name != "length")
}
