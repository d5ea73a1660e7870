//! How much a message may cost, whoever sent it.

/// Bounds on one message, checked while reading and while writing.
///
/// Whatever the bounds, reading never reserves memory on the word of a count in the message: a count
/// larger than the bytes that remain is an error, and large ones are believed piece by piece.
///
/// ```
/// # use everycore_ipc::v8::{self, Limits};
/// let flat = Limits { depth: 1, ..Limits::default() };
/// let nested = v8::to_vec(&[[1]]).unwrap();
/// assert!(v8::from_slice_with::<Vec<Vec<i32>>>(&nested, &flat).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload in bytes, header included, length prefix not. Values from 2³¹ on count as
    /// 2³¹ − 1, the longest a Node peer can take. Default: 64 MiB.
    pub bytes: usize,
    /// How many objects may stand inside one another. Reading and writing recurse once per level, so
    /// this bounds the stack; 128 fits any thread. Default: 128.
    pub depth: usize,
    /// How many values a [`Document`](super::Document) may hold. Reading into a type looks at it only if
    /// there are back-references: then it bounds the number of objects. Default: 1,048,576.
    pub values: usize,
    /// How much more than its own bytes a message may unfold into when it is read into a type: each
    /// back-reference costs the length of what is read again, each hole of a sparse array costs one.
    /// Bounds what a few bytes of references to references can make of themselves. Default: 4 MiB.
    pub expansion: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 20, depth: 128, values: 1 << 20, expansion: 4 << 20 }
    }
}

impl Limits {
    /// The longest payload both sides can handle under these limits.
    pub(super) fn longest(&self) -> usize {
        const NODE_LONGEST: usize = i32::MAX as usize;
        self.bytes.min(NODE_LONGEST)
    }
}
