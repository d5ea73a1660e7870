//! The property names written into objects that are still open, so that none is written twice: a Node
//! peer refuses a message with a repeated name, and an unexpected refusal ends its process.

use super::error::{Error, Result};
use super::output::Output;

#[derive(Debug, Default)]
pub(super) struct WrittenKeys {
    /// The innermost object's names are last.
    keys: Vec<Written>,
}

/// Where in the payload a name stands, and a digest of it.
#[derive(Clone, Copy, Debug)]
struct Written {
    digest: u64,
    start: usize,
    end: usize,
}

impl WrittenKeys {
    /// Begins an object; the mark is needed to end it.
    #[inline]
    pub(super) fn begin(&self) -> usize {
        self.keys.len()
    }

    /// Notes the name that was written from `start` on.
    #[inline]
    pub(super) fn push(&mut self, out: &mut Output<'_>, start: usize) {
        let end = out.length();
        self.keys.push(Written { digest: digest(out.since(start)), start, end });
    }

    /// Ends the object that began at `mark`: gives the number of its names, or fails if one repeats.
    pub(super) fn end(&mut self, mark: usize, out: &mut Output<'_>) -> Result<usize> {
        let payload = &*out.since(0);
        let keys = self.keys.get_mut(mark..).unwrap_or_default();
        let name = |key: &Written| payload.get(key.start..key.end).unwrap_or_default();
        if keys.len() > 1 {
            keys.sort_unstable_by(|a, b| a.digest.cmp(&b.digest).then_with(|| name(a).cmp(name(b))));
        }
        let repeated =
            keys.windows(2).find(|pair| pair[0].digest == pair[1].digest && name(&pair[0]) == name(&pair[1]));
        if let Some(pair) = repeated {
            return Err(Error::DuplicateKey { offset: pair[0].start.max(pair[1].start) });
        }
        let count = keys.len();
        self.keys.truncate(mark);
        Ok(count)
    }
}

/// Spreads names over 64 bits. Names with equal digests cost a comparison, nothing else.
#[inline]
fn digest(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = name.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mix =
        |digest: u64, word: [u8; 8]| (digest ^ u64::from_le_bytes(word)).wrapping_mul(ODD).rotate_left(29);
    words.iter().copied().chain([last]).fold(name.len() as u64, mix)
}
