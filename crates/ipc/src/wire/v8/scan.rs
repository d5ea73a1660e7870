//! Walking over values without building them: to skip what nobody wants, and to find where the objects of
//! a message are once a back-reference asks.

use super::bigint;
use super::error::{Error, Result};
use super::input::Input;
use super::limits::Limits;
use super::object::ErrorKind;
use super::read::{read_flags, take_string_tag, unknown_error_part, unknown_host_kind};
use super::view::{self, Buffer, Window};
use super::{key, tag, text};

/// Where an object is in the payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Where its first tag is. A view starts where its buffer, or the reference to it, starts.
    pub(super) start: usize,
    /// Where the next value may start; equal to `start` while the object is still open.
    pub(super) end: usize,
    /// It is a buffer, and stands for itself even if a view follows.
    pub(super) is_buffer: bool,
}

/// Passes over the value at the input's position. References in it are not looked at.
pub(super) fn skip(input: &mut Input<'_>, limits: &Limits, depth: usize) -> Result<()> {
    Scanner { input, limits, depth, spans: None }.value()
}

/// Finds every object of a message; the input stands at the root. They come in the order of their ids.
pub(super) fn spans(mut input: Input<'_>, limits: &Limits) -> Result<Vec<Span>> {
    let spans = Some(Vec::new());
    let mut scanner = Scanner { input: &mut input, limits, depth: 0, spans };
    scanner.value()?;
    Ok(scanner.spans.unwrap_or_default())
}

struct Scanner<'i, 'a, 'l> {
    input: &'i mut Input<'a>,
    limits: &'l Limits,
    depth: usize,
    spans: Option<Vec<Span>>,
}

impl Scanner<'_, '_, '_> {
    fn value(&mut self) -> Result<()> {
        let tag = self.input.peek_value()?;
        let start = self.input.position();
        self.input.advance();
        match tag {
            tag::UNDEFINED | tag::NULL | tag::TRUE | tag::FALSE => Ok(()),
            tag::INT32 | tag::UINT32 => self.input.varint().map(drop),
            tag::DOUBLE => self.input.double().map(drop),
            tag::BIGINT => bigint::read_digits(self.input).map(drop),
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => text::skip(self.input, tag),
            tag::REFERENCE => self.reference(start),
            tag::ARRAY_BUFFER | tag::RESIZABLE_BUFFER => self.buffer(tag, start),
            _ => self.object(tag, start),
        }
    }

    fn object(&mut self, tag: u8, start: usize) -> Result<()> {
        if self.depth == self.limits.depth {
            let (offset, allowed) = (self.input.position(), self.limits.depth);
            return Err(Error::Limit { offset, limit: "depth", allowed });
        }
        self.depth += 1;
        let id = self.open(start)?;
        match tag {
            tag::OBJECT => self.properties(tag::END_OBJECT)?,
            tag::DENSE_ARRAY => self.dense_array()?,
            tag::SPARSE_ARRAY => {
                let length = self.input.varint()?;
                self.properties(tag::END_SPARSE_ARRAY)?;
                self.input.expect_length(length)?;
            }
            tag::MAP => self.items(tag::END_MAP)?,
            tag::SET => self.items(tag::END_SET)?,
            tag::DATE | tag::NUMBER_OBJECT => self.input.double().map(drop)?,
            tag::REGEXP => {
                self.string()?;
                read_flags(self.input)?;
            }
            tag::TRUE_OBJECT | tag::FALSE_OBJECT => {}
            tag::BIGINT_OBJECT => bigint::read_digits(self.input).map(drop)?,
            tag::STRING_OBJECT => self.string()?,
            tag::ERROR => self.error()?,
            tag::HOST_OBJECT => self.host_object()?,
            _ => return Err(Error::UnknownTag { offset: start, tag }),
        }
        self.close(id);
        self.depth -= 1;
        Ok(())
    }

    /// Notes where an object starts, if anyone wants to know.
    fn open(&mut self, start: usize) -> Result<usize> {
        let Some(spans) = &mut self.spans else { return Ok(0) };
        if spans.len() == self.limits.values {
            return Err(Error::Limit { offset: start, limit: "values", allowed: self.limits.values });
        }
        spans.push(Span { start, end: start, is_buffer: false });
        Ok(spans.len() - 1)
    }

    fn close(&mut self, id: usize) {
        let end = self.input.position();
        if let Some(span) = self.spans.as_mut().and_then(|spans| spans.get_mut(id)) {
            span.end = end;
        }
    }

    fn reference(&mut self, start: usize) -> Result<()> {
        let id = self.input.varint()?;
        let Some(spans) = &mut self.spans else {
            // Nothing but a view starts with this byte, and the reference can only be to a buffer.
            return if self.input.is_next(tag::VIEW) { skip_view(self.input) } else { Ok(()) };
        };
        let target = *spans.get(id as usize).ok_or(Error::Reference { offset: start, id })?;
        if !target.is_buffer || !self.input.is_next(tag::VIEW) {
            return Ok(());
        }
        let buffer = buffer_at(self.input.clone(), target)?;
        self.input.advance();
        self.view(start, buffer)
    }

    fn buffer(&mut self, tag: u8, start: usize) -> Result<()> {
        let buffer = view::read_buffer(self.input, tag)?;
        let id = self.open(start)?;
        self.close(id);
        if let Some(span) = self.spans.as_mut().and_then(|spans| spans.get_mut(id)) {
            span.is_buffer = true;
        }
        if self.input.is_next(tag::VIEW) {
            self.input.advance();
            self.view(start, buffer)?;
        }
        Ok(())
    }

    fn view(&mut self, start: usize, buffer: Buffer<'_>) -> Result<()> {
        Window::read(self.input, buffer)?;
        let id = self.open(start)?;
        self.close(id);
        Ok(())
    }

    fn properties(&mut self, end: u8) -> Result<()> {
        let mut count = 0;
        while !self.input.take_if(end)? {
            key::skip(self.input)?;
            self.value()?;
            count += 1;
        }
        self.input.expect_count(count)
    }

    fn dense_array(&mut self) -> Result<()> {
        let length = self.input.count()?;
        for _ in 0..length {
            if !self.input.take_if(tag::HOLE)? {
                self.value()?;
            }
        }
        self.properties(tag::END_DENSE_ARRAY)?;
        self.input.expect_length(length)
    }

    fn items(&mut self, end: u8) -> Result<()> {
        let mut count = 0;
        while !self.input.take_if(end)? {
            self.value()?;
            count += 1;
            if end == tag::END_MAP {
                self.value()?;
                count += 1;
            }
        }
        self.input.expect_count(count)
    }

    fn string(&mut self) -> Result<()> {
        let tag = take_string_tag(self.input)?;
        text::skip(self.input, tag)
    }

    fn error(&mut self) -> Result<()> {
        loop {
            let offset = self.input.position();
            match self.input.byte()? {
                tag::ERROR_MESSAGE | tag::ERROR_STACK => self.string()?,
                tag::ERROR_CAUSE => self.value()?,
                tag::ERROR_END => return Ok(()),
                letter => drop(ErrorKind::from_letter(letter).ok_or_else(|| unknown_error_part(offset))?),
            }
        }
    }

    fn host_object(&mut self) -> Result<()> {
        let offset = self.input.position();
        match self.input.varint()? {
            tag::HOST_VIEW => view::read_host(self.input).map(drop),
            tag::HOST_PLAIN => self.value(),
            _ => Err(unknown_host_kind(offset)),
        }
    }
}

/// The buffer that a span shows.
pub(super) fn buffer_at(mut input: Input<'_>, span: Span) -> Result<Buffer<'_>> {
    input.seek(span.start);
    let tag = input.byte()?;
    view::read_buffer(&mut input, tag)
}

/// Passes over a view whose buffer is not at hand.
fn skip_view(input: &mut Input<'_>) -> Result<()> {
    input.advance();
    input.varint()?;
    input.varint()?;
    input.varint()?;
    if input.has_view_flags() {
        input.varint()?;
    }
    Ok(())
}
