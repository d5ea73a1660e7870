//! Bytes from a worker become lines, and the last ones are kept. Pure.

use std::collections::VecDeque;

/// Longer lines are broken: one worker must not make everybody wait for its newline.
const MAX_LINE: usize = 8 * 1024;

/// Lines kept of each worker for reports of failure.
const KEPT: usize = 20;

/// Bytes shown of a kept line.
const MAX_KEPT_LINE: usize = 400;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes the next bytes; calls `line` for each line they complete, without its newline.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.partial.extend_from_slice(&window[..end]);
                    bytes = &bytes[end + 1..];
                    self.end(&mut line);
                }
                None => {
                    self.partial.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.partial.len() == MAX_LINE {
                        self.end(&mut line);
                    }
                }
            }
        }
    }

    /// The stream is over: what has no newline is a line too.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            self.end(&mut line);
        }
    }

    fn end(&mut self, line: &mut impl FnMut(&[u8])) {
        let text = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        line(text);
        self.partial.clear();
    }
}

/// A worker's last lines.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    pub(crate) fn push(&mut self, line: &[u8]) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        let shown = &line[..line.len().min(MAX_KEPT_LINE)];
        self.lines.push_back(String::from_utf8_lossy(shown).into_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_do_not_care_how_the_bytes_arrive() {
        let expected: Vec<&[u8]> = vec![b"one", b"", b"two", b"rest"];
        assert_eq!(split(&[b"one\n\ntwo\r\nrest"]), expected);
        assert_eq!(split(&[b"o", b"ne", b"\n", b"\ntwo\r", b"\nre", b"st"]), expected);
        assert!(split(&[b"", b""]).is_empty());
    }

    #[test]
    fn endless_lines_are_broken() {
        let lines = split(&[&[b'x'; MAX_LINE + 1], b"\n"]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE, 1]);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut tail = Tail::default();
        for number in 0..KEPT + 5 {
            tail.push(number.to_string().as_bytes());
        }
        assert_eq!(tail.lines().len(), KEPT);
        assert_eq!(tail.lines()[0], "5");
        tail.push(&[0xff; 1000]);
        assert!(tail.lines().last().unwrap().len() <= MAX_KEPT_LINE * 3);
    }
}
