//! What people see: everycore's own lines and, where they are captured, the workers'.
//!
//! `narrator` puts events into words and `json` into lines for programs; `lines`, `prefix` and `paint` shape text;
//! `requests` counts what Node programs report; `screen` is the one thread that writes, with a line at the bottom that changes; `capture` reads workers' pipes.
//! Everycore's own words go to standard error: standard output belongs to the workers.

pub(crate) mod capture;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod narrator;
pub(crate) mod prefix;
pub(crate) mod progress;
pub(crate) mod requests;
pub(crate) mod screen;

use std::io::Write;
use std::time::SystemTime;

use crate::exit::Failure;

/// Which of a process's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Prints a failure as the last word of the command, to people or to programs. Nobody reading is no further failure.
pub(crate) fn report(failure: &Failure, json: bool) {
    let line = match json {
        true => json::failed(&failure.chain(), SystemTime::now()),
        false => format!("error: {}", failure.chain()),
    };
    let _ = std::io::stderr().write_all((line + "\n").as_bytes());
}

/// A count with its noun: `1 worker`, `12,345 requests`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration as people say it: `400 ms`, `8 s`, `1.5 s`, `5 min`.
pub(crate) fn spoken(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 if ms % 1000 < 50 => format!("{} s", ms / 1000),
        1000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(1, "worker"), "1 worker");
        assert_eq!(count(0, "worker"), "0 workers");
    }

    #[test]
    fn durations_are_spoken() {
        for (ms, text) in
            [(400, "400 ms"), (8000, "8 s"), (1520, "1.5 s"), (300_000, "5 min"), (61_000, "1 min 1 s")]
        {
            assert_eq!(spoken(Duration::from_millis(ms)), text);
        }
    }
}
