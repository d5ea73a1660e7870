//! Looking into a message without building it: which properties it has, and one of them as a message of
//! its own. This is how a channel tells the messages of Node's own libraries from those of programs, and
//! unwraps what travels inside them.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;

use super::document::Document;
use super::error::{Error, Result};
use super::input::Input;
use super::key::Key;
use super::limits::Limits;
use super::read::Reader;
use super::text::{self, read_text};
use super::{de, scan, tag};

/// A value inside a payload, not looked at yet.
///
/// ```
/// # use everycore_ipc::v8::{self, Limits, Part};
/// # use std::collections::BTreeMap;
/// let payload = v8::to_vec(&BTreeMap::from([("cmd", "NODE_HANDLE"), ("msg", "hi")])).unwrap();
/// let message = Part::root(&payload, Limits::default()).unwrap();
/// let msg = message.property("msg").unwrap().unwrap();
/// assert_eq!(msg.text().unwrap().unwrap(), "hi");
/// assert_eq!(msg.to_payload().unwrap(), v8::to_vec("hi").unwrap());
/// ```
#[derive(Clone, Debug)]
pub struct Part<'a> {
    payload: &'a [u8],
    limits: Limits,
    /// Stands on the value's tag.
    input: Input<'a>,
}

impl<'a> Part<'a> {
    /// The message itself.
    pub fn root(payload: &'a [u8], limits: Limits) -> Result<Self, Error> {
        let mut input = Input::new(payload, &limits)?;
        input.peek_value()?;
        Ok(Self { payload, limits, input })
    }

    /// Whether it is an object with properties, and not an array, a string or something else.
    pub fn is_object(&self) -> bool {
        self.input.clone().is_next(tag::OBJECT)
    }

    /// The first property of this name. None if there is none, or if the value is no plain object.
    pub fn property(&self, name: &str) -> Result<Option<Self>, Error> {
        let mut input = self.input.clone();
        if !input.take_if(tag::OBJECT)? {
            return Ok(None);
        }
        let wanted = Key::from(name);
        while !input.take_if(tag::END_OBJECT)? {
            let found = Key::read(&mut input)? == wanted;
            input.peek_value()?;
            if found {
                return Ok(Some(Self { payload: self.payload, limits: self.limits, input }));
            }
            scan::skip(&mut input, &self.limits, 1)?;
        }
        Ok(None)
    }

    /// The text, if the value is a string.
    pub fn text(&self) -> Result<Option<Cow<'a, str>>, Error> {
        let mut input = self.input.clone();
        let tag = input.peek_value()?;
        if !text::is_string(tag) {
            return Ok(None);
        }
        input.advance();
        read_text(&mut input, tag).map(Some)
    }

    /// Where in the payload the value is.
    pub fn range(&self) -> Result<Range<usize>, Error> {
        let mut end = self.input.clone();
        scan::skip(&mut end, &self.limits, 0)?;
        Ok(self.input.position()..end.position())
    }

    /// Reads the value into a type.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        de::read_at(self.payload, self.input.clone(), &self.limits)
    }

    /// Reads the value in full.
    pub fn document(&self) -> Result<Document, Error> {
        Reader::new(self.payload, &self.limits)?.document_at(self.input.position())
    }

    /// The value as a message of its own. Objects outside the value that it refers to come along.
    pub fn to_payload(&self) -> Result<Vec<u8>, Error> {
        let mut end = self.input.clone();
        if scan::skip_watching(&mut end, &self.limits)? {
            let mut out = Vec::new();
            self.document()?.append_to(&mut out, &self.limits)?;
            return Ok(out);
        }
        let mut own = vec![tag::HEADER, self.input.version()];
        own.extend_from_slice(self.payload.get(self.input.position()..end.position()).unwrap_or_default());
        Ok(own)
    }
}
