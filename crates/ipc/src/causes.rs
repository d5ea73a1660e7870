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
    use std::io;
    use std::net::{TcpListener, UdpSocket};

    use crate::{Handle, HandleError, ParentError, fork};

    #[test]
    fn the_debug_form_of_an_error_is_a_sentence_with_its_causes() {
        let error = fork("/nonexistent").spawn().unwrap_err();
        let told = format!("{error:?}");
        assert!(told.starts_with("cannot start /nonexistent: ") && told.contains("not found"), "{told}");
        let error = ParentError::Socket(io::Error::other("no luck"));
        assert_eq!(format!("{error:?}"), "the channel to the parent process cannot be used: no luck");
        let handle = Handle::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let error: HandleError = TcpListener::try_from(handle).unwrap_err();
        assert_eq!(format!("{error:?}"), "expected a TCP listener, found a UDP socket");
    }
}
