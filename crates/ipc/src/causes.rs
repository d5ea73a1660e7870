//! An error with what caused it, as one sentence.

use std::error::Error;
use std::fmt;

/// Writes an error and its causes, each that does not say again what was said.
pub(crate) fn write(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut said = error.to_string();
    f.write_str(&said)?;
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            write!(f, ": {text}")?;
        }
        said = text;
        cause = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fork;

    #[test]
    fn the_debug_form_of_an_error_is_a_sentence_with_its_causes() {
        let error = fork("/nonexistent").spawn().unwrap_err();
        let told = format!("{error:?}");
        assert!(told.starts_with("cannot start /nonexistent: ") && told.contains("not found"), "{told}");
    }
}
