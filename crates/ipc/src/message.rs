//! One unit on a channel: a payload, perhaps with handles.
//!
//! The payload stays as it came off the wire until somebody parses it. Neighbours: [`crate::wire`] says how payloads
//! are written, [`crate::Connection`] moves messages.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::handle::Handle;
use crate::sockets::OpenSocket;
use crate::wire::{convert, v8};

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
    /// The payload was written by this process, so it is what its format says.
    trusted: bool,
    lost_handles: u16,
    handles: Vec<Handle>,
    counted: Option<Box<Counted>>,
}

/// How the sender of a socket counts it.
#[derive(Debug)]
struct Counted {
    key: String,
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
        let text = serde_json::to_vec(value).map_err(|error| MessageError::Unwritable(error.into()))?;
        Ok(Self { trusted: true, ..Self::from_parts(text.into(), Format::Json) })
    }

    /// A message with any value that serde can write, as V8 would: for Node peers on the `advanced` codec. It can hold
    /// what JSON cannot, such as bytes, and [`v8::Document`]s are made into messages with [`Message::v8_payload`].
    ///
    /// # Errors
    /// The value refuses to be written.
    pub fn v8<T: Serialize + ?Sized>(value: &T) -> Result<Self, MessageError> {
        let payload = v8::to_vec(value).map_err(|error| MessageError::Unwritable(error.into()))?;
        Ok(Self { trusted: true, ..Self::v8_payload(payload) })
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
    pub(crate) fn from_parts(payload: Bytes, format: Format) -> Self {
        Self { payload, format, trusted: false, lost_handles: 0, handles: Vec::new(), counted: None }
    }

    /// Adds a handle; the order is kept. To a Node peer a message carries one at most.
    #[must_use]
    pub fn with_handle(mut self, handle: impl Into<Handle>) -> Self {
        self.handles.push(handle.into());
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
        &self.handles
    }

    /// Takes the first handle out, if one is left.
    pub fn take_handle(&mut self) -> Option<Handle> {
        if self.handles.is_empty() { None } else { Some(self.handles.remove(0)) }
    }

    /// Takes all handles out.
    pub fn take_handles(&mut self) -> Vec<Handle> {
        std::mem::take(&mut self.handles)
    }

    /// How many handles the sender put into this message that did not arrive, because this process had no room for
    /// more open descriptors. When not 0, none of the message's handles are here.
    pub fn lost_handles(&self) -> usize {
        self.lost_handles.into()
    }

    /// Has a Node peer count the socket in this message under a key, so that it can be asked later how many of them are
    /// open there.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.counted = Some(Box::new(Counted { key: key.into(), open: None }));
        self
    }

    /// What the sender counts the socket in this message under.
    pub fn key(&self) -> Option<&str> {
        self.counted.as_ref().map(|counted| &*counted.key)
    }

    /// Takes the guard that counts the socket in this message as open for its sender. Keep it as long as the socket.
    pub fn take_open_socket(&mut self) -> Option<OpenSocket> {
        self.counted.as_mut()?.open.take()
    }

    /// The same message with its payload as the peer's codec writes it.
    pub(crate) fn with_payload(self, payload: Bytes, format: Format) -> Self {
        Self { payload, format, trusted: true, ..self }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    pub(crate) fn set_open_socket(&mut self, open: OpenSocket) {
        self.counted = Some(Box::new(Counted { key: open.key().to_owned(), open: Some(open) }));
    }

    pub(crate) fn set_handles(&mut self, handles: Vec<Handle>) {
        self.handles = handles;
    }

    pub(crate) fn set_lost_handles(&mut self, count: u16) {
        self.lost_handles = count;
    }
}

/// What a message is for, and with it who gets to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From program to program.
    User,
    /// Between the libraries at both ends; programs never see it.
    Internal,
    /// A question; the answer will name the same number.
    Request(u64),
    /// The answer to the request of that number.
    Reply(u64),
}

/// A message to send, and what it is for.
#[derive(Debug)]
pub struct Outgoing {
    /// What it is for.
    pub kind: Kind,
    /// What it says and carries.
    pub message: Message,
}

impl Outgoing {
    /// A message for the other program.
    pub fn user(message: Message) -> Self {
        Self { kind: Kind::User, message }
    }

    /// A message for the library at the other end.
    pub fn internal(message: Message) -> Self {
        Self { kind: Kind::Internal, message }
    }

    /// A question; `id` comes back with the answer. Native codec only.
    pub fn request(id: u64, message: Message) -> Self {
        Self { kind: Kind::Request(id), message }
    }

    /// The answer to the request `id`. Native codec only.
    pub fn reply(id: u64, message: Message) -> Self {
        Self { kind: Kind::Reply(id), message }
    }
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        Self::user(message)
    }
}

/// A message that came in, by what it is for.
#[derive(Debug)]
pub enum Incoming {
    /// From the other program.
    User(Message),
    /// From the library at the other end: under the codecs of Node a cluster message (`NODE_CLUSTER`).
    Internal(Message),
    /// A question of the other program. Native codec only.
    Request {
        /// To be named in the answer.
        id: u64,
        /// The question.
        message: Message,
    },
    /// An answer. Native codec only.
    Reply {
        /// The number of the request.
        id: u64,
        /// The answer.
        message: Message,
    },
}

impl Incoming {
    pub(crate) fn new(kind: Kind, message: Message) -> Self {
        match kind {
            Kind::User => Self::User(message),
            Kind::Internal => Self::Internal(message),
            Kind::Request(id) => Self::Request { id, message },
            Kind::Reply(id) => Self::Reply { id, message },
        }
    }

    /// The message, whatever it is for.
    pub fn message(&self) -> &Message {
        match self {
            Self::User(message) | Self::Internal(message) => message,
            Self::Request { message, .. } | Self::Reply { message, .. } => message,
        }
    }

    /// The message alone, whatever it is for.
    pub fn into_message(self) -> Message {
        match self {
            Self::User(message) | Self::Internal(message) => message,
            Self::Request { message, .. } | Self::Reply { message, .. } => message,
        }
    }
}

/// Why a value cannot become a message, or a message cannot become a value.
#[derive(Debug)]
#[non_exhaustive]
pub enum MessageError {
    /// The value cannot be written as a message.
    Unwritable(Cause),
    /// The payload is raw bytes; use [`Message::bytes`].
    Raw {
        /// How many.
        bytes: usize,
    },
    /// The payload is not what its format says, or is nested more than 128 deep.
    Malformed(Cause),
    /// The payload is well-formed and does not fit the type.
    WrongType(Cause),
}

/// What the codec says about it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl MessageError {
    fn json(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Data => Self::WrongType(error.into()),
            _ => Self::Malformed(error.into()),
        }
    }

    fn v8(error: v8::Error) -> Self {
        match error {
            v8::Error::Mismatch { .. } => Self::WrongType(error.into()),
            _ => Self::Malformed(error.into()),
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwritable(_) => f.write_str("the value cannot be written as a message"),
            Self::Raw { bytes } => {
                write!(f, "the message is {bytes} raw bytes, not a value; read them with bytes()")
            }
            Self::Malformed(_) => f.write_str("the message is malformed"),
            Self::WrongType(_) => f.write_str("the message does not fit the type asked for"),
        }
    }
}

impl std::error::Error for MessageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unwritable(error) | Self::Malformed(error) | Self::WrongType(error) => Some(&**error),
            Self::Raw { .. } => None,
        }
    }
}
