//! Reads one HTTP answer: status, length, whether the connection stays, and the worker's number in the body.

/// What the bytes read so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// More is to come.
    Incomplete,
    /// It is there, to the last byte.
    Complete {
        /// The process id in the body; 0 when the body is no number.
        worker: u32,
        /// The server announced that it will end the connection.
        closes: bool,
    },
    /// Not HTTP, not 200, without a length, or longer than it said.
    Bad,
}

/// Reads an answer from its first byte.
pub(super) fn read(bytes: &[u8]) -> Answer {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        return if b"HTTP/1.1 200".starts_with(&bytes[..bytes.len().min(12)]) {
            Answer::Incomplete
        } else {
            Answer::Bad
        };
    };
    let (head, body) = (&bytes[..head_end], &bytes[head_end + 4..]);
    if !head.starts_with(b"HTTP/1.1 200") {
        return Answer::Bad;
    }
    let (mut length, mut closes) = (None, false);
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = number(value);
        } else if name.eq_ignore_ascii_case(b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    match length {
        Some(length) if body.len() < length as usize => Answer::Incomplete,
        Some(length) if body.len() == length as usize => {
            Answer::Complete { worker: number(body.trim_ascii()).unwrap_or(0), closes }
        }
        Some(_) | None => Answer::Bad,
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n4711\n";

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_not_before() {
        for end in 0..GOOD.len() {
            assert_eq!(read(&GOOD[..end]), Answer::Incomplete, "{end} bytes");
        }
        assert_eq!(read(GOOD), Answer::Complete { worker: 4711, closes: true });
    }

    #[test]
    fn header_names_are_found_in_any_case() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n7\n";
        assert_eq!(read(answer), Answer::Complete { worker: 7, closes: false });
    }

    #[test]
    fn what_is_no_answer_is_bad() {
        for bad in [
            b"SSH-2.0-x\r\n".as_slice(),
            b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12",
        ] {
            assert_eq!(read(bad), Answer::Bad);
        }
    }
}
