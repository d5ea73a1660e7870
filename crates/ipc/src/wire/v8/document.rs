//! A message in full: every object in it, who refers to whom included.

use super::error::{Error, Result};
use super::frame;
use super::key::Key;
use super::limits::Limits;
use super::object::Object;
use super::output::Output;
use super::read::Reader;
use super::value::{ObjectId, Value};
use super::write::Writer;

/// Any value that can cross an `advanced` channel, with nothing lost: the kinds of its objects, which
/// places hold the same object, and cycles.
///
/// ```
/// use everycore_ipc::v8::{Document, Object};
///
/// let mut document = Document::new();
/// let when = document.add(Object::Date(0.0));
/// let root = document.add(Object::plain([("first", when), ("again", when)]));
/// document.set_root(root);
///
/// let read = Document::parse(&document.to_vec().unwrap()).unwrap();
/// assert_eq!(read.property(read.root(), "first"), read.property(read.root(), "again"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub(super) objects: Vec<Object>,
    pub(super) root: Value,
}

impl Document {
    /// A document without objects, whose root is `undefined`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a payload under the default limits. Bytes behind the value are ignored, as Node ignores
    /// them.
    ///
    /// # Errors
    /// The payload is malformed or exceeds a limit.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        Self::parse_with(payload, &Limits::default())
    }

    /// Reads a payload under these limits.
    ///
    /// # Errors
    /// The payload is malformed or exceeds a limit.
    pub fn parse_with(payload: &[u8], limits: &Limits) -> Result<Self, Error> {
        Reader::new(payload, limits)?.document()
    }

    /// Writes the payload under the default limits.
    ///
    /// # Errors
    /// A Node peer would refuse the message, or it exceeds a limit.
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        self.append_to(&mut out, &Limits::default())?;
        Ok(out)
    }

    /// Writes the payload behind what is in `out`; after an error `out` is as it was.
    ///
    /// # Errors
    /// A Node peer would refuse the message, or it exceeds a limit.
    pub fn append_to(&self, out: &mut Vec<u8>, limits: &Limits) -> Result<(), Error> {
        frame::append(out, limits, |out| self.write(out, limits))
    }

    /// Writes a frame, length and payload, behind what is in `out`; after an error `out` is as it was.
    ///
    /// # Errors
    /// A Node peer would refuse the message, or it exceeds a limit.
    pub fn append_frame(&self, out: &mut Vec<u8>, limits: &Limits) -> Result<(), Error> {
        frame::append_framed(out, limits, |out| self.write(out, limits))
    }

    fn write(&self, out: Output<'_>, limits: &Limits) -> Result<()> {
        Writer::new(self, out, limits).document()
    }

    /// The value the message is.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Makes a value the message.
    pub fn set_root(&mut self, root: impl Into<Value>) {
        self.root = root.into();
    }

    /// Takes an object into the document. It is written if the root leads to it.
    ///
    /// # Panics
    ///
    /// At the 2³²nd object.
    pub fn add(&mut self, object: Object) -> ObjectId {
        let id = u32::try_from(self.objects.len()).expect("a document has less than 2^32 objects");
        self.objects.push(object);
        ObjectId(id)
    }

    /// The object of this name; `None` if the name is from another document.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.index())
    }

    /// The object of this name, to be changed: how an object comes to contain itself.
    pub fn object_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.objects.get_mut(id.index())
    }

    /// The object a value is.
    pub fn resolve(&self, value: &Value) -> Option<&Object> {
        self.object(value.as_object()?)
    }

    /// A property of the object a value is; an element, for an array and an index. `undefined` counts
    /// as absent.
    pub fn property(&self, value: &Value, key: impl Into<Key>) -> Option<&Value> {
        let key = key.into();
        let object = self.resolve(value)?;
        let found = match (object, key.index()) {
            (Object::Array { elements, .. }, Some(index)) => elements.get(index as usize)?.as_ref(),
            _ => object.properties().iter().find(|property| property.0 == key).map(|property| &property.1),
        };
        found.filter(|value| **value != Value::Undefined)
    }
}
