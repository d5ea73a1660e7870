//! What workers say of themselves, as it may appear on a terminal.

/// So many characters of a text, without those that would steer the terminal; what is no UTF-8 is marked.
pub(super) fn printable(text: &[u8], most: usize) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(most).collect()
}
