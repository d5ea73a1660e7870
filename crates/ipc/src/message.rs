//! One unit on a channel: a payload, perhaps with handles.
//!
//! The payload stays as it came off the wire until somebody parses it. Neighbours: [`crate::wire`] says how payloads
//! are written, [`crate::Connection`] moves messages.

mod error;
mod kind;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::handle::Handle;
use crate::sockets::OpenSocket;
use crate::wire::convert::{self, Trust};
use crate::wire::{advanced, json, memory, v8};
pub use error::{Cause, MessageError};
pub use kind::{Incoming, Kind, Outgoing};

/// From this length on a message is searched for words of Node's library when it is made, not when it is queued: who queues may
/// have other things to do.
const LONG: usize = 1 << 20;

/// A payload with the handles that travel beside it.
///
/// ```
/// use everycore_ipc::Message;
/// let message = Message::json(&["hi", "there"])?;
/// let words: Vec<String> = message.parse()?;
/// assert_eq!(words, ["hi", "there"]);
/// # Ok::<(), everycore_ipc::MessageError>(())
/// ```
#[derive(Debug, Default)]
pub struct Message {
    payload: Bytes,
    format: Format,
    trust: Trust,
    /// Most messages have nothing beside them, and those are to be small.
    beside: Option<Box<Beside>>,
}

/// What a message may have beside its payload.
#[derive(Debug, Default)]
struct Beside {
    handles: Vec<Handle>,
    lost_handles: u16,
    /// What the sender counts the socket under.
    key: Option<String>,
    open: Option<OpenSocket>,
}

/// How a payload is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON text.
    #[default]
    Json,
    /// Bytes that mean something to the two programs alone.
    Raw,
    /// A value as V8 serializes it, the inside of Node's `advanced` mode.
    V8,
}

impl Message {
    /// A message with any value that serde can write, as JSON.
    ///
    /// # Errors
    /// The value refuses to be written, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, MessageError> {
        let written = json::write(value).map_err(|error| MessageError::Unwritable(error.into()))?;
        let is_plain = written.is_plain || (written.text.len() >= LONG && json::is_plain(&written.text));
        let trust = if is_plain { Trust::Plain } else { Trust::Own };
        Ok(Self { trust, ..Self::from_parts(memory::share(written.text), Format::Json) })
    }

    /// A message with any value that serde can write, as V8 would: for Node peers on the `advanced` codec. It can hold
    /// what JSON cannot, such as bytes, and [`v8::Document`]s are made into messages with [`Message::v8_payload`].
    ///
    /// # Errors
    /// The value refuses to be written.
    pub fn v8<T: Serialize + ?Sized>(value: &T) -> Result<Self, MessageError> {
        let payload = v8::to_vec(value).map_err(|error| MessageError::Unwritable(error.into()))?;
        let is_plain = payload.len() >= LONG && !advanced::has_words(&payload);
        let trust = if is_plain { Trust::Plain } else { Trust::Own };
        Ok(Self { trust, ..Self::v8_payload(payload) })
    }

    /// A message with a payload in V8's format, such as [`v8::Document::to_vec`] writes.
    pub fn v8_payload(payload: impl Into<Bytes>) -> Self {
        Self::from_parts(payload.into(), Format::V8)
    }

    /// A message with bytes that are passed on as they are. A Node peer on the `json` codec cannot get one.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::from_parts(bytes.into(), Format::Raw)
    }

    /// A message with a payload as it came off the wire.
    #[inline(always)]
    pub(crate) fn from_parts(payload: Bytes, format: Format) -> Self {
        Self { payload, format, trust: Trust::Foreign, beside: None }
    }

    /// Adds a handle; the order is kept. To a Node peer a message carries one at most.
    #[must_use]
    pub fn with_handle(mut self, handle: impl Into<Handle>) -> Self {
        self.beside().handles.push(handle.into());
        self
    }

    /// Reads the payload as a value of this type.
    ///
    /// # Errors
    /// The payload is raw bytes, is malformed, is nested too deep, or does not fit the type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, MessageError> {
        match self.format {
            Format::Json => convert::parse_json(&self.payload).map_err(MessageError::json),
            Format::Raw => Err(MessageError::Raw { bytes: self.payload.len() }),
            Format::V8 => {
                let limits = v8::Limits { bytes: usize::MAX, ..v8::Limits::default() };
                v8::from_slice_with(&self.payload, &limits).map_err(MessageError::v8)
            }
        }
    }

    /// The payload as it is on the wire; [`Message::format`] says how to read it.
    pub fn bytes(&self) -> &Bytes {
        &self.payload
    }

    /// The payload alone; handles are closed.
    pub fn into_bytes(self) -> Bytes {
        self.payload
    }

    /// How the payload is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The handles that came along, in the sender's order.
    pub fn handles(&self) -> &[Handle] {
        self.beside.as_ref().map_or(&[], |beside| &beside.handles)
    }

    /// Whether there is anything beside the payload.
    pub(crate) fn has_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// Takes the first handle out, if one is left.
    pub fn take_handle(&mut self) -> Option<Handle> {
        let handles = &mut self.beside.as_mut()?.handles;
        if handles.is_empty() { None } else { Some(handles.remove(0)) }
    }

    /// Takes all handles out.
    pub fn take_handles(&mut self) -> Vec<Handle> {
        self.beside.as_mut().map(|beside| std::mem::take(&mut beside.handles)).unwrap_or_default()
    }

    /// How many handles the sender put into this message that did not arrive, because this process had no room for
    /// more open descriptors. When not 0, none of the message's handles are here.
    pub fn lost_handles(&self) -> usize {
        self.beside.as_ref().map_or(0, |beside| beside.lost_handles.into())
    }

    /// Has a Node peer count the socket in this message under a key, so that it can be asked later how many of them are
    /// open there.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.beside().key = Some(key.into());
        self
    }

    /// What the sender counts the socket in this message under.
    pub fn key(&self) -> Option<&str> {
        self.beside.as_ref()?.key.as_deref()
    }

    /// Takes the guard that counts the socket in this message as open for its sender. Keep it as long as the socket.
    pub fn take_open_socket(&mut self) -> Option<OpenSocket> {
        self.beside.as_mut()?.open.take()
    }

    /// The same payload once more, without the handles: for one message to many. Its bytes are shared, not copied.
    #[must_use]
    pub fn without_handles(&self) -> Self {
        Self { payload: self.payload.clone(), format: self.format, trust: self.trust, beside: None }
    }

    /// The same message with its payload as the peer's codec writes it.
    pub(crate) fn with_payload(self, payload: Bytes, format: Format) -> Self {
        Self { payload, format, trust: Trust::Own, ..self }
    }

    /// The same message with a payload of V8's as JSON, as far as that can hold it; itself if it cannot.
    pub(crate) fn into_json(self) -> Result<Self, Self> {
        match convert::to_line(self.payload.clone(), self.format, self.trust) {
            Ok(payload) => Ok(self.with_payload(payload, Format::Json)),
            Err(_) => Err(self),
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }

    pub(crate) fn set_open_socket(&mut self, open: OpenSocket) {
        let beside = self.beside();
        beside.key = Some(open.key().to_owned());
        beside.open = Some(open);
    }

    pub(crate) fn set_handles(&mut self, handles: Vec<Handle>) {
        self.beside().handles = handles;
    }

    pub(crate) fn set_lost_handles(&mut self, count: u16) {
        self.beside().lost_handles = count;
    }

    fn beside(&mut self) -> &mut Beside {
        self.beside.get_or_insert_default()
    }
}
