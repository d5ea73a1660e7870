//! A connection between two Rust programs: frames as [`crate::wire::native`] writes them, many handles per message.

use std::os::fd::OwnedFd;

use everycore_sys::scm_rights::MAX_DESCRIPTORS;

use super::outbox::{SHARE, WITH_HANDLES};
use super::{ChannelError, Connection, SendError};
use crate::handle::Handle;
use crate::message::{Format, Incoming, Message, Outgoing};
use crate::wire::native::{self, HEADER, Header};
use crate::wire::{Codec, Span, json};

impl Connection {
    pub(super) fn queue_native(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        let Outgoing { kind, mut message } = outgoing;
        if message.handles().len() > MAX_DESCRIPTORS {
            let outgoing = Box::new(Outgoing { kind, message });
            return Err(SendError::TooManyHandles { limit: MAX_DESCRIPTORS, outgoing });
        }
        if message.format() == Format::V8 {
            message = match message.into_json() {
                Ok(message) => message,
                Err(message) => {
                    let outgoing = Box::new(Outgoing { kind, message });
                    return Err(SendError::NotInCodec { codec: Codec::Native, outgoing });
                }
            };
        }
        let handles = message.take_handles();
        let header = Header { kind, format: message.format(), handles: handles.len() as u16 };
        let payload = message.into_bytes();
        let head = native::write_header(&header, payload.len() as u32);
        if handles.is_empty() && payload.len() < SHARE {
            self.outbox.push_message(&head, &payload, &[]);
            return Ok(());
        }
        self.outbox.begin_message();
        if handles.is_empty() {
            self.outbox.push_slice(&head);
            self.outbox.push_bytes(payload);
        } else if HEADER + payload.len() <= WITH_HANDLES {
            let mut frame = Vec::with_capacity(HEADER + payload.len());
            frame.extend_from_slice(&head);
            frame.extend_from_slice(&payload);
            self.outbox.push_with_handles(frame, handles);
        } else {
            let front = payload.len().saturating_sub(WITH_HANDLES);
            self.outbox.push_slice(&head);
            self.outbox.push_bytes(payload.slice(..front));
            self.outbox.push_with_handles(payload[front..].to_vec(), handles);
        }
        Ok(())
    }

    pub(super) fn take_native(&mut self, span: &Span) -> Result<Option<Incoming>, ChannelError> {
        let header = native::read_header(self.inbox.bytes())?;
        if header.format == Format::Json {
            let text = &self.inbox.bytes()[span.payload.clone()];
            json::check_depth(text, self.limits.depth)?;
        }
        let claimed = if header.handles > 0 { self.inbox.claim(span.total) } else { Default::default() };
        let mut message = Message::from_parts(self.inbox.take(span), header.format);
        self.inbox.close_surplus(self.inbox.position());
        if header.handles > 0 {
            if claimed.fds.len() == usize::from(header.handles) && !claimed.truncated {
                message.set_handles(claimed.fds.into_iter().map(Handle::from_fd).collect());
            } else {
                self.lose(&mut message, header.handles, claimed.fds.into());
            }
        }
        Ok(Some(Incoming::new(header.kind, message)))
    }

    /// One off would be worse than none: whatever came is closed.
    fn lose(&mut self, message: &mut Message, count: u16, came: Vec<OwnedFd>) {
        self.inbox.count_surplus(came.len());
        message.set_lost_handles(count);
        self.lost_handles += u64::from(count);
    }
}
