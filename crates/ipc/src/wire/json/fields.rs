//! A look at the outermost names of a long line, which mostly says at once that it is for the program.

use memchr::memchr2;

/// Names to look at. With more of them, or with escapes, searching all of the line for words is as cheap.
const NAMES: usize = 16;
const ESCAPES: usize = 16;

/// The longest number or word that is looked for the end of.
const WORD: usize = 32;

/// Whether an object may be a message of Node's library: whether it has a `cmd` that begins with `NODE_` or may do so. `None`
/// when a look at the names does not tell.
///
/// Values of the outermost object are passed over unread. If the line is no JSON it is no message of the library either.
pub(super) fn may_be_command(line: &[u8]) -> Option<bool> {
    let mut walk = Walk { rest: line, escapes: 0 };
    if walk.next()? != b'{' {
        return None;
    }
    for _ in 0..NAMES {
        match walk.next()? {
            b'"' => {}
            // Nothing but an empty object ends here.
            b'}' => return Some(false),
            _ => return None,
        }
        let name = walk.string()?;
        if name.contains(&b'\\') || walk.next()? != b':' {
            return None;
        }
        match walk.next()? {
            b'"' => {
                let value = walk.string()?;
                let begin = &value[..value.len().min(b"NODE_".len())];
                if name == b"cmd" && (begin == b"NODE_" || begin.contains(&b'\\')) {
                    return Some(true);
                }
            }
            b'{' | b'[' => return None,
            _ => walk.word()?,
        }
        match walk.next()? {
            b',' => {}
            b'}' => return Some(false),
            _ => return None,
        }
    }
    None
}

struct Walk<'a> {
    rest: &'a [u8],
    escapes: usize,
}

impl<'a> Walk<'a> {
    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        let space = self.rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let byte = self.rest.get(space).copied();
        self.rest = self.rest.get(space + 1..).unwrap_or_default();
        byte
    }

    /// What is before the quote that ends a string, as it is spelled.
    fn string(&mut self) -> Option<&'a [u8]> {
        let mut at = 0;
        loop {
            at += memchr2(b'"', b'\\', self.rest.get(at..)?)?;
            if self.rest[at] == b'"' {
                let string = &self.rest[..at];
                self.rest = &self.rest[at + 1..];
                return Some(string);
            }
            self.escapes += 1;
            if self.escapes > ESCAPES {
                return None;
            }
            at += 2;
        }
    }

    /// Goes past a number or a word whose first byte is behind us.
    fn word(&mut self) -> Option<()> {
        let near = &self.rest[..self.rest.len().min(WORD)];
        let end = near.iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace())?;
        self.rest = &self.rest[end..];
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn looks(line: &str) -> Option<bool> {
        may_be_command(line.as_bytes())
    }

    #[test]
    fn a_command_shows_in_the_outermost_names() {
        assert_eq!(looks(r#"{"data":"x"}"#), Some(false));
        assert_eq!(looks(r#" { "a" : 1 , "b" : true,"c":-1.5e3 , "d":"NODE_\n" } "#), Some(false));
        assert_eq!(looks(r#"{"cmd":"node","CMD":"NODE_X"}"#), Some(false));
        assert_eq!(looks(r#"{"a":"\\","cmd" : "NODE_HANDLE"}"#), Some(true));
        assert_eq!(looks(r#"{"cmd":"\u004eODE_HANDLE"}"#), Some(true));
        assert_eq!(looks(r#"{"cmd":"NOD\u0045_HANDLE"}"#), Some(true));
    }

    #[test]
    fn what_a_look_does_not_tell_is_searched() {
        for line in [
            r#"{"c\u006dd":"NODE_HANDLE"}"#,
            r#"{"a":{"cmd":"NODE_HANDLE"}}"#,
            r#"{"a":[],"cmd":"NODE_HANDLE"}"#,
            r#"{"a":"#,
            r#"{"a":"x\"#,
            r#"{"a":"x"#,
            r#"{"a" "b"}"#,
            r#"{"a":1 2}"#,
            "{",
            "",
            "[]",
        ] {
            assert_eq!(looks(line), None, "{line}");
        }
        let many = (0..NAMES).map(|name| format!("\"{name}\":{name},")).collect::<String>();
        assert_eq!(looks(&format!("{{{many}\"cmd\":\"NODE_HANDLE\"}}")), None);
        assert_eq!(
            looks(&format!("{{\"a\":\"{}\",\"cmd\":\"NODE_HANDLE\"}}", r"\n".repeat(ESCAPES + 1))),
            None
        );
    }
}
