//! Node code on the command line: `node -e CODE`. Node's cluster takes a process for a worker only if it has an argument
//! besides, so it is given one. Pure.

use std::ffi::OsString;

use super::half::WITH_VALUE;

/// What Node calls such code in its stack traces.
const ARGUMENT: &str = "[eval]";

/// The one argument that a Node command with code and without any is to be given.
pub(crate) fn missing_argument(command: &[OsString]) -> Option<OsString> {
    let mut words = command.iter().skip(1).map(|word| word.to_string_lossy()).peekable();
    let mut has_code = false;
    while let Some(word) = words.next() {
        match &*word {
            "-e" | "--eval" | "-pe" => {
                has_code = true;
                words.next();
            }
            "-p" | "--print" => {
                has_code = true;
                words.next_if(|next| !next.starts_with('-'));
            }
            "--" if words.peek().is_none() => {}
            word if word.starts_with("--eval=") || word.starts_with("--print=") => has_code = true,
            word if WITH_VALUE.contains(&word) => {
                words.next();
            }
            word if word.starts_with('-') && !matches!(word, "-" | "--") => {}
            _ => return None,
        }
    }
    has_code.then(|| ARGUMENT.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_without_an_argument_is_given_one() {
        let missing = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            missing_argument(&words).is_some()
        };
        for words in [
            &["node", "-e", "serve()"][..],
            &["node", "--no-warnings", "--eval", "serve()"],
            &["node", "--eval=serve()"],
            &["node", "-p", "serve()"],
            &["node", "-p", "-e", "serve()"],
            &["node", "-pe", "serve()", "--no-warnings"],
            &["node", "-r", "dotenv/config", "-e", "serve()"],
            &["node", "-e", "serve()", "--"],
        ] {
            assert!(missing(words), "{words:?}");
        }
        for words in [
            &["node", "server.js"][..],
            &["node", "server.js", "-e", "x"],
            &["node", "-e", "serve()", "x"],
            &["node", "-e", "serve()", "--", "x"],
            &["node", "-"],
            &["node", "--version"],
        ] {
            assert!(!missing(words), "{words:?}");
        }
    }
}
