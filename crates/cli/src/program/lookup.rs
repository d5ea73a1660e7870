//! Finds the program's file before any worker is started, to answer as a shell does: 127 or 126.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::exit::{Code, Failure};

/// Where programs are looked for without `PATH`, as the C library does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Checks that workers will find and may execute `program`, with this `PATH`, in this directory.
pub(crate) fn check(program: &OsStr, path: Option<&OsStr>, cwd: Option<&Path>) -> Result<(), Failure> {
    let from_cwd = |file: &Path| cwd.map_or_else(|| file.to_path_buf(), |cwd| cwd.join(file));
    let name = program.to_string_lossy();
    if program.is_empty() {
        return Err(Failure::new(Code::NotFound, "cannot run '': the program's name is empty"));
    }
    if program.as_bytes().contains(&b'/') {
        return executable(&from_cwd(Path::new(program))).map_err(|problem| problem.failure(&name));
    }
    let mut worst = Problem::Missing;
    for directory in std::env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        match executable(&from_cwd(&directory).join(program)) {
            Ok(()) => return Ok(()),
            Err(Problem::Missing) => {}
            Err(problem) => worst = problem,
        }
    }
    Err(match worst {
        Problem::Missing => Failure::new(
            Code::NotFound,
            format!("cannot run '{name}': it is not found in any directory of PATH"),
        ),
        problem => problem.failure(&name),
    })
}

/// Why a file cannot be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Missing,
    Directory,
    Forbidden,
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
