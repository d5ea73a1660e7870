//! How much a peer may ask of this process: sizes, depths, queue lengths.
//!
//! What a peer sends is untrusted and what it does not read piles up here, so both directions are bounded.

/// The bounds of one channel. `Limits::default()` suits a worker and its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes, either way, without its frame. Default 64 MiB. A larger one from the peer ends the
    /// channel; a larger one of ours is refused.
    pub frame: usize,
    /// Deepest nesting of arrays and objects in a message from the peer. Default 128, which is also the most that JSON
    /// may have.
    pub depth: usize,
    /// Bytes that may wait for the peer to read. Default 16 MiB. One message larger than this may still wait, alone.
    pub queue_bytes: usize,
    /// Messages that may wait for the peer to read. Default 65,536.
    pub queue_messages: usize,
    /// Handles that may wait to be sent. Default 1,024; each is an open descriptor.
    pub queue_handles: usize,
    /// Handles that may be sent and not yet answered, in the codecs of Node. Default 1.
    ///
    /// With 1, everything behind a handle waits for its answer, as in Node, and order holds even when the peer refuses
    /// a handle and it has to be sent again. With more the round trip is hidden (2 to 16 is plenty), and a refused
    /// handle is overtaken by what was already on its way.
    pub unanswered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 64 << 20,
            depth: 128,
            queue_bytes: 16 << 20,
            queue_messages: 1 << 16,
            queue_handles: 1 << 10,
            unanswered: 1,
        }
    }
}

impl Limits {
    /// The same limits, as far as frames and stacks can bear them.
    pub(crate) fn sane(self) -> Self {
        Self {
            // A V8 frame holds at most 2^31 - 1 bytes, filled up to a multiple of 4, and a native one counts in 32 bits.
            frame: self.frame.min(i32::MAX as usize - 3),
            depth: self.depth.min(128),
            queue_messages: self.queue_messages.max(1),
            ..self
        }
    }
}
