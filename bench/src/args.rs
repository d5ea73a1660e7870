//! What was typed.

use std::net::SocketAddrV4;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::load::{Burn, Length, Pace, Plan, Reuse};
use crate::rows::{Document, Row};
use crate::servers::Server;
use crate::tools::Missing;

/// What `--help` says.
pub(crate) const HELP: &str = "\
Everycore side by side with Node, nginx and others.

usage: cargo run --release -p everycore-bench -- [ROW…] [options]
       … -- report                     write docs/performance.md and docs/scale.md from the last run of each row
       … -- policies [--help]          shares under each policy; addresses that sticky moves
       … -- gate                       system calls per connection against what CI allows; needs strace
       … -- load ADDRESS [options]     the load generator alone

rows: short keepalive syscalls fairness tail tail-fast kills reloads starts memory messages bulk; all of them without any
      scale-workers scale-listeners scale-connections scale-messages flat instructions; all of them with `scale`

  --minutes M       how long all of it may take (20): as many rounds of each row as fit, at least 3
  --rounds N        rounds of a row at most (7)
  --seconds S       length of one measurement (1)
  --workers N       workers of every server (2)
  --only A,B        only these servers; ratios to a server that is left out show as –
  --smoke           one short round, counts scaled down, results not kept: does everything run?
  --scale F         this many times as many kills, restarts and counted connections (1)
  --seed N          order of rounds and choice of burning requests (by the clock)
  --no-install      leave out peers that are missing instead of running bench/peers/setup
  --document        write the documents afterwards

load: --connections N (64) or --rate R; --keep or --careful; --burn SHARE:MS; --seconds S; --requests N; --warm-up S";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Rows(Vec<Row>),
    Report,
    Gate,
    Load,
}

/// Everything that was typed, with defaults for what was not.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    pub(crate) rounds: usize,
    /// How long all rows together may take.
    pub(crate) budget: Duration,
    pub(crate) window: Duration,
    pub(crate) workers: usize,
    pub(crate) only: Vec<Server>,
    pub(crate) scale: f64,
    pub(crate) seed: u64,
    pub(crate) missing: Missing,
    /// Write the document.
    pub(crate) document: bool,
    /// Keep results for the document.
    pub(crate) keep: bool,
    /// For `load`.
    pub(crate) plan: Option<Plan>,
}

impl Args {
    /// Reads the command line, without the program's name.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(crate) fn parse(typed: &[String]) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut args = Self {
            command: Command::Rows(Vec::new()),
            rounds: 7,
            budget: Duration::from_secs(20 * 60),
            window: Duration::from_secs(1),
            workers: 2,
            only: Vec::new(),
            scale: 1.0,
            seed: now.as_secs(),
            missing: Missing::Install,
            document: false,
            keep: true,
            plan: None,
        };
        let mut words = Words(typed.iter());
        let (mut rows, mut target, mut load) = (Vec::new(), None, LoadArgs::default());
        while let Some(word) = words.next() {
            match word {
                "-h" | "--help" | "help" => args.command = Command::Help,
                "report" => args.command = Command::Report,
                "gate" => args.command = Command::Gate,
                "load" => {
                    args.command = Command::Load;
                    target = Some(words.value::<SocketAddrV4>("load")?);
                }
                "--rounds" => args.rounds = words.value::<usize>(word)?.max(1),
                "--minutes" => args.budget = words.seconds(word)? * 60,
                "--seconds" => args.window = words.seconds(word)?,
                "--workers" => args.workers = words.value::<usize>(word)?.max(1),
                "--only" => args.only = servers(&words.value::<String>(word)?)?,
                "--scale" => args.scale = words.value::<f64>(word)?.clamp(0.001, 1000.0),
                "scale" => rows.extend(Row::of(Document::Scale)),
                "--seed" => args.seed = words.value(word)?,
                "--no-install" => args.missing = Missing::LeaveOut,
                "--document" => args.document = true,
                "--smoke" => {
                    (args.rounds, args.window, args.scale) = (1, Duration::from_millis(300), 0.03);
                    args.keep = false;
                }
                _ if load.take(word, &mut words)? => {}
                other => rows.push(Row::named(other).ok_or_else(|| unknown(other))?),
            }
        }
        match &mut args.command {
            Command::Rows(chosen) => {
                *chosen = if rows.is_empty() { Row::of(Document::Performance).collect() } else { rows };
            }
            Command::Load => args.plan = target.map(|target| load.plan(target, args.window, args.seed)),
            Command::Help | Command::Report | Command::Gate => {}
        }
        Ok(args)
    }
}

/// What the load generator alone is told.
struct LoadArgs {
    pace: Pace,
    reuse: Reuse,
    burn: Option<Burn>,
    warm_up: Duration,
    requests: Option<u64>,
}

impl Default for LoadArgs {
    fn default() -> Self {
        Self {
            pace: Pace::Closed(64),
            reuse: Reuse::Short,
            burn: None,
            warm_up: Duration::ZERO,
            requests: None,
        }
    }
}

impl LoadArgs {
    /// Whether the word was one of these.
    fn take(&mut self, word: &str, words: &mut Words<'_>) -> Result<bool, String> {
        match word {
            "--connections" => self.pace = Pace::Closed(words.value::<usize>(word)?.max(1)),
            "--rate" => self.pace = Pace::Open(words.value::<f64>(word)?.max(0.001)),
            "--keep" => self.reuse = Reuse::KeepAlive,
            "--careful" => self.reuse = Reuse::Careful,
            "--burn" => {
                let text = words.value::<String>(word)?;
                let parts = text
                    .split_once(':')
                    .and_then(|(share, millis)| Some((share.parse().ok()?, millis.parse().ok()?)));
                let (share, millis) = parts
                    .ok_or_else(|| format!("--burn {text}: give a share and milliseconds, as 0.01:50"))?;
                self.burn = Some(Burn { share, millis });
            }
            "--warm-up" => self.warm_up = words.seconds(word)?,
            "--requests" => self.requests = Some(words.value(word)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn plan(&self, target: SocketAddrV4, window: Duration, seed: u64) -> Plan {
        Plan {
            target,
            hosts: 1,
            pace: self.pace,
            reuse: self.reuse,
            burn: self.burn,
            warm_up: self.warm_up,
            length: self.requests.map_or(Length::Time(window), Length::Requests),
            timeout: Duration::from_secs(5),
            seed,
        }
    }
}

struct Words<'t>(std::slice::Iter<'t, String>);

impl<'t> Words<'t> {
    fn next(&mut self) -> Option<&'t str> {
        self.0.next().map(String::as_str)
    }

    fn value<T: std::str::FromStr>(&mut self, option: &str) -> Result<T, String> {
        let word = self.next().ok_or_else(|| format!("{option}: a value is missing"))?;
        word.parse().map_err(|_| format!("{option} {word}: not a value it can take"))
    }

    fn seconds(&mut self, option: &str) -> Result<Duration, String> {
        let seconds = self.value::<f64>(option)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| format!("{option} {seconds}: not a length of time"))
    }
}

fn servers(names: &str) -> Result<Vec<Server>, String> {
    let known = || Server::all().into_iter().map(Server::name).collect::<Vec<_>>().join(" ");
    let find =
        |name: &str| Server::named(name).ok_or_else(|| format!("no server '{name}'; there are {}", known()));
    names.split(',').map(find).collect()
}

fn unknown(word: &str) -> String {
    format!("no row '{word}'; there are {}, and --help", Row::ALL.map(Row::name).join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(&line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_row_all_are_measured() {
        let all = |document| Command::Rows(Row::of(document).collect());
        assert_eq!(parse("").unwrap().command, all(Document::Performance));
        assert_eq!(parse("scale").unwrap().command, all(Document::Scale));
        assert_eq!(
            parse("tail --rounds 3 short").unwrap().command,
            Command::Rows(vec![Row::Tail, Row::Short])
        );
    }

    #[test]
    fn smoke_keeps_nothing() {
        let args = parse("--smoke").unwrap();
        assert!(!args.keep && args.rounds == 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, problem) in [
            ("fast", "no row 'fast'"),
            ("--rounds", "--rounds: a value is missing"),
            ("--rounds x", "--rounds x: not a value it can take"),
            ("--seconds -1", "--seconds -1: not a length of time"),
            ("--only nginx,iis", "no server 'iis'"),
            ("load 1.2.3.4:80 --burn 1", "--burn 1: give a share"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.starts_with(problem), "{line}: {error}");
        }
    }

    #[test]
    fn the_generator_alone_takes_a_plan() {
        let plan = parse("load 127.0.0.1:80 --rate 500 --burn 0.01:50 --seconds 0.5").unwrap().plan.unwrap();
        assert_eq!((plan.pace, plan.burn), (Pace::Open(500.0), Some(Burn { share: 0.01, millis: 50 })));
        assert_eq!(plan.length, Length::Time(Duration::from_millis(500)));
    }
}
