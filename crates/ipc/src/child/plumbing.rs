//! What runs between a child and us: the channel and the pipes, both ends of each until the child has its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use everycore_sys::inherit;
use everycore_sys::socket_pair::{Mode, channel_pair};

use super::environment::{CHANNEL_FD, CHANNEL_IDENTITY, SERIALIZATION_MODE};
use crate::connection::Connection;
use crate::limits::Limits;
use crate::wire::Codec;

/// What a child's standard input, output or error is.
#[derive(Debug)]
pub enum Stdio {
    /// The same as ours.
    Inherit,
    /// Empty input; output goes nowhere.
    Null,
    /// A pipe; our end is in [`crate::Child`].
    Pipe,
    /// This one, which stays open here as long as the [`crate::Fork`] does.
    Fd(OwnedFd),
}

/// The child's end of one of its standard three, and ours if it is a pipe.
pub(super) struct StandardEnd<'a, Ours> {
    pub(super) ours: Option<Ours>,
    theirs: Option<Theirs<'a>>,
}

enum Theirs<'a> {
    Made(OwnedFd),
    Kept(BorrowedFd<'a>),
}

impl Stdio {
    /// As standard input.
    pub(super) fn input(&self) -> io::Result<StandardEnd<'_, PipeWriter>> {
        self.end(|| io::pipe().map(|(read, write)| (write, read.into())))
    }

    /// As standard output or error.
    pub(super) fn output(&self) -> io::Result<StandardEnd<'_, PipeReader>> {
        self.end(|| io::pipe().map(|(read, write)| (read, write.into())))
    }

    fn end<Ours>(
        &self,
        pipe: impl FnOnce() -> io::Result<(Ours, OwnedFd)>,
    ) -> io::Result<StandardEnd<'_, Ours>> {
        let (ours, theirs) = match self {
            Self::Inherit => (None, None),
            Self::Null => {
                let null = File::options().read(true).write(true).open("/dev/null")?;
                (None, Some(Theirs::Made(null.into())))
            }
            Self::Pipe => {
                let (ours, theirs) = pipe()?;
                (Some(ours), Some(Theirs::Made(theirs)))
            }
            Self::Fd(fd) => (None, Some(Theirs::Kept(fd.as_fd()))),
        };
        Ok(StandardEnd { ours, theirs })
    }
}

impl<Ours> StandardEnd<'_, Ours> {
    /// What the child gets; `None` to leave it as it is.
    pub(super) fn theirs(&self) -> Option<BorrowedFd<'_>> {
        self.theirs.as_ref().map(|theirs| match theirs {
            Theirs::Made(fd) => fd.as_fd(),
            Theirs::Kept(fd) => *fd,
        })
    }
}

/// Both ends of a channel that is not in use yet.
pub(super) struct ChannelEnds {
    pub(super) ours: Connection,
    pub(super) theirs: OwnedFd,
    number: RawFd,
    identity: String,
}

impl ChannelEnds {
    /// `number` is the descriptor that the child will find it under.
    pub(super) fn new(number: RawFd, codec: Codec, limits: Limits) -> io::Result<Self> {
        // Node expects its end to be blocking, and changes that by itself.
        let (ours, theirs) = channel_pair(Mode::Blocking)?;
        let identity = inherit::identity(&theirs)?;
        Ok(Self { ours: Connection::new(ours, codec, limits)?, theirs, number, identity })
    }

    /// How the child learns of it.
    pub(super) fn variables(&self) -> Vec<(OsString, OsString)> {
        let codec = self.ours.codec();
        let mut variables = vec![
            (CHANNEL_FD.into(), self.number.to_string().into()),
            (SERIALIZATION_MODE.into(), codec.to_string().into()),
        ];
        if codec == Codec::Native {
            variables.push((CHANNEL_IDENTITY.into(), self.identity.clone().into()));
        }
        variables
    }
}
