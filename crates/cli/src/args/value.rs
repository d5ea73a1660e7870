//! Values as people type them: worker counts, durations, addresses with names, variables, readiness.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use everycore::{Policy, WhenFull};

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

/// How many connections at a time.
pub(crate) fn connections(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("with no connection at all nobody is served; leave it out for any number".into()),
        Ok(limit) => Ok(limit),
        Err(_) => Err("write a number of connections, or leave it out for any number".into()),
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
            // A path may contain the sign, and so may an option behind a port; a name contains neither.
            Some((name, address)) if !name.contains([':', '/', '?']) => {
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

/// A class of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassFlag {
    pub(crate) name: String,
    pub(crate) workers: u32,
    pub(crate) policy: Policy,
    pub(crate) when_full: WhenFull,
}

impl FromStr for ClassFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, options) = text.split_once(',').map_or((text, None), |(class, rest)| (class, Some(rest)));
        let (name, workers) = class.split_once('=').ok_or("write NAME=N, as in web=3")?;
        let workers = match workers.parse::<Workers>() {
            Ok(Workers::Count(count)) => u32::try_from(count).map_err(|error| error.to_string())?,
            Ok(Workers::Auto) | Err(_) => {
                return Err(format!("'{workers}' is no number of workers from 1 to {MAX_WORKERS}"));
            }
        };
        let mut flag =
            Self { name: self::name(name)?, workers, policy: Policy::Least, when_full: WhenFull::Wait };
        for option in options.iter().flat_map(|options| options.split(',')) {
            match option.split_once('=') {
                Some(("policy", policy)) => {
                    let policy = policy
                        .parse()
                        .ok()
                        .filter(|policy: &Policy| policy.hands_off() && *policy != Policy::Route);
                    flag.policy = policy.ok_or("the policy of a class is rr, least or sticky")?;
                }
                Some(("full", "wait")) => flag.when_full = WhenFull::Wait,
                Some(("full", "refuse")) => flag.when_full = WhenFull::Refuse,
                Some(("full", full)) => match full.strip_prefix("spill:") {
                    Some(other) => flag.when_full = WhenFull::SpillTo(self::name(other)?),
                    None => return Err("a full class can wait, refuse, or spill:CLASS".into()),
                },
                _ => return Err(format!("'{option}' is not understood; there are policy=.. and full=..")),
            }
        }
        Ok(flag)
    }
}

/// Which connections go to a class; what the rule means is seen later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteFlag {
    pub(crate) rule: String,
    pub(crate) class: String,
}

impl FromStr for RouteFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((rule, class)) if !rule.is_empty() => Ok(Self { rule: rule.into(), class: name(class)? }),
            _ => Err("write RULE=CLASS, as in 10.0.0.0/8=vip".into()),
        }
    }
}

/// An argument for the workers of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassArg {
    pub(crate) class: String,
    pub(crate) arg: String,
}

impl FromStr for ClassArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((class, arg)) => Ok(Self { class: name(class)?, arg: arg.into() }),
            None => Err("write CLASS=ARG, as in vip=--priority".into()),
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

/// After how many connections a worker is replaced, and up to how many more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxRequests {
    pub(crate) least: u64,
    pub(crate) jitter: u64,
}

impl FromStr for MaxRequests {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, jitter) = text.split_once('~').unwrap_or((text, "0"));
        match (least.parse(), jitter.parse()) {
            (Ok(least), Ok(jitter)) if least > 0 => Ok(Self { least, jitter }),
            _ => Err("write a number, and perhaps how many more at most, as in 1000 or 1000~50".into()),
        }
    }
}

/// `512M`, `2G`, `800K`, also with a `B` or `iB` behind; powers of 1024, and a bare number counts bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_end_matches("iB").trim_end_matches('B').to_ascii_uppercase();
    let shift = match unit.as_str() {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    match bytes {
        Some(0) => Err("must be more than 0".into()),
        Some(bytes) => Ok(bytes),
        None => Err("write a size such as 512M or 2G".into()),
    }
}

/// No process is smaller than this: an empty program takes more.
const LEAST_RSS: u64 = 1 << 20;

/// How large a worker may be.
pub(crate) fn resident(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes >= LEAST_RSS {
        return Ok(bytes);
    }
    let hint = match text.parse::<u64>() {
        Ok(number) => format!("; did you mean {number}M?"),
        Err(_) => String::new(),
    };
    Err(format!("no process is smaller than 1 MiB, and a bare number counts bytes{hint}"))
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
    fn classes_and_routes() {
        let class = |text: &str| text.parse::<ClassFlag>();
        let vip = ClassFlag {
            name: "vip".into(),
            workers: 2,
            policy: Policy::Sticky,
            when_full: WhenFull::SpillTo("web".into()),
        };
        assert_eq!(class("vip=2,policy=sticky,full=spill:web"), Ok(vip));
        assert_eq!(class("web=1").map(|class| class.when_full), Ok(WhenFull::Wait));
        for (text, part) in [
            ("web", "NAME=N"),
            ("web=0", "from 1 to 1024"),
            ("web=auto", "from 1 to 1024"),
            ("=1", "cannot be empty"),
            ("web=1,policy=shared", "rr, least or sticky"),
            ("web=1,policy=route", "rr, least or sticky"),
            ("web=1,full=explode", "spill:CLASS"),
            ("web=1,fast", "'fast' is not understood"),
        ] {
            let error = class(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let route = RouteFlag { rule: "port:80,::1".into(), class: "web".into() };
        assert_eq!("port:80,::1=web".parse(), Ok(route));
        assert!("web".parse::<RouteFlag>().is_err() && "=web".parse::<RouteFlag>().is_err());
        assert_eq!("a=b=c".parse(), Ok(ClassArg { class: "a".into(), arg: "b=c".into() }));
        assert!("a".parse::<ClassArg>().is_err());
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
    fn sizes_and_counts() {
        for (text, bytes) in [("512M", 512 << 20), ("2GiB", 2 << 30), ("800kB", 800 << 10), ("7", 7)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "0", "99999999999T", "1X"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(resident("1M"), Ok(1 << 20));
        assert_eq!(resident("1048576"), Ok(1 << 20));
        assert!(resident("10").unwrap_err().ends_with("did you mean 10M?"));
        assert!(resident("512K").unwrap_err().starts_with("no process is smaller than 1 MiB"));
        assert_eq!("1000".parse(), Ok(MaxRequests { least: 1000, jitter: 0 }));
        assert_eq!("1000~50".parse(), Ok(MaxRequests { least: 1000, jitter: 50 }));
        for text in ["0", "~5", "5~", "a", "-1"] {
            assert!(text.parse::<MaxRequests>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bind_may_have_a_name() {
        let bind =
            |name: Option<&str>, address: &str| Bind { name: name.map(Into::into), address: address.into() };
        assert_eq!(":80".parse(), Ok(bind(None, ":80")));
        assert_eq!("web=:80".parse(), Ok(bind(Some("web"), ":80")));
        assert_eq!("8200?backlog=7".parse(), Ok(bind(None, "8200?backlog=7")));
        assert_eq!("web=8200?backlog=7".parse(), Ok(bind(Some("web"), "8200?backlog=7")));
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
