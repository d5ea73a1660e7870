//! What stands between quotes: how far it goes without an escape.

/// How many bytes at the front mean themselves inside a string: no quote, no backslash, no control character.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    /// Names and short texts end within this.
    const SHORT: usize = 32;
    const STEP: usize = 64;
    let near = plain_words(&bytes[..bytes.len().min(SHORT)]);
    if near < SHORT {
        return near;
    }
    // All of a step is looked at whatever is found, so that the compiler can do it in one go.
    let is_plain =
        |step: &&[u8; STEP]| step.iter().fold(0, |found, byte| found | u8::from(is_special(*byte))) == 0;
    let (steps, _) = bytes[SHORT..].as_chunks();
    let plain = SHORT + STEP * steps.iter().take_while(is_plain).count();
    plain + plain_words(&bytes[plain..])
}

/// The same, eight bytes at a time.
fn plain_words(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (before, word) in words.iter().enumerate() {
        if let Some(plain) = plain_in_word(u64::from_le_bytes(*word)) {
            return before * 8 + plain;
        }
    }
    let plain = rest.iter().take_while(|byte| !is_special(**byte)).count();
    words.len() * 8 + plain
}

/// How many bytes of a word are before its first special one, if it has one.
fn plain_in_word(word: u64) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    // A borrow may mark bytes above the first that is marked rightly, never below.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = (below(word, b' ') | equal(b'"') | equal(b'\\')) & (ONES << 7);
    (special != 0).then(|| special.trailing_zeros() as usize / 8)
}

fn is_special(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_special_byte_is_found_at_every_place() {
        for special in (0..=u8::MAX).filter(|byte| is_special(*byte)) {
            for before in 0..200 {
                let mut bytes = vec![b'x'; 250];
                bytes[before] = special;
                assert_eq!(plain_length(&bytes), before);
                assert_eq!(plain_length(&bytes[..before]), before);
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in vec(prop_oneof![4 => any::<u8>(), 20 => b' '..=b'~'], 0..300)) {
            let first = bytes.iter().position(|byte| is_special(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length(&bytes), first);
        }
    }
}
