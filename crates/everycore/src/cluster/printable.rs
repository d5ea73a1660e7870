//! What workers say of themselves, as it may appear on a terminal.

/// So many characters of a text, without those that would steer the terminal; what is no UTF-8 is marked.
pub(super) fn printable(text: &[u8], most: usize) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal_and_nothing_is_longer_than_asked() {
        assert_eq!(printable(b"\x1b[31mred\x07 \xff", 20), "[31mred \u{fffd}");
        assert_eq!(printable(&[b'a'; 4000], 200).len(), 200);
    }
}
