//! Where the peers are, as `bench/peers/setup` reports them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs by name. What is not there is left out of the tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools(BTreeMap<String, PathBuf>);

/// Whether missing peers are to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Install,
    LeaveOut,
}

impl Tools {
    /// Runs the set-up script.
    ///
    /// # Errors
    /// The script cannot be run.
    pub(crate) fn find(missing: Missing) -> io::Result<Self> {
        let mut script = Command::new(peers().join("setup"));
        if missing == Missing::LeaveOut {
            script.arg("--find").stderr(Stdio::null());
        }
        let output = script.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Only what is on the `PATH`: no script, no installing.
    pub(crate) fn on_path(names: &[&str]) -> Self {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            std::env::split_paths(&directories).map(|dir| dir.join(name)).find(|path| path.is_file())
        };
        Self(names.iter().filter_map(|name| Some(((*name).to_owned(), find(name)?))).collect())
    }

    /// `name=path`, one per line.
    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).collect())
    }

    /// The path of a program, when it is there.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(PathBuf::as_path)
    }

    /// One line per program with what it says its version is.
    pub(crate) fn versions(&self) -> Vec<String> {
        let asked = [
            ("node", "--version"),
            ("node-26", "--version"),
            ("nginx", "-v"),
            ("haproxy", "-v"),
            ("bun", "--version"),
            ("deno", "--version"),
            ("pm2-runtime", "--version"),
        ];
        let mut versions: Vec<String> = asked
            .into_iter()
            .filter_map(|(name, flag)| {
                let output = Command::new(self.path(name)?).arg(flag).stdin(Stdio::null()).output().ok()?;
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                Some(format!("{name} {}", version_in(&text)?))
            })
            .collect();
        let lock = std::fs::read_to_string(peers().join("rust/Cargo.lock")).unwrap_or_default();
        versions.extend(
            ["actix-web", "axum", "hyper", "ipc-channel", "tokio"]
                .iter()
                .filter_map(|name| locked(&lock, name)),
        );
        versions
    }
}

/// The directory of peers in the repository.
pub(crate) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// The first word that starts with a number after at most a `v` or a `nginx/`.
fn version_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/');
    let bare = words.map(|word| word.trim_start_matches('v'));
    bare.into_iter()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(str::to_owned)
}

fn locked(lock: &str, name: &str) -> Option<String> {
    let after = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1)?;
    Some(format!("{name} {}", after.split('"').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_lines_are_read() {
        let tools = Tools::parse("node=/usr/bin/node\nnonsense\n");
        assert_eq!(tools.path("node"), Some(Path::new("/usr/bin/node")));
        assert_eq!(tools.path("nginx"), None);
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("v20.20.2\n", "20.20.2"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u3 2025/10/03 - https://haproxy.org/\n", "2.6.12-1+deb12u3"),
            ("deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\n", "2.9.6"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
    }
}
