//! Requests that make their worker burn CPU.

use std::time::{Duration, Instant};

/// Milliseconds asked for by `/block?ms=50`; none for any other path.
pub(crate) fn asked_for(path_and_query: &str) -> Option<Duration> {
    let millis = path_and_query.strip_prefix("/block?ms=")?;
    millis.parse().ok().map(Duration::from_millis)
}

/// Keeps this thread busy.
pub(crate) fn burn(length: Duration) {
    let began = Instant::now();
    while began.elapsed() < length {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_that_asks_for_it_burns() {
        assert_eq!(asked_for("/"), None);
        assert_eq!(asked_for("/block?ms=50"), Some(Duration::from_millis(50)));
        assert_eq!(asked_for("/block?ms=x"), None);
    }
}
