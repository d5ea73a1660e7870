//! Integers without bounds.

use super::error::Result;
use super::input::Input;

/// A JavaScript bigint: a sign and 64-bit words, the lowest first.
///
/// ```
/// # use everycore_ipc::v8::BigInt;
/// assert_eq!(i128::try_from(&BigInt::from(-10_i128)), Ok(-10));
/// assert_eq!(BigInt::new(true, vec![0, 0]), BigInt::from(0_i128));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BigInt {
    negative: bool,
    words: Box<[u64]>,
}

impl BigInt {
    /// The number of these words, the lowest first. Leading zeros are dropped, and zero has no sign.
    pub fn new(negative: bool, mut words: Vec<u64>) -> Self {
        while words.last() == Some(&0) {
            words.pop();
        }
        Self { negative: negative && !words.is_empty(), words: words.into() }
    }

    /// Whether the number is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// The words of the absolute value, the lowest first; none for zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Reads the body that follows a bigint's tag.
    pub(super) fn read(input: &mut Input<'_>) -> Result<Self> {
        let (negative, digits) = read_digits(input)?;
        let words = digits.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Ok(Self::new(negative, words.collect()))
    }
}

/// Reads a bigint's body without interpreting it: the sign and the digits, the lowest first.
pub(super) fn read_digits<'a>(input: &mut Input<'a>) -> Result<(bool, &'a [u8])> {
    let bits = input.varint()?;
    Ok((bits & 1 == 1, input.take((bits >> 1) as usize)?))
}

impl From<i128> for BigInt {
    fn from(value: i128) -> Self {
        Self { negative: value < 0, ..Self::from(value.unsigned_abs()) }
    }
}

impl From<u128> for BigInt {
    fn from(value: u128) -> Self {
        Self::new(false, vec![value as u64, (value >> 64) as u64])
    }
}

/// The number does not fit the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bigint does not fit the type")
    }
}

impl std::error::Error for OutOfRange {}

impl TryFrom<&BigInt> for u128 {
    type Error = OutOfRange;

    fn try_from(value: &BigInt) -> Result<Self, OutOfRange> {
        if value.negative { Err(OutOfRange) } else { magnitude(value) }
    }
}

impl TryFrom<&BigInt> for i128 {
    type Error = OutOfRange;

    fn try_from(value: &BigInt) -> Result<Self, OutOfRange> {
        let magnitude = magnitude(value)?;
        if value.negative {
            0_i128.checked_sub_unsigned(magnitude).ok_or(OutOfRange)
        } else {
            magnitude.try_into().map_err(|_| OutOfRange)
        }
    }
}

fn magnitude(value: &BigInt) -> Result<u128, OutOfRange> {
    match *value.words {
        [] => Ok(0),
        [low] => Ok(low.into()),
        [low, high] => Ok(u128::from(high) << 64 | u128::from(low)),
        _ => Err(OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bigint_fits_exactly_the_types_that_hold_it() {
        for value in [0, 1, -1, i128::MAX, i128::MIN, i128::from(u64::MAX), 1 << 64] {
            assert_eq!(i128::try_from(&BigInt::from(value)), Ok(value));
        }
        assert_eq!(u128::try_from(&BigInt::from(u128::MAX)), Ok(u128::MAX));
        assert_eq!(i128::try_from(&BigInt::from(u128::MAX)), Err(OutOfRange));
        assert_eq!(u128::try_from(&BigInt::from(-1_i128)), Err(OutOfRange));
        let below = BigInt::new(true, vec![1, 1 << 63]);
        assert_eq!(i128::try_from(&below), Err(OutOfRange));
        assert_eq!(u128::try_from(&BigInt::new(false, vec![0, 0, 1])), Err(OutOfRange));
    }
}
