//! Numbers as JavaScript sees them: all of them doubles, with one way to spell each.

/// The integer that a double stands for, if it stands for one that a double can tell from its
/// neighbours. `-0.0` does not.
pub(super) fn safe_integer(value: f64) -> Option<i64> {
    const SAFE: f64 = 9_007_199_254_740_992.0; // 2^53
    let integer = value as i64;
    let exact = value.abs() <= SAFE && integer as f64 == value && !is_negative_zero(value);
    exact.then_some(integer)
}

/// The 32-bit integer that a double equals, the form V8 itself would write it in.
#[inline]
pub(super) fn small_integer(value: f64) -> Option<i32> {
    let integer = value as i32;
    (f64::from(integer) == value && !is_negative_zero(value)).then_some(integer)
}

/// An integer of up to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integer {
    Signed(i64),
    Unsigned(u64),
}

/// The integer that a double is, however large, if a 64-bit type holds it.
pub(super) fn wide_integer(value: f64) -> Option<Integer> {
    const END_OF_U64: f64 = 18_446_744_073_709_551_616.0;
    const START_OF_I64: f64 = -9_223_372_036_854_775_808.0;
    if value.fract() != 0.0 {
        None
    } else if (0.0..END_OF_U64).contains(&value) {
        Some(Integer::Unsigned(value as u64))
    } else if (START_OF_I64..0.0).contains(&value) {
        Some(Integer::Signed(value as i64))
    } else {
        None
    }
}

fn is_negative_zero(value: f64) -> bool {
    value == 0.0 && value.is_sign_negative()
}

/// The text JavaScript gives a number, which is also the property name that a number stands for.
pub(super) fn text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().expect("`{:e}` writes an integer exponent");
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", layout(&digits, exponent + 1))
}

/// Places the point in the shortest digits of a number, `point` digits from the left, by the rules of
/// ECMAScript's `Number::toString`.
fn layout(digits: &str, point: i32) -> String {
    let count = digits.len() as i32;
    match point {
        _ if (count..=21).contains(&point) => format!("{digits}{}", "0".repeat((point - count) as usize)),
        1..=21 => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
        -5..=0 => format!("0.{}{digits}", "0".repeat(-point as usize)),
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{first}{dot}{rest}e{:+}", point - 1)
        }
    }
}

/// The value of a half-precision float.
pub(super) fn from_half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_as_javascript_spells_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (2147483648.0, "2147483648"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e21, "1.25e+21"),
            (123456789012345680000.0, "123456789012345680000"),
            (0.000001, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(value), expected);
        }
        assert_eq!(text(f64::NAN), "NaN");
    }

    #[test]
    fn only_exact_integers_are_integers() {
        assert_eq!(small_integer(-2147483648.0), Some(i32::MIN));
        assert_eq!(small_integer(2147483648.0), None);
        assert_eq!(small_integer(-0.0), None);
        assert_eq!(small_integer(f64::NAN), None);
        assert_eq!(safe_integer(9007199254740991.0), Some(9007199254740991));
        assert_eq!(safe_integer(1e300), None);
        assert_eq!(safe_integer(0.5), None);
        assert_eq!(safe_integer(-0.0), None);
    }

    #[test]
    fn halves_have_their_values() {
        assert_eq!(from_half(0x3c00), 1.0);
        assert_eq!(from_half(0xc000), -2.0);
        assert_eq!(from_half(0x0001), 2f64.powi(-24));
        assert_eq!(from_half(0x7c00), f64::INFINITY);
        assert!(from_half(0x7e00).is_nan());
        assert_eq!(from_half(0x7bff), 65504.0);
    }
}
