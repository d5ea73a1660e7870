//! What stands in front of a line: who says it, in columns, coloured per slot on a terminal.

/// Colours that can be told apart on light and dark backgrounds: cyan, yellow, green, magenta, blue, and the bright
/// ones of the first three.
const COLOURS: [u8; 8] = [36, 33, 32, 35, 34, 96, 93, 92];

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";

/// What everycore calls itself in front of its own lines.
const SELF: &str = "everycore";

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Bad,
}

/// Makes prefixes of one width.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    name: String,
    width: usize,
    columns: bool,
    colour: bool,
}

impl Prefixes {
    /// For a program with this many slots. `columns` puts everycore's own lines into the same column.
    pub(crate) fn new(name: &str, slots: usize, columns: bool, colour: bool) -> Self {
        let last = slots.saturating_sub(1).to_string().len();
        let width = (name.chars().count() + 1 + last).max(if columns { SELF.len() } else { 0 });
        Self { name: name.into(), width, columns, colour }
    }

    /// `web.3 | `
    pub(crate) fn worker(&self, slot: u32) -> String {
        let label = format!("{}.{slot}", self.name);
        let colour = format!("\x1b[{}m", COLOURS[slot as usize % COLOURS.len()]);
        self.column(&label, &colour)
    }

    /// `everycore | ` beside workers' prefixes, `everycore: ` alone.
    pub(crate) fn own(&self, tone: Tone) -> String {
        let colour = match tone {
            Tone::Plain => DIM,
            Tone::Bad => RED,
        };
        if self.columns { self.column(SELF, colour) } else { self.painted(&format!("{SELF}:"), colour) + " " }
    }

    fn column(&self, label: &str, colour: &str) -> String {
        self.painted(&format!("{label:<width$} |", width = self.width), colour) + " "
    }

    fn painted(&self, text: &str, colour: &str) -> String {
        if self.colour { format!("{colour}{text}{RESET}") } else { text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_stand_in_one_column() {
        let prefixes = Prefixes::new("web", 12, true, false);
        assert_eq!(prefixes.worker(3), "web.3     | ");
        assert_eq!(prefixes.worker(11), "web.11    | ");
        assert_eq!(prefixes.own(Tone::Plain), "everycore | ");
        let prefixes = Prefixes::new("web", 2, false, false);
        assert_eq!(prefixes.worker(0), "web.0 | ");
        assert_eq!(prefixes.own(Tone::Bad), "everycore: ");
    }

    #[test]
    fn colours_follow_the_slot() {
        let prefixes = Prefixes::new("web", 2, true, true);
        assert_eq!(prefixes.worker(0), "\x1b[36mweb.0     |\x1b[0m ");
        assert_eq!(prefixes.worker(0), prefixes.worker(0));
        assert_ne!(prefixes.worker(0).replace(".0", ".1"), prefixes.worker(1));
        assert!(prefixes.own(Tone::Bad).starts_with(RED));
    }
}
