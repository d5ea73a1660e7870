//! Bytes → serde, without a document in between. The table of what becomes what is in the
//! [module's documentation](super).
//!
//! A back-reference is followed by reading its object again. Where the objects are is found out by one walk
//! over the message, at the first reference; messages without any pay nothing. An object refers to
//! itself, directly or not, exactly if some reference lies inside the object it names; and what is read
//! again is charged to [`Limits::expansion`].

use std::borrow::Cow;

use serde::de::value::CowStrDeserializer;
use serde::de::{self, DeserializeSeed, Visitor};

use super::error::{Error, Result};
use super::input::Input;
use super::limits::Limits;
use super::read::{read_flags, take_string_tag, unknown_host_kind};
use super::scan::{self, Span};
use super::tag;
use super::text::{self, read_text};
use super::view::{self, View, ViewKind, Window};

mod array;
mod failure;
mod name;
mod number;
mod object;

pub(super) fn read<'de, T: de::Deserialize<'de>>(payload: &'de [u8], limits: &Limits) -> Result<T> {
    let input = Input::new(payload, limits)?;
    let (depth, expansion) = (limits.depth, limits.expansion);
    let mut deserializer = Deserializer { input, payload, limits, depth, expansion, spans: None };
    T::deserialize(&mut deserializer).map_err(|error| error.at(deserializer.input.position()))
}

pub(super) struct Deserializer<'de, 'l> {
    input: Input<'de>,
    /// All of the message.
    payload: &'de [u8],
    limits: &'l Limits,
    /// How many more levels may be entered.
    depth: usize,
    /// How much more may be read again.
    expansion: usize,
    /// Where the objects are, once someone has asked.
    spans: Option<Vec<Span>>,
}

/// What stands at the position.
enum Next<'de> {
    /// A value of this tag, which has been taken.
    Tag(u8),
    /// Bytes, which have been taken.
    View(View<'de>),
    /// A reference, which has been taken, to an object that is here.
    Elsewhere(Span),
}

impl<'de, 'l> Deserializer<'de, 'l> {
    fn next(&mut self) -> Result<Next<'de>> {
        loop {
            let tag = self.input.peek_value()?;
            let start = self.input.position();
            self.input.advance();
            return match tag {
                tag::REFERENCE => self.reference(start),
                tag::ARRAY_BUFFER | tag::RESIZABLE_BUFFER => {
                    let buffer = view::read_buffer(&mut self.input, tag)?;
                    self.view_of(buffer).map(Next::View)
                }
                tag::HOST_OBJECT => {
                    let offset = self.input.position();
                    match self.input.varint()? {
                        tag::HOST_VIEW => view::read_host(&mut self.input).map(Next::View),
                        tag::HOST_PLAIN => continue, // its properties, as an object, come next
                        _ => Err(unknown_host_kind(offset)),
                    }
                }
                tag => Ok(Next::Tag(tag)),
            };
        }
    }

    /// The part of a buffer that the view behind it shows; all of it without one.
    fn view_of(&mut self, buffer: view::Buffer<'de>) -> Result<View<'de>> {
        if !self.input.is_next(tag::VIEW) {
            return Ok(View { kind: ViewKind::Uint8, bytes: buffer.bytes });
        }
        self.input.advance();
        let window = Window::read(&mut self.input, buffer)?;
        Ok(View { kind: window.kind, bytes: window.of(buffer.bytes) })
    }

    fn reference(&mut self, start: usize) -> Result<Next<'de>> {
        let id = self.input.varint()?;
        let span = self.span(id)?;
        match span {
            Some(span) if span.start < start && span.end <= start => {
                self.charge(span.end - span.start)?;
                if !span.is_buffer {
                    return Ok(Next::Elsewhere(span));
                }
                let buffer = scan::buffer_at(self.input.clone(), span)?;
                self.view_of(buffer).map(Next::View)
            }
            Some(span) if span.start < start => Err(Error::Cycle { offset: start }),
            _ => Err(Error::Reference { offset: start, id }),
        }
    }

    fn span(&mut self, id: u32) -> Result<Option<Span>> {
        let spans = match &mut self.spans {
            Some(spans) => spans,
            unknown => {
                let root = Input::new(self.payload, self.limits)?;
                unknown.insert(scan::spans(root, self.limits)?)
            }
        };
        Ok(spans.get(id as usize).copied())
    }

    /// Pays for what the message's own bytes do not pay for.
    fn charge(&mut self, cost: usize) -> Result<()> {
        self.expansion = self.expansion.checked_sub(cost).ok_or_else(|| Error::Limit {
            offset: self.input.position(),
            limit: "expansion",
            allowed: self.limits.expansion,
        })?;
        Ok(())
    }

    /// Reads at another place and comes back.
    fn read_at<T>(&mut self, span: Span, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let back = self.input.position();
        self.input.seek(span.start);
        let value = read(self)?;
        self.input.seek(back);
        Ok(value)
    }

    /// Reads the inside of an object, one level deeper.
    #[inline]
    fn inside<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let Some(depth) = self.depth.checked_sub(1) else {
            let (offset, allowed) = (self.input.position(), self.limits.depth);
            return Err(Error::Limit { offset, limit: "depth", allowed });
        };
        self.depth = depth;
        let value = read(self)?;
        self.depth += 1;
        Ok(value)
    }

    /// Passes over the next value.
    fn skip(&mut self) -> Result<()> {
        scan::skip(&mut self.input, self.limits, self.limits.depth - self.depth)
    }

    /// A string with its tag, where only a string may stand.
    fn string(&mut self) -> Result<Cow<'de, str>> {
        let tag = take_string_tag(&mut self.input)?;
        read_text(&mut self.input, tag)
    }

    /// Shows the visitor the value whose tag was taken, as what it is.
    fn any<V: Visitor<'de>>(&mut self, tag: u8, visitor: V) -> Result<V::Value> {
        match tag {
            tag::UNDEFINED | tag::NULL => visitor.visit_unit(),
            tag::TRUE | tag::TRUE_OBJECT => visitor.visit_bool(true),
            tag::FALSE | tag::FALSE_OBJECT => visitor.visit_bool(false),
            tag::INT32 => match self.input.zigzag()? {
                value @ 0.. => visitor.visit_u64(value as u64),
                value => visitor.visit_i64(value.into()),
            },
            tag::UINT32 => visitor.visit_u64(self.input.varint()?.into()),
            tag::DOUBLE | tag::NUMBER_OBJECT | tag::DATE => number::visit(self.input.double()?, visitor),
            tag::BIGINT | tag::BIGINT_OBJECT => self.bigint(visitor),
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => visit_text(read_text(&mut self.input, tag)?, visitor),
            tag::STRING_OBJECT => visit_text(self.string()?, visitor),
            tag::OBJECT => self.inside(|inside| object::read(inside, visitor)),
            tag::MAP => self.inside(|inside| object::read_map(inside, visitor)),
            tag::DENSE_ARRAY => self.inside(|inside| array::read_dense(inside, visitor)),
            tag::SPARSE_ARRAY => self.inside(|inside| array::read_sparse(inside, visitor)),
            tag::SET => self.inside(|inside| array::read_set(inside, visitor)),
            tag::ERROR => self.inside(|inside| failure::read(inside, visitor)),
            tag::REGEXP => {
                let source = self.string()?;
                let flags = read_flags(&mut self.input)?;
                visitor.visit_string(format!("/{source}/{flags}"))
            }
            _ => Err(self.input.unknown_tag(tag)),
        }
    }

    fn bytes<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.next()? {
            Next::View(view) => visitor.visit_borrowed_bytes(view.bytes),
            Next::Elsewhere(span) => self.read_at(span, |there| there.bytes(visitor)),
            next => self.show(next, visitor),
        }
    }

    fn variant<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.next()? {
            Next::Tag(tag::OBJECT) => self.inside(|inside| object::read_variant(inside, visitor)),
            Next::Tag(tag) if text::is_string(tag) => {
                visitor.visit_enum(CowStrDeserializer::new(read_text(&mut self.input, tag)?))
            }
            Next::Elsewhere(span) => self.read_at(span, |there| there.variant(visitor)),
            next => self.show(next, visitor),
        }
    }

    /// Shows the visitor the next value, as what it is.
    #[inline]
    fn anything<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.input.peek_value()? {
            tag::REFERENCE | tag::ARRAY_BUFFER | tag::RESIZABLE_BUFFER | tag::HOST_OBJECT => {
                let next = self.next()?;
                self.show(next, visitor)
            }
            tag => {
                self.input.advance();
                self.any(tag, visitor)
            }
        }
    }

    #[cold]
    fn show<V: Visitor<'de>>(&mut self, next: Next<'de>, visitor: V) -> Result<V::Value> {
        match next {
            Next::Tag(tag) => self.any(tag, visitor),
            Next::View(view) => array::read_view(view, visitor),
            Next::Elsewhere(span) => self.read_at(span, |there| there.anything(visitor)),
        }
    }
}

#[inline]
fn visit_text<'de, V: Visitor<'de>>(text: Cow<'de, str>, visitor: V) -> Result<V::Value> {
    match text {
        Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
        Cow::Owned(text) => visitor.visit_string(text),
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.$to(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Deserializer<'de, '_> {
    type Error = Error;

    forward!(integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    forward!(float: deserialize_f32 deserialize_f64);
    forward!(bytes: deserialize_bytes deserialize_byte_buf);
    forward!(anything: deserialize_any deserialize_bool deserialize_char deserialize_str deserialize_string
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier);

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if matches!(self.input.peek_value()?, tag::UNDEFINED | tag::NULL) {
            self.input.advance();
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        self.anything(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value> {
        self.anything(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.anything(visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.anything(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.variant(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// Reads the next part of something with the seed it is meant for.
#[inline]
fn seeded<'de, S: DeserializeSeed<'de>>(de: &mut Deserializer<'de, '_>, seed: S) -> Result<S::Value> {
    seed.deserialize(de)
}
