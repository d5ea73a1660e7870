//! Bytes → [`Document`]. Objects get their names in the order in which they start on the wire, which is
//! how the wire itself names them; so a back-reference needs no table.

use super::bigint::BigInt;
use super::document::Document;
use super::error::{Error, Result};
use super::input::Input;
use super::key::Key;
use super::limits::Limits;
use super::object::{ErrorKind, ErrorObject, Object, Properties, RegExpFlags};
use super::tag;
use super::text::{self, JsString};
use super::value::{ObjectId, Value};
use super::view::{self, Buffer, Window};

/// How many elements are believed before they are seen.
const BELIEVED: usize = 256;

pub(super) struct Reader<'a> {
    input: Input<'a>,
    limits: Limits,
    depth: usize,
    values: usize,
    objects: Vec<Object>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8], limits: &Limits) -> Result<Self> {
        let input = Input::new(payload, limits)?;
        Ok(Self { input, limits: *limits, depth: 0, values: 0, objects: Vec::new() })
    }

    pub(super) fn document(mut self) -> Result<Document> {
        let root = self.value()?;
        Ok(Document { objects: self.objects, root })
    }

    /// Reads the root; gives where it ends and how many objects there are.
    pub(super) fn measure(&mut self) -> (usize, usize) {
        let _ = self.value();
        (self.input.position(), self.objects.len())
    }

    fn value(&mut self) -> Result<Value> {
        self.values += 1;
        if self.values > self.limits.values {
            return Err(self.limit("values", self.limits.values));
        }
        let tag = self.input.peek_value()?;
        let start = self.input.position();
        self.input.advance();
        Ok(match tag {
            tag::UNDEFINED => Value::Undefined,
            tag::NULL => Value::Null,
            tag::TRUE => Value::Bool(true),
            tag::FALSE => Value::Bool(false),
            tag::INT32 => Value::Int(self.input.zigzag()?),
            tag::UINT32 => {
                let value = self.input.varint()?;
                i32::try_from(value).map_or(Value::Double(value.into()), Value::Int)
            }
            tag::DOUBLE => Value::Double(self.input.double()?),
            tag::BIGINT => Value::BigInt(BigInt::read(&mut self.input)?),
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => Value::String(JsString::read(&mut self.input, tag)?),
            tag::REFERENCE => Value::Object(self.reference(start)?),
            tag::ARRAY_BUFFER | tag::RESIZABLE_BUFFER => Value::Object(self.buffer(tag)?),
            _ => Value::Object(self.object(tag, start)?),
        })
    }

    fn object(&mut self, tag: u8, start: usize) -> Result<ObjectId> {
        if self.depth == self.limits.depth {
            return Err(self.limit("depth", self.limits.depth));
        }
        self.depth += 1;
        let id = self.begin();
        let object = match tag {
            tag::OBJECT => Object::Plain(self.plain()?),
            tag::DENSE_ARRAY => self.dense_array()?,
            tag::SPARSE_ARRAY => self.sparse_array()?,
            tag::MAP => Object::Map(self.map()?),
            tag::SET => Object::Set(self.set()?),
            tag::DATE => Object::Date(self.input.double()?),
            tag::REGEXP => self.regexp()?,
            tag::TRUE_OBJECT => Object::Boolean(true),
            tag::FALSE_OBJECT => Object::Boolean(false),
            tag::NUMBER_OBJECT => Object::Number(self.input.double()?),
            tag::BIGINT_OBJECT => Object::BigInt(BigInt::read(&mut self.input)?),
            tag::STRING_OBJECT => Object::String(self.string()?),
            tag::ERROR => Object::Error(Box::new(self.error()?)),
            tag::HOST_OBJECT => self.host_object(id)?,
            _ => return Err(Error::UnknownTag { offset: start, tag }),
        };
        if let Some(place) = self.objects.get_mut(id.index()) {
            *place = object;
        }
        self.depth -= 1;
        Ok(id)
    }

    /// Gives the next object its name, so that what is inside it can refer to it.
    fn begin(&mut self) -> ObjectId {
        let id = ObjectId(self.objects.len() as u32); // fewer objects than bytes, and those are limited
        self.objects.push(Object::Plain(Vec::new()));
        id
    }

    fn reference(&mut self, offset: usize) -> Result<ObjectId> {
        let id = ObjectId(self.input.varint()?);
        match self.objects.get(id.index()) {
            None => Err(Error::Reference { offset, id: id.0 }),
            Some(Object::ArrayBuffer { .. }) => self.view_if_any(id),
            Some(_) => Ok(id),
        }
    }

    fn buffer(&mut self, tag: u8) -> Result<ObjectId> {
        let buffer = view::read_buffer(&mut self.input, tag)?;
        let id = ObjectId(self.objects.len() as u32);
        self.objects
            .push(Object::ArrayBuffer { bytes: buffer.bytes.to_vec(), max_length: buffer.max_length });
        self.view_if_any(id)
    }

    /// A buffer that a view follows stands for that view.
    fn view_if_any(&mut self, buffer: ObjectId) -> Result<ObjectId> {
        let Some(Object::ArrayBuffer { bytes, max_length }) = self.objects.get(buffer.index()) else {
            return Ok(buffer);
        };
        if !self.input.is_next(tag::VIEW) {
            return Ok(buffer);
        }
        self.input.advance();
        let Window { kind, offset, length, tracks_length } =
            Window::read(&mut self.input, Buffer { bytes, max_length: *max_length })?;
        let id = ObjectId(self.objects.len() as u32);
        self.objects.push(Object::View { buffer, kind, offset, length, tracks_length });
        Ok(id)
    }

    fn plain(&mut self) -> Result<Properties> {
        let properties = self.properties(tag::END_OBJECT)?;
        self.input.expect_count(properties.len())?;
        Ok(properties)
    }

    fn properties(&mut self, end: u8) -> Result<Properties> {
        let mut properties = Vec::new();
        while !self.input.take_if(end)? {
            properties.push((Key::read(&mut self.input)?, self.value()?));
        }
        Ok(properties)
    }

    fn dense_array(&mut self) -> Result<Object> {
        let length = self.input.count()?;
        let mut elements = Vec::with_capacity(BELIEVED.min(length as usize));
        for _ in 0..length {
            let hole = self.input.take_if(tag::HOLE)?;
            elements.push(if hole { None } else { Some(self.value()?) });
        }
        let properties = self.properties(tag::END_DENSE_ARRAY)?;
        self.input.expect_count(properties.len())?;
        self.input.expect_length(length)?;
        Ok(Object::Array { elements, properties })
    }

    fn sparse_array(&mut self) -> Result<Object> {
        let length = self.input.varint()?;
        let entries = self.properties(tag::END_SPARSE_ARRAY)?;
        self.input.expect_count(entries.len())?;
        self.input.expect_length(length)?;
        Ok(Object::SparseArray { length, entries })
    }

    fn map(&mut self) -> Result<Vec<(Value, Value)>> {
        let mut entries = Vec::new();
        while !self.input.take_if(tag::END_MAP)? {
            entries.push((self.value()?, self.value()?));
        }
        self.input.expect_count(entries.len() * 2)?;
        Ok(entries)
    }

    fn set(&mut self) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        while !self.input.take_if(tag::END_SET)? {
            items.push(self.value()?);
        }
        self.input.expect_count(items.len())?;
        Ok(items)
    }

    fn regexp(&mut self) -> Result<Object> {
        let source = self.string()?;
        let flags = read_flags(&mut self.input)?;
        Ok(Object::RegExp { source, flags })
    }

    /// A string with its tag, where only a string may stand.
    fn string(&mut self) -> Result<JsString> {
        let tag = take_string_tag(&mut self.input)?;
        JsString::read(&mut self.input, tag)
    }

    fn error(&mut self) -> Result<ErrorObject> {
        let mut error = ErrorObject::default();
        loop {
            let offset = self.input.position();
            match self.input.byte()? {
                tag::ERROR_MESSAGE => error.message = Some(self.string()?),
                tag::ERROR_STACK => error.stack = Some(self.string()?),
                tag::ERROR_CAUSE => error.cause = Some(self.value()?),
                tag::ERROR_END => return Ok(error),
                letter => {
                    error.kind = ErrorKind::from_letter(letter).ok_or_else(|| unknown_error_part(offset))?
                }
            }
        }
    }

    fn host_object(&mut self, own: ObjectId) -> Result<Object> {
        let offset = self.input.position();
        match self.input.varint()? {
            tag::HOST_VIEW => {
                let view = view::read_host(&mut self.input)?;
                Ok(Object::TypedArray { kind: view.kind, bytes: view.bytes.to_vec() })
            }
            tag::HOST_PLAIN => match self.value()? {
                Value::Object(id) if id != own => Ok(Object::Native(id)),
                _ => Err(Error::Malformed { offset, what: "a native object without properties" }),
            },
            _ => Err(unknown_host_kind(offset)),
        }
    }

    fn limit(&self, limit: &'static str, allowed: usize) -> Error {
        Error::Limit { offset: self.input.position(), limit, allowed }
    }
}

/// Takes the tag of a string, where nothing else may stand.
pub(super) fn take_string_tag(input: &mut Input<'_>) -> Result<u8> {
    let tag = input.peek_value()?;
    if !text::is_string(tag) {
        return Err(Error::Malformed {
            offset: input.position(),
            what: "something stands in place of a string",
        });
    }
    input.advance();
    Ok(tag)
}

pub(super) fn read_flags(input: &mut Input<'_>) -> Result<RegExpFlags> {
    let offset = input.position();
    let flags = RegExpFlags::from_bits(input.varint()?);
    flags.ok_or(Error::Malformed { offset, what: "flags that no regular expression has" })
}

pub(super) fn unknown_error_part(offset: usize) -> Error {
    Error::Malformed { offset, what: "an error has a part of an unknown kind" }
}

pub(super) fn unknown_host_kind(offset: usize) -> Error {
    Error::Malformed { offset, what: "a host object of a kind that Node does not write" }
}
