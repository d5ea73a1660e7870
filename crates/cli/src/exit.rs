//! How the command ends: exit codes, and the failure that carries one to `main`.
//!
//! | Code | Meaning |
//! |---|---|
//! | 0 | done; for `run` and `demo`: stopped as ordered |
//! | 1 | failed: every slot was given up, an address is taken |
//! | 2 | wrong usage |
//! | 69 | no primary runs (commands that talk to one) |
//! | 75 | busy, try again (commands that talk to one) |
//! | 77 | no permission |
//! | 78 | bad configuration, from file or environment |
//! | 126, 127 | the program cannot be executed, or is not found |
//! | 128+n | killed by signal n, as shells report it |

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use everycore::SpawnError;

/// A failure's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed,
    Usage,
    Permission,
    Config,
    NotExecutable,
    NotFound,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(match code {
            Code::Failed => 1,
            Code::Usage => 2,
            Code::Permission => 77,
            Code::Config => 78,
            Code::NotExecutable => 126,
            Code::NotFound => 127,
        })
    }
}

/// Why the command failed: for people, with the exit code for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure in words: what happened, to which thing, what to do.
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), source: None }
    }

    /// Words that do not fit together, or that ask for what cannot be.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    /// A failure with its cause.
    pub(crate) fn because(
        code: Code,
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { code, what: what.into(), source: Some(source.into()) }
    }

    /// The whole chain of causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.what.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            // Some errors repeat their cause in their own words.
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<everycore::Error> for Failure {
    fn from(error: everycore::Error) -> Self {
        use everycore::Error as E;
        let what = error.to_string();
        match &error {
            // These tell the whole story themselves.
            E::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::new(Code::Permission, what)
            }
            E::Bind { .. } => Self::new(Code::Failed, what),
            E::Address(_) | E::Setting(_) => Self::usage(what),
            E::Start { source } => {
                let code = match source {
                    SpawnError::NotFound { .. } => Code::NotFound,
                    SpawnError::NotExecutable { .. } => Code::NotExecutable,
                    SpawnError::Cwd { .. } => Code::Permission,
                    SpawnError::Step { errno, .. } => {
                        match std::io::Error::from_raw_os_error(*errno).kind() {
                            std::io::ErrorKind::PermissionDenied => Code::Permission,
                            _ => Code::NotExecutable,
                        }
                    }
                };
                Self::new(code, format!("no worker can be started: {what}"))
            }
            _ => Self::because(Code::Failed, what, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_chain_says_each_cause_once() {
        let inner = io::Error::other("disk on fire");
        let failure = Failure::because(
            Code::Failed,
            "cannot start",
            Failure::because(Code::Failed, "reading x", inner),
        );
        assert_eq!(failure.chain(), "cannot start: reading x: disk on fire");
        let failure =
            Failure::because(Code::Failed, "cannot start: disk on fire", io::Error::other("disk on fire"));
        assert_eq!(failure.chain(), "cannot start: disk on fire");
    }

    #[test]
    fn a_low_port_without_permission_has_its_own_code() {
        let error = everycore::Error::Bind {
            address: ":80".parse().unwrap(),
            source: io::ErrorKind::PermissionDenied.into(),
            message: "bind :80: permission denied".into(),
        };
        let failure = Failure::from(error);
        assert_eq!(
            (failure.code, failure.chain().as_str()),
            (Code::Permission, "bind :80: permission denied")
        );
    }
}
