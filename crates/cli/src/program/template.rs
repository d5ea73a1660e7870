//! Words with placeholders: `{index} {id} {port} {fd} {generation} {class}`.
//!
//! Only a lower-case word in braces is a placeholder, so JSON and shell code pass through; `{{fd}}` is a plain
//! `{fd}`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::exit::Failure;

/// A value that differs between workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// The slot, from 0.
    Index,
    /// The worker's id, from 1, never reused.
    Id,
    /// The port of the first TCP address.
    Port,
    /// The number of the first inherited socket.
    Fd,
    /// How many reloads came before.
    Generation,
    /// The class of workers it belongs to.
    Class,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 6] = [
        ("index", Self::Index),
        ("id", Self::Id),
        ("port", Self::Port),
        ("fd", Self::Fd),
        ("generation", Self::Generation),
        ("class", Self::Class),
    ];
}

/// What a worker's placeholders stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values<'a> {
    pub(crate) index: u32,
    pub(crate) id: u32,
    /// 0 when there is none: nothing asks for it then.
    pub(crate) port: u16,
    pub(crate) fd: i32,
    pub(crate) generation: u32,
    /// Empty where there are no classes: nothing asks for it then.
    pub(crate) class: &'a str,
}

impl Values<'_> {
    fn of(&self, placeholder: Placeholder) -> String {
        match placeholder {
            Placeholder::Index => self.index.to_string(),
            Placeholder::Id => self.id.to_string(),
            Placeholder::Port => self.port.to_string(),
            Placeholder::Fd => self.fd.to_string(),
            Placeholder::Generation => self.generation.to_string(),
            Placeholder::Class => self.class.to_owned(),
        }
    }
}

/// One word of CMD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Hole(Placeholder),
}

impl Template {
    /// Reads a word; a placeholder that does not exist is an error that names those that do.
    pub(crate) fn parse(word: &OsStr) -> Result<Self, Failure> {
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut rest = word.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            if let Some((name, after)) = after.strip_prefix(b"{").filter(|_| first == b'{').and_then(braced) {
                text.extend_from_slice(format!("{{{name}}}").as_bytes());
                rest = after.strip_prefix(b"}").unwrap_or(after);
            } else if let Some((name, after)) = Some(after).filter(|_| first == b'{').and_then(braced) {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Hole(known(name)?));
                rest = after;
            } else {
                text.push(first);
                rest = after;
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    pub(crate) fn uses(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Part::Hole(placeholder))
    }

    /// The word, if it has no placeholders.
    pub(crate) fn plain(&self) -> Option<OsString> {
        match self.0.as_slice() {
            [] => Some(OsString::new()),
            [Part::Text(text)] => Some(OsString::from_vec(text.clone())),
            _ => None,
        }
    }

    pub(crate) fn fill(&self, values: &Values<'_>) -> OsString {
        let mut word = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => word.extend_from_slice(text),
                Part::Hole(placeholder) => word.extend_from_slice(values.of(*placeholder).as_bytes()),
            }
        }
        OsString::from_vec(word)
    }
}

/// The lower-case word up to a closing brace, and what follows the brace.
fn braced(text: &[u8]) -> Option<(&str, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'_').count();
    let (name, after) = text.split_at(length);
    let after = after.strip_prefix(b"}")?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some((name, after))
}

fn known(name: &str) -> Result<Placeholder, Failure> {
    Placeholder::ALL.iter().find(|(known, _)| *known == name).map(|(_, placeholder)| *placeholder).ok_or_else(|| {
        let names: Vec<_> = Placeholder::ALL.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        Failure::usage(format!(
            "unknown placeholder {{{name}}} in CMD; there are {}, and {{{{{name}}}}} stands for a plain {{{name}}}",
            names.join(" ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> = Values { index: 1, id: 7, port: 8000, fd: 3, generation: 2, class: "vip" };

    fn filled(word: &str) -> String {
        Template::parse(OsStr::new(word)).unwrap().fill(&VALUES).into_string().unwrap()
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(filled("--fd={fd}"), "--fd=3");
        assert_eq!(filled("{index}/{id}/{port}/{generation}/{class}"), "1/7/8000/2/vip");
        assert_eq!(filled(""), "");
    }

    #[test]
    fn doubled_braces_are_plain_ones() {
        assert_eq!(filled("{{fd}}"), "{fd}");
        assert_eq!(filled("{{fd} {fd}"), "{fd} 3");
        assert_eq!(filled("{{anything}}"), "{anything}");
    }

    #[test]
    fn what_is_no_word_in_braces_passes_through() {
        for word in
            ["{\"a\":{\"b\":1}}", "${HOME}", "{", "}", "{}", "{a,b}", "{{.Names}}", "f() { x; }", "{fd"]
        {
            assert_eq!(filled(word), word);
        }
    }

    #[test]
    fn an_unknown_placeholder_names_the_known_ones() {
        let error = Template::parse(OsStr::new("--port={prot}")).unwrap_err().chain();
        assert_eq!(
            error,
            "unknown placeholder {prot} in CMD; there are {index} {id} {port} {fd} {generation} {class}, and {{prot}} stands for a plain {prot}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        let word = OsStr::from_bytes(b"\xff{fd}");
        assert_eq!(Template::parse(word).unwrap().fill(&VALUES).as_bytes(), b"\xff3");
    }

    #[test]
    fn a_word_without_placeholders_is_plain() {
        let template = |word| Template::parse(OsStr::new(word)).unwrap();
        assert_eq!(template("./x").plain(), Some("./x".into()));
        assert_eq!(template("./x{index}").plain(), None);
        assert!(template("{fd}").uses(Placeholder::Fd) && !template("{fd}").uses(Placeholder::Port));
    }
}
