//! Finds the program's file before any worker is started, to answer as a shell does: 127 or 126.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::exit::{Code, Failure};

/// Of a script so much is looked at.
const SCRIPT: u64 = 4096;

/// Where programs are looked for without `PATH`, as the C library does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The file that workers will find for `program`, and may execute, with this `PATH`, in this directory.
pub(crate) fn check(program: &OsStr, path: Option<&OsStr>, cwd: Option<&Path>) -> Result<PathBuf, Failure> {
    let from_cwd = |file: &Path| cwd.map_or_else(|| file.to_path_buf(), |cwd| cwd.join(file));
    let name = program.to_string_lossy();
    if program.is_empty() {
        return Err(Failure::new(Code::NotFound, "cannot run '': the program's name is empty"));
    }
    if program.as_bytes().contains(&b'/') {
        let file = from_cwd(Path::new(program));
        return executable(&file).map(|()| file).map_err(|problem| problem.failure(&name));
    }
    let mut worst = Problem::Missing;
    for directory in std::env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        let file = from_cwd(&directory).join(program);
        match executable(&file) {
            Ok(()) => return Ok(file),
            Err(Problem::Missing) => {}
            Err(problem) => worst = problem,
        }
    }
    Err(match worst {
        Problem::Missing => {
            let here = from_cwd(Path::new(program)).is_file();
            let instead =
                if here { format!("; the file here is run by: {}", by_path(&name)) } else { String::new() };
            Failure::new(
                Code::NotFound,
                format!("cannot run '{name}': it is not found in any directory of PATH{instead}"),
            )
        }
        problem => problem.failure(&name),
    })
}

/// How a file is run that is not in `PATH`.
fn by_path(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((_, "js" | "mjs" | "cjs")) => format!("node {name}"),
        Some((_, "py")) => format!("python3 {name}"),
        _ => format!("./{name}"),
    }
}

/// The program that a script's first line names; of a package manager's shell script, the one it hands over to.
pub(crate) fn interpreter(file: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(file).ok()?.take(SCRIPT).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(text.strip_prefix(b"#!")?).into_owned();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let name = |word: &str| word.trim_matches('"').rsplit('/').next().unwrap_or_default().to_owned();
    // `env -S node --flag`, and names of variables that it sets.
    let mut words = first.split_whitespace().filter(|word| !word.starts_with('-') && !word.contains('='));
    match words.next()? {
        shell if shell.ends_with("/sh") => {
            let mut handed = rest.lines().filter_map(|line| line.trim().strip_prefix("exec "));
            handed.find_map(|line| line.split_whitespace().next()).map(name)
        }
        env if env.ends_with("/env") => words.next().map(name),
        interpreter => Some(name(interpreter)),
    }
}

/// Why a file cannot be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Missing,
    Directory,
    Forbidden,
    /// It cannot even be looked at.
    Hidden,
}

impl Problem {
    fn failure(self, name: &str) -> Failure {
        match self {
            Self::Missing => {
                Failure::new(Code::NotFound, format!("cannot run '{name}': there is no such file"))
            }
            Self::Directory => {
                Failure::new(Code::NotExecutable, format!("cannot run '{name}': it is a directory"))
            }
            Self::Hidden => Failure::new(
                Code::NotExecutable,
                format!("cannot run '{name}': a directory above it may not be entered by this user"),
            ),
            Self::Forbidden => Failure::new(
                Code::NotExecutable,
                format!(
                    "cannot run '{name}': it is not executable; chmod +x it, or put its interpreter in front"
                ),
            ),
        }
    }
}

fn executable(file: &Path) -> Result<(), Problem> {
    match access(file, Access::EXEC_OK) {
        Ok(()) if file.is_dir() => Err(Problem::Directory),
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Problem::Missing),
        Err(_) if file.metadata().is_err() => Err(Problem::Hidden),
        Err(_) => Err(Problem::Forbidden),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn code(program: &str, path: Option<&str>, cwd: Option<&Path>) -> Option<Code> {
        check(OsStr::new(program), path.map(OsStr::new), cwd).err().map(|failure| failure.code)
    }

    #[test]
    fn answers_as_a_shell_does() {
        assert_eq!(code("sh", Some("/nowhere:/bin"), None), None);
        assert_eq!(code("sh", None, None), None);
        assert_eq!(code("sh", Some("/nowhere"), None), Some(Code::NotFound));
        assert_eq!(code("/nowhere/sh", None, None), Some(Code::NotFound));
        assert_eq!(code("/bin", None, None), Some(Code::NotExecutable));
        assert_eq!(code("/proc/version", None, None), Some(Code::NotExecutable));
        assert_eq!(code("", None, None), Some(Code::NotFound));
    }

    #[test]
    fn a_script_names_its_interpreter() {
        let file = std::env::temp_dir().join(format!("everycore-script-{}", std::process::id()));
        let named = |text: &str| {
            fs::write(&file, text).unwrap();
            interpreter(&file)
        };
        for text in [
            "#!/usr/bin/env node\nx",
            "#!/usr/local/bin/node --title=x",
            "#!/usr/bin/env -S node --no-warnings\n",
            "#!/bin/sh\nif [ -x x ]; then\n  exec \"$basedir/node\"  \"$basedir/x.js\" \"$@\"\nfi\n",
        ] {
            assert_eq!(named(text).as_deref(), Some("node"), "{text}");
        }
        assert_eq!(named("#!/usr/bin/env python3\nnode").as_deref(), Some("python3"));
        for text in ["", "#!", "#!/bin/sh\nnode x.js", "\x7fELF"] {
            assert_eq!(named(text), None, "{text}");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(interpreter(&file), None);
    }

    #[test]
    fn names_with_a_slash_start_at_the_workers_directory() {
        assert_eq!(code("./sh", None, Some(Path::new("/bin"))), None);
        assert_eq!(code("./sh", None, Some(Path::new("/proc"))), Some(Code::NotFound));
        assert_eq!(code("sh", Some("bin"), Some(Path::new("/"))), None);
    }

    #[test]
    fn a_file_in_path_that_may_not_be_executed_is_told_apart() {
        let directory = std::env::temp_dir().join(format!("everycore-lookup-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("tool"), "").unwrap();
        assert_eq!(code("tool", directory.to_str(), None), Some(Code::NotExecutable));
        fs::remove_dir_all(&directory).unwrap();
    }
}
