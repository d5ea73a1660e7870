//! What a row found: tables, remarks, and how it stands against the bars. As text, as Markdown, and kept between runs.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rows::Document;

/// The findings of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The row's name on the command line.
    pub(crate) row: String,
    /// What it is about.
    pub(crate) title: String,
    /// In order.
    pub(crate) blocks: Vec<Block>,
    /// How the figures stand against the bars.
    pub(crate) verdicts: Vec<Verdict>,
    /// The command that made it, and when.
    pub(crate) made: Option<Made>,
}

/// A piece of a report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    /// A paragraph.
    Text(String),
    /// A table: the heads, then the rows.
    Table(Vec<String>, Vec<Vec<String>>),
}

/// Where and how a report was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// The exact command.
    pub(crate) command: String,
    /// Date and time, UTC.
    pub(crate) date: String,
    /// The revision of the repository.
    pub(crate) revision: String,
    /// The machine, one fact per line.
    pub(crate) machine: Vec<String>,
    /// The versions of the peers.
    pub(crate) versions: Vec<String>,
}

/// One bar, and where we are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What is compared.
    pub(crate) what: String,
    /// What is asked, in words.
    pub(crate) bar: String,
    /// What was found, in words.
    pub(crate) found: String,
    /// Whether it is enough; `None` when it could not be measured.
    pub(crate) met: Option<bool>,
}

/// Which side of a bar is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    AtLeast,
    AtMost,
}

impl Verdict {
    /// Compares a figure with its bar. The unit is printed behind both.
    pub(crate) fn new(what: &str, side: Side, bar: f64, unit: &str, found: Option<f64>) -> Self {
        let (sign, met) = match side {
            Side::AtLeast => ("≥", found.map(|found| found >= bar)),
            Side::AtMost => ("≤", found.map(|found| found <= bar)),
        };
        Self {
            what: what.to_owned(),
            bar: format!("{sign} {}{unit}", number(bar)),
            found: found
                .map_or_else(|| "not measured".to_owned(), |found| format!("{}{unit}", number(found))),
            met,
        }
    }

    /// A bar for something that cannot be measured, and why not.
    pub(crate) fn absent(what: &str, bar: &str, why: &str) -> Self {
        Self { what: what.to_owned(), bar: bar.to_owned(), found: why.to_owned(), met: None }
    }

    fn mark(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "–",
        }
    }
}

/// A number with as many digits as say something: three.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    match () {
        () if magnitude >= 100.0 || magnitude == 0.0 => format!("{value:.0}"),
        () if magnitude >= 10.0 => format!("{value:.1}"),
        () if magnitude >= 0.1 => format!("{value:.2}"),
        () => format!("{value:.3}"),
    }
}

impl Report {
    /// An empty one.
    pub(crate) fn new(row: &str, title: &str) -> Self {
        Self { row: row.to_owned(), title: title.to_owned(), ..Self::default() }
    }

    /// Adds a paragraph.
    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, heads: &[&str], rows: Vec<Vec<String>>) {
        self.blocks.push(Block::Table(heads.iter().map(|head| (*head).to_owned()).collect(), rows));
    }

    /// For a terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("\n=== {}: {}\n", self.row, self.title);
        for block in &self.blocks {
            match block {
                Block::Text(paragraph) => writeln!(text, "\n{paragraph}"),
                Block::Table(heads, rows) => write!(text, "\n{}", aligned(heads, rows)),
            }
            .unwrap_or_default();
        }
        if !self.verdicts.is_empty() {
            let rows: Vec<_> = self.verdicts.iter().map(verdict_row).collect();
            text.push('\n');
            text.push_str(&aligned(&VERDICT_HEADS.map(str::to_owned), &rows));
        }
        text
    }

    /// For the document.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = format!("## {}\n", self.title);
        for block in &self.blocks {
            match block {
                Block::Text(paragraph) => writeln!(text, "\n{paragraph}"),
                Block::Table(heads, rows) => write!(text, "\n{}", piped(heads, rows)),
            }
            .unwrap_or_default();
        }
        if let Some(made) = &self.made {
            let _ = write!(text, "\n`{}`, {}, revision {}.\n", made.command, made.date, made.revision);
        }
        text
    }

    /// Keeps it for [`Report::load_all`].
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(file(directory, &self.row), serde_json::to_vec_pretty(&self.to_json())?)
    }

    /// What was kept of these rows.
    pub(crate) fn load_all(directory: &Path, rows: &[&str]) -> Vec<Self> {
        let read = |row: &&str| serde_json::from_slice(&fs::read(file(directory, row)).ok()?).ok();
        rows.iter().filter_map(read).map(|value: Value| Self::from_json(&value)).collect()
    }

    fn to_json(&self) -> Value {
        let blocks: Vec<Value> = self
            .blocks
            .iter()
            .map(|block| match block {
                Block::Text(text) => json!({ "text": text }),
                Block::Table(heads, rows) => json!({ "heads": heads, "rows": rows }),
            })
            .collect();
        let verdicts: Vec<Value> = self
            .verdicts
            .iter()
            .map(|v| json!({ "what": v.what, "bar": v.bar, "found": v.found, "met": v.met }))
            .collect();
        let made = self.made.as_ref().map(|made| {
            json!({ "command": made.command, "date": made.date, "revision": made.revision,
                "machine": made.machine, "versions": made.versions })
        });
        json!({ "row": self.row, "title": self.title, "blocks": blocks, "verdicts": verdicts, "made": made })
    }

    fn from_json(value: &Value) -> Self {
        let blocks = list(&value["blocks"]).iter().map(|block| match block.get("text") {
            Some(text) => Block::Text(string(text)),
            None => {
                Block::Table(strings(&block["heads"]), list(&block["rows"]).iter().map(strings).collect())
            }
        });
        let verdicts = list(&value["verdicts"]).iter().map(|verdict| Verdict {
            what: string(&verdict["what"]),
            bar: string(&verdict["bar"]),
            found: string(&verdict["found"]),
            met: verdict["met"].as_bool(),
        });
        let made = value.get("made").filter(|made| !made.is_null()).map(|made| Made {
            command: string(&made["command"]),
            date: string(&made["date"]),
            revision: string(&made["revision"]),
            machine: strings(&made["machine"]),
            versions: strings(&made["versions"]),
        });
        Self {
            row: string(&value["row"]),
            title: string(&value["title"]),
            blocks: blocks.collect(),
            verdicts: verdicts.collect(),
            made,
        }
    }
}

/// All rows as one document, the bars first.
pub(crate) fn document(document: Document, reports: &[Report]) -> String {
    let mut text = String::from(match document {
        Document::Performance => {
            "# Performance\n\nWritten by `just bench report` out of the last run of each row; not edited by hand. Only ratios \
             within one run count, and only on the machine they were measured on: run it on yours. Why a bar is missed, and \
             where the time goes, is in [profiles](profiles/README.md); how costs grow, in [scale](scale.md).\n\n\
             ## The bars\n\n"
        }
        Document::Scale => {
            "# How costs grow\n\nWritten by `just bench report` out of the last run of each row (`just bench scale`); not edited \
             by hand. CPU and counts, not rates: they hold where two cores are shared by many. What bends the curves, and \
             what to expect of many cores, is in [scaling](scaling.md).\n\n## What must stay flat\n\n"
        }
    });
    let rows: Vec<_> = reports.iter().flat_map(|report| report.verdicts.iter().map(verdict_row)).collect();
    text.push_str(&piped(&VERDICT_HEADS.map(str::to_owned), &rows));
    if let Some(made) = reports.iter().find_map(|report| report.made.as_ref()) {
        let _ = write!(
            text,
            "\n## Machine and versions\n\n{}\n\n{}\n",
            made.machine.join("; "),
            made.versions.join(", ")
        );
    }
    for report in reports {
        let _ = write!(text, "\n{}", report.to_markdown());
    }
    text
}

const VERDICT_HEADS: [&str; 4] = ["what", "bar", "found", ""];

fn verdict_row(verdict: &Verdict) -> Vec<String> {
    vec![verdict.what.clone(), verdict.bar.clone(), verdict.found.clone(), verdict.mark().to_owned()]
}

/// The first column to the left, the others to the right.
fn aligned(heads: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = std::iter::once(heads).chain(rows.iter().map(Vec::as_slice));
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(heads).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let room = widths.get(column).copied().unwrap_or(0);
            let _ = if column == 0 { write!(line, "{cell:room$}") } else { write!(line, "  {cell:>room$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn piped(heads: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|{}\n", "--:|".repeat(heads.len().saturating_sub(1)));
    line(heads) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

fn file(directory: &Path, row: &str) -> PathBuf {
    directory.join(format!("{row}.json"))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let mut report = Report::new("short", "Short connections");
        report.text("Rules.");
        report.table(&["server", "conn/s"], vec![vec!["nginx".into(), "1,000".into()]]);
        report.verdicts.push(Verdict::new("least / nginx", Side::AtLeast, 1.0, " ×", Some(1.04)));
        report.made = Some(Made {
            command: "just bench short".into(),
            machine: vec!["2 CPUs".into()],
            ..Made::default()
        });
        report
    }

    #[test]
    fn a_report_survives_being_kept() {
        assert_eq!(Report::from_json(&sample().to_json()), sample());
    }

    #[test]
    fn verdicts_say_which_side_they_are_on() {
        let verdict = |side, found| Verdict::new("x", side, 1.0, "", found).mark();
        assert_eq!(verdict(Side::AtLeast, Some(1.0)), "met");
        assert_eq!(verdict(Side::AtLeast, Some(0.99)), "missed");
        assert_eq!(verdict(Side::AtMost, Some(1.01)), "missed");
        assert_eq!(verdict(Side::AtMost, None), "–");
    }

    #[test]
    fn tables_are_aligned_for_eyes_and_piped_for_markdown() {
        let text = sample().to_text();
        assert!(text.contains("server  conn/s\nnginx    1,000\n"), "{text}");
        assert!(sample().to_markdown().contains("| server | conn/s |\n|---|--:|\n| nginx | 1,000 |\n"));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.0, 0.0123, 0.987, 5.678, 12.34, 1234.5].map(number),
            ["0", "0.012", "0.99", "5.68", "12.3", "1234"]
        );
    }
}
