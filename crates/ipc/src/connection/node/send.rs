//! Messages to a Node process: checked, encoded, and let go when the handle protocol allows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use rustix::net::{AddressFamily, sockopt};

use super::{MARK, size};
use crate::connection::outbox::{SHARE, WITH_HANDLES};
use crate::connection::{Connection, SendError};
use crate::handle::HandleKind;
use crate::handoff::{Item, Parcel};
use crate::message::{Kind, Outgoing};
use crate::wire::convert::{self, Trust};
use crate::wire::node::{self, Wrapping};
use crate::wire::{Codec, advanced, json};

impl Connection {
    pub(in crate::connection) fn queue_node(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        let payload = match self.encode(&outgoing) {
            Ok(payload) => payload,
            Err(refusal) => return Err(refusal.into_error(self.codec, outgoing)),
        };
        if outgoing.message.handles().is_empty() {
            let marked = outgoing.kind == Kind::Internal && self.is_bun();
            self.queue_plain(if marked { [&[MARK], &payload[..]].concat().into() } else { payload });
            return Ok(());
        }
        // A socket that can block would freeze the Node process that gets it.
        if outgoing
            .message
            .handles()
            .iter()
            .any(|handle| rustix::io::ioctl_fionbio(handle.as_fd(), true).is_err())
        {
            return Err(SendError::Lethal(Box::new(outgoing)));
        }
        let Outgoing { kind, message } = outgoing;
        self.submit(Item::Parcel(Parcel::new(Outgoing {
            kind,
            message: message.with_payload(payload, self.format()),
        })));
        Ok(())
    }

    /// The payload in the peer's codec, once it is sure that the message can be sent.
    fn encode(&self, outgoing: &Outgoing) -> Result<Bytes, Refusal> {
        let Outgoing { kind, message } = outgoing;
        let handle = match message.handles() {
            [] => None,
            [handle] => Some(handle.kind()),
            _ => return Err(Refusal::TooManyHandles),
        };
        if matches!(kind, Kind::Request(_) | Kind::Reply(_)) {
            return Err(Refusal::NotInCodec);
        }
        if handle == Some(HandleKind::Other) {
            return Err(Refusal::Lethal);
        }
        let (payload, format, trust) = (message.bytes().clone(), message.format(), message.trust());
        let (payload, reserved) = match self.codec {
            Codec::Advanced => {
                let payload = convert::to_v8(payload, format, trust).map_err(|_| Refusal::NotInCodec)?;
                if handle.is_some() {
                    // Around a handle the message becomes part of another, and not every one can.
                    let trial = Wrapping { kind: "", dgram: None, key: message.key() };
                    advanced::wrap(&payload, &trial).map_err(|_| Refusal::NotInCodec)?;
                }
                let reserved =
                    *kind == Kind::User && trust != Trust::Plain && advanced::is_reserved(&payload);
                (payload, reserved)
            }
            _ => {
                let payload = convert::to_line(payload, format, trust).map_err(|_| Refusal::NotInCodec)?;
                let reserved = *kind == Kind::User && trust != Trust::Plain && json::is_reserved(&payload);
                (payload, reserved)
            }
        };
        // In the peer's codec it may have become longer.
        if payload.len() > self.limits.frame {
            return Err(Refusal::TooLarge { limit: self.limits.frame });
        }
        if reserved { Err(Refusal::Reserved) } else { Ok(payload) }
    }

    fn queue_plain(&mut self, payload: Bytes) {
        if self.node().handoff.lets_plain_pass() {
            self.push_plain(payload);
        } else {
            self.submit(Item::Plain(payload));
        }
    }

    fn submit(&mut self, item: Item<Bytes, Outgoing>) {
        let (bytes, handles) = size(&item);
        let node = self.node();
        node.held_bytes += bytes;
        node.held_handles += handles;
        let released = node.handoff.submit(item);
        self.release(released);
    }

    /// Moves a message that may go now, and all that may go after it, to what is written.
    pub(super) fn release(&mut self, mut released: Option<Item<Bytes, Outgoing>>) {
        while let Some(item) = released {
            let (bytes, handles) = size(&item);
            let node = self.node();
            node.held_bytes -= bytes;
            node.held_handles -= handles;
            match item {
                Item::Plain(payload) => self.push_plain(payload),
                Item::Parcel(parcel) => self.push_parcel(parcel),
            }
            released = self.node().handoff.next();
        }
    }

    fn push_plain(&mut self, payload: Bytes) {
        let (length, padding) = advanced::around(payload.len());
        let (front, back): (&[u8], &[u8]) = match self.codec {
            Codec::Advanced => (&length, padding),
            _ => (&[], b"\n"),
        };
        if payload.len() < SHARE {
            return self.outbox.push_message(front, &payload, back);
        }
        self.outbox.begin_message();
        self.outbox.push_slice(front);
        self.outbox.push_bytes(payload);
        self.outbox.push_slice(back);
    }

    fn push_parcel(&mut self, parcel: Parcel<Outgoing>) {
        let mut frame = self.wrap(&parcel.load);
        self.outbox.begin_message();
        if frame.len() > WITH_HANDLES {
            // The descriptor must travel with the last byte, and only a short piece is never cut in two.
            let back = frame.split_off(frame.len() - WITH_HANDLES);
            self.outbox.push_bytes(frame.into());
            frame = back;
        }
        self.outbox.push_parcel(frame, parcel);
    }

    fn wrap(&self, outgoing: &Outgoing) -> Vec<u8> {
        let Outgoing { kind, message } = outgoing;
        let handle = message.handles().first().expect("only messages with a handle are wrapped");
        let user = *kind == Kind::User;
        let name = if user { node::user_type(handle.kind()) } else { node::cluster_type(handle.kind()) };
        let wrapping = Wrapping {
            kind: name.expect("handles without a name are refused when they are queued"),
            dgram: (user && handle.kind() == HandleKind::UdpSocket).then(|| dgram_type(handle.as_fd())),
            key: message.key(),
        };
        match self.codec {
            Codec::Advanced => advanced::wrap(message.bytes(), &wrapping)
                .expect("the payload was wrapped without an error when it was queued"),
            _ => json::wrap(message.bytes(), &wrapping),
        }
    }
}

/// Why a message cannot be sent to this peer.
enum Refusal {
    TooLarge { limit: usize },
    TooManyHandles,
    NotInCodec,
    Lethal,
    Reserved,
}

impl Refusal {
    fn into_error(self, codec: Codec, outgoing: Outgoing) -> SendError {
        let outgoing = Box::new(outgoing);
        match self {
            Self::TooLarge { limit } => SendError::TooLarge { limit, outgoing },
            Self::TooManyHandles => SendError::TooManyHandles { limit: 1, outgoing },
            Self::NotInCodec => SendError::NotInCodec { codec, outgoing },
            Self::Lethal => SendError::Lethal(outgoing),
            Self::Reserved => SendError::Reserved(outgoing),
        }
    }
}

fn dgram_type(socket: BorrowedFd<'_>) -> &'static str {
    match sockopt::socket_domain(socket).map_err(io::Error::from) {
        Ok(AddressFamily::INET6) => "udp6",
        _ => "udp4",
    }
}
