//! Where things are: our own servers, kept results, the document; and when, where and of what a report was made.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::measure::machine;
use crate::report::Made;
use crate::rows::Document;
use crate::tools::Tools;

/// Builds what is measured beside this program, as this program was built: what is measured must not be older.
///
/// # Errors
/// It does not compile.
pub(crate) fn build_servers() -> io::Result<()> {
    let own = std::env::current_exe()?;
    let (Some(profile), Some(target)) = (own.parent(), own.parent().and_then(Path::parent)) else {
        return Ok(());
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "everycore-bench", "--bin", "everycore-bench-server"]);
    if profile.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    build
        .arg("--target-dir")
        .arg(target)
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    match build.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("everycore-bench-server does not build")),
    }
}

/// Results of the last run of each row, with what was compiled: `target/…/bench-results`.
pub(crate) fn results() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new(".")).join("bench-results")
}

/// A document in the repository.
pub(crate) fn document(document: Document) -> PathBuf {
    let name = match document {
        Document::Performance => "performance.md",
        Document::Scale => "scale.md",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// The facts about this run.
pub(crate) fn made(tools: &Tools) -> Made {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let mut versions =
        vec![format!("everycore {}", env!("CARGO_PKG_VERSION")), said("rustc", &["--version"])];
    versions.extend(tools.versions());
    Made {
        command: format!("cargo run --release -p everycore-bench -- {}", typed.join(" "))
            .trim_end_matches(" -- ")
            .to_owned(),
        date: utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
        revision: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        machine: machine::description(),
        versions,
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { format!("{program} unknown") } else { text }
}

/// `2026-01-31 12:00 UTC`, by the calendar of Howard Hinnant's days-from-civil, backwards.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_new_years() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_827_640), "2000-02-29 12:34 UTC");
        assert_eq!(utc(1_767_225_599), "2025-12-31 23:59 UTC");
        assert_eq!(utc(1_767_225_600), "2026-01-01 00:00 UTC");
    }
}
