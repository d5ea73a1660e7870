//! Whether a Node program has a half of its own for cluster's primary, which does not run here. A guess from its text.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// As much of a script is looked at.
const LOOK: u64 = 1 << 20;

/// Options of the Node family that take the next word, of those that stand before a script.
pub(super) const WITH_VALUE: [&str; 12] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    "--title",
    "--preload",
    "--config",
    "--cwd",
];

/// The script whose text asks whether it is the primary and forks, as it was typed.
pub(crate) fn of_primary(command: &[OsString], cwd: Option<&Path>) -> Option<String> {
    let script = script(command)?;
    let file = cwd.map_or_else(|| PathBuf::from(script), |cwd| cwd.join(script));
    let mut text = Vec::new();
    File::open(file).ok()?.take(LOOK).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let asks = text.contains("isPrimary") || text.contains("isMaster");
    (asks && text.contains("fork(")).then(|| script.to_string_lossy().into_owned())
}

/// The first word that is neither an option nor one's value; Bun and Deno have `run` in front of it.
fn script(command: &[OsString]) -> Option<&OsStr> {
    let mut words = command.iter().skip(1).map(OsString::as_os_str);
    while let Some(word) = words.next() {
        if WITH_VALUE.iter().any(|option| word == *option) {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") && word != "run" {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn the_script_is_the_first_word_that_is_no_option() {
        let script = |line: &str| script(&words(line)).map(|word| word.to_string_lossy().into_owned());
        assert_eq!(script("node server.js -x").as_deref(), Some("server.js"));
        assert_eq!(script("node --inspect -r dotenv/config app.js").as_deref(), Some("app.js"));
        assert_eq!(script("deno run -A app.ts").as_deref(), Some("app.ts"));
        assert_eq!(script("node --version"), None);
    }

    #[test]
    fn a_text_that_asks_and_forks_has_such_a_half() {
        let directory = std::env::temp_dir().join(format!("everycore-half-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let told = |text: &str| {
            std::fs::write(directory.join("app.js"), text).unwrap();
            of_primary(&words("node app.js"), Some(&directory))
        };
        assert_eq!(told("if (cluster.isPrimary) cluster.fork(); else serve()").as_deref(), Some("app.js"));
        assert_eq!(told("if (isMaster) { fork(); }").as_deref(), Some("app.js"));
        assert_eq!(told("http.createServer().listen(80)"), None);
        assert_eq!(told("if (cluster.isPrimary) log()"), None);
        assert_eq!(of_primary(&words("node missing.js"), Some(&directory)), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
