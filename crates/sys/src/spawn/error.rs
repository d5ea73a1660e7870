//! Why a program could not be started.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What a new process was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Checking what was asked for, before there was a process.
    Prepare,
    /// Making the process.
    Clone,
    /// Setting signals back to their defaults.
    ResetSignals,
    /// Making it the leader of its own process group.
    ProcessGroup,
    /// Giving descriptors their numbers.
    PlaceDescriptors,
    /// Changing to its directory.
    ChangeDirectory,
    /// Setting its supplementary groups.
    SetGroups,
    /// Changing to its group.
    SetGroup,
    /// Changing to its user.
    SetUser,
    /// Giving up new privileges.
    NoNewPrivileges,
    /// Arranging for the signal on our death, or we died before that.
    DeathSignal,
    /// Executing the program.
    Execute,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare its arguments and environment",
            Self::Clone => "make a process",
            Self::ResetSignals => "reset its signals",
            Self::ProcessGroup => "make its process group",
            Self::PlaceDescriptors => "place its descriptors",
            Self::ChangeDirectory => "change to its directory",
            Self::SetGroups => "set its supplementary groups",
            Self::SetGroup => "change to its group",
            Self::SetUser => "change to its user",
            Self::NoNewPrivileges => "give up new privileges",
            Self::DeathSignal => "arrange its death signal",
            Self::Execute => "execute it",
        })
    }
}

/// Why a program could not be started. `errno` is the kernel's number, as in [`io::Error::from_raw_os_error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// There is no such program, neither at that path nor in any directory of `PATH`.
    NotFound {
        /// As it was asked for.
        program: OsString,
    },
    /// The file is there but cannot be executed: no permission, no known format, or no interpreter.
    NotExecutable {
        /// The file that was found.
        program: PathBuf,
        /// `EACCES`, `ENOEXEC`, or `ENOENT` for a missing interpreter.
        errno: i32,
    },
    /// The directory to start in cannot be used.
    Cwd {
        /// As it was asked for.
        path: PathBuf,
        /// Mostly `ENOENT`, `ENOTDIR` or `EACCES`.
        errno: i32,
    },
    /// Anything else.
    Step {
        /// What was being done.
        step: Step,
        /// What the kernel said.
        errno: i32,
    },
}

impl SpawnError {
    pub(super) fn step(step: Step, error: &io::Error) -> Self {
        Self::Step { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
    }

    pub(super) fn not_executable(program: &Path, errno: i32) -> Self {
        Self::NotExecutable { program: program.to_owned(), errno }
    }

    /// Whether another attempt would fail the same way, as long as nobody mends the file, its directory or the account.
    pub fn is_lasting(&self) -> bool {
        let account = |step| matches!(step, Step::SetGroups | Step::SetGroup | Step::SetUser);
        match self {
            // Somebody is writing the file.
            Self::NotExecutable { errno: libc::ETXTBSY, .. } => false,
            Self::NotFound { .. } | Self::NotExecutable { .. } | Self::Cwd { .. } => true,
            Self::Step { step, errno: libc::EPERM } if account(*step) => true,
            // What the kernel says of a file that is cut short.
            Self::Step { step: Step::Execute, errno } => matches!(*errno, libc::EINVAL | libc::EIO),
            Self::Step { .. } => false,
        }
    }

    /// The kernel's number for what went wrong.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound { .. } => libc::ENOENT,
            Self::NotExecutable { errno, .. } | Self::Cwd { errno, .. } | Self::Step { errno, .. } => *errno,
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = io::Error::from_raw_os_error(self.errno());
        match self {
            Self::NotFound { program } => {
                let program = Path::new(program);
                let place = if program.components().count() > 1 { "" } else { " in PATH" };
                write!(f, "program {} not found{place}", program.display())
            }
            Self::NotExecutable { program, errno: libc::EACCES } => {
                write!(
                    f,
                    "{} may not be executed: {cause}; check its mode (chmod +x) and those of the directories above it",
                    program.display()
                )
            }
            Self::NotExecutable { program, errno: libc::ENOEXEC } => {
                write!(
                    f,
                    "{} is not a program of this machine: {cause}; a script needs a #! line",
                    program.display()
                )
            }
            Self::NotExecutable { program, errno: libc::ENOENT } => {
                write!(f, "{} is there, but the interpreter it names is not: {cause}", program.display())
            }
            Self::NotExecutable { program, .. } => {
                write!(f, "{} cannot be executed: {cause}", program.display())
            }
            Self::Cwd { path, .. } => write!(f, "cannot start in directory {}: {cause}", path.display()),
            Self::Step { step, .. } => write!(f, "could not {step}: {cause}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl From<SpawnError> for io::Error {
    /// Keeps the kind, so that `NotFound` and `PermissionDenied` can be told apart, and the text.
    fn from(error: SpawnError) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        io::Error::new(kind, error)
    }
}
