//! Values as people type them: worker counts, durations, addresses with names, variables, readiness.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

/// More workers than this are a slip of the hand: each is a process.
pub(crate) const MAX_WORKERS: usize = 1024;

/// How many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// So many.
    Count(usize),
    /// One per CPU.
    Auto,
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "auto" | "max") {
            return Ok(Self::Auto);
        }
        match text.parse::<u128>() {
            Ok(0) => Err("at least one worker is needed; 'auto' starts one per CPU".into()),
            Ok(count) => match usize::try_from(count) {
                Ok(count) if count <= MAX_WORKERS => Ok(Self::Count(count)),
                _ => Err(format!(
                    "each worker is a process, and more than {MAX_WORKERS} are refused; 'auto' starts one per CPU"
                )),
            },
            Err(_) => Err("write a number of workers, or 'auto' for one per CPU".into()),
        }
    }
}

/// An address to bind, perhaps with a name; what it means is seen later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) name: Option<String>,
    pub(crate) address: String,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            // A path may contain the sign, a name may not.
            Some((name, address)) if !name.contains([':', '/']) => {
                Ok(Self { name: Some(self::name(name)?), address: address.into() })
            }
            _ => Ok(Self { name: None, address: text.into() }),
        }
    }
}

/// A name for a program or a listener: it appears in prefixes, variables and, later, paths.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text {
        "" => Err("a name cannot be empty".into()),
        text if text.len() > 64 => Err("a name has at most 64 bytes".into()),
        text if !text.chars().all(fits) || text.starts_with(['.', '-']) => {
            Err("a name consists of letters, digits, '-', '_' and '.', and starts with none of '-' and '.'"
                .into())
        }
        text => Ok(text.into()),
    }
}

/// A variable for the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: OsString,
    pub(crate) value: OsString,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("", _)) | None => Err("write NAME=VALUE".into()),
            Some((name, value)) => Ok(Self { name: name.into(), value: value.into() }),
        }
    }
}

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Listen,
    Notify,
    Message,
    Online,
    Delay(Duration),
}

impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "listen" => Ok(Self::Listen),
            "notify" => Ok(Self::Notify),
            "message" => Ok(Self::Message),
            "online" => Ok(Self::Online),
            text => match text.strip_prefix("delay:") {
                Some(delay) => duration(delay).map(Self::Delay),
                None => Err("choose listen, notify, message, online or delay:DURATION".into()),
            },
        }
    }
}

/// How many failures within how long end the attempts to fill a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiveUp {
    pub(crate) failures: u32,
    pub(crate) period: Duration,
}

impl FromStr for GiveUp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (failures, period) = text.split_once('/').ok_or("write failures/duration, as in 10/5m")?;
        match failures.parse() {
            Ok(failures) if failures > 0 => Ok(Self { failures, period: positive_duration(period)? }),
            _ => Err(format!("'{failures}' is no number of failures; write as in 10/5m")),
        }
    }
}

/// A duration longer than nothing.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// `500ms`, `8s`, `2m`, `1h`, also with a fraction; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration such as 500ms, 8s, 2m or 1h".to_string();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("longer than 30 days is refused".into()),
    }
}

/// Past this a typed duration is a mistake, and sums of durations stay far from overflow.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_counts() {
        assert_eq!("4".parse(), Ok(Workers::Count(4)));
        assert_eq!("auto".parse(), Ok(Workers::Auto));
        assert_eq!("max".parse(), Ok(Workers::Auto));
        for (text, part) in
            [("0", "at least one"), ("1025", "more than 1024"), ("-1", "number"), ("", "number")]
        {
            assert!(text.parse::<Workers>().unwrap_err().contains(part), "{text}");
        }
        assert!("99999999999999999999999".parse::<Workers>().unwrap_err().contains("more than 1024"));
    }

    #[test]
    fn durations() {
        for (text, ms) in
            [("8s", 8000), ("8", 8000), ("0.5", 500), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1.2.3", "soon", "99999999999h", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(positive_duration("0").is_err());
    }

    #[test]
    fn a_bind_may_have_a_name() {
        let bind =
            |name: Option<&str>, address: &str| Bind { name: name.map(Into::into), address: address.into() };
        assert_eq!(":80".parse(), Ok(bind(None, ":80")));
        assert_eq!("web=:80".parse(), Ok(bind(Some("web"), ":80")));
        assert_eq!("unix:/tmp/a=b".parse(), Ok(bind(None, "unix:/tmp/a=b")));
        assert!("=:80".parse::<Bind>().is_err());
        assert!("a b=:80".parse::<Bind>().is_err());
    }

    #[test]
    fn readiness_and_the_rest() {
        assert_eq!("delay:2s".parse(), Ok(Ready::Delay(Duration::from_secs(2))));
        assert!("soon".parse::<Ready>().unwrap_err().starts_with("choose listen"));
        assert_eq!("3/1m".parse(), Ok(GiveUp { failures: 3, period: Duration::from_secs(60) }));
        assert!("0/1m".parse::<GiveUp>().is_err());
        assert!("3".parse::<GiveUp>().is_err());
        assert_eq!("A=b=c".parse(), Ok(Variable { name: "A".into(), value: "b=c".into() }));
        assert!("A".parse::<Variable>().is_err());
        assert!(name(".x").is_err() && name("a/b").is_err() && name("web-1").is_ok());
    }
}
