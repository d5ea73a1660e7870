//! What was typed: flags and words, checked one by one. No look-ups and no defaults from the machine; those are
//! `config`'s.

pub(crate) mod value;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Flags, Parser, Subcommand, ValueEnum};
use everycore::Policy;

use value::{Bind, ClassArg, ClassFlag, GiveUp, MaxRequests, Ready, RouteFlag, Variable, Workers};

/// One port, every core, any program.
#[derive(Debug, Parser)]
#[command(name = "everycore", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  everycore demo
  everycore run -- node server.js
  everycore run -b :8000 -w 4 -- uvicorn app:app --fd {fd}
  everycore run --help")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Whether programs read along.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            Command::Run(run) => run.looks.json,
            Command::Demo(demo) => demo.looks.json,
            Command::Start { .. } => false,
        }
    }
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one per process, and it is taken apart at once")]
pub(crate) enum Command {
    Run(Run),
    Demo(Demo),
    /// What users of other process managers type first.
    #[command(hide = true, disable_help_flag = true)]
    Start {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Run a program as worker processes behind one port
#[derive(Debug, Flags)]
#[command(override_usage = "everycore run [OPTIONS] -- CMD…")]
#[command(after_help = "\
Stays in the foreground; fit to be a container's first process. Its own lines go to standard error.

Signals:
  TERM INT QUIT   stop: finish what is being served; a second one: TERM for the workers now, and KILL
                  2 s later; a third: KILL now
  HUP             reload: each new worker is ready before its predecessor leaves
  TTIN TTOU       one worker more; one fewer, as long as one is left
  WINCH           without a terminal: no workers, the ports stay open; HUP brings the workers back
  USR1 USR2       kept for later versions: a warning, and nothing else

Placeholders in CMD: {index} {id} {port} {fd} {generation} {class}; {{fd}} stands for a plain {fd}

Examples:
  everycore run -- ./server
  everycore run -- node server.js
  everycore run -b :8000 -w 4 -- uvicorn app:app --fd {fd}
  everycore run -b http=:8000 -b admin=127.0.0.1:9000 --ready notify -- ./server
  everycore run --class web=3 --class vip=1,full=spill:web --route 10.0.0.0/8=vip -- ./server

Policy:     least; shared for Node and for programs that take an inherited socket; reuseport for Bun.
            NODE_CLUSTER_SCHED_POLICY (rr, none) is heard. With --class: route
Giving up:  a place after 10 failures within 5 minutes; where no worker was ever ready, all of them once
            each has failed 6 times in a row, within 10 s of its start (some 6 s in all). A program that
            waits for its database should wait itself; --give-up N/DURATION replaces both
Ready:      a program without {fd} counts as ready once it has stayed up for 1 s, unless it is seen to serve
            before: a guess, and where it starts slowly one that can be false; --ready notify is sure
Silent:     a worker that uses the library, when its event loop does not turn; any worker that connections
            are handed to, when it leaves one untaken. Others cannot be seen, and --timeout is refused
            or, where that shows only later, has no effect

Exit codes:
  0    stopped as ordered, or all workers are done (--restart on-failure, never)
  1    every place was given up, an address is taken, or everycore itself failed
  2    usage: flags that are wrong or do not go together
  77   not permitted: a low port, --user, or the workers' directory
  78   bad configuration: an environment variable or --env-file
  126  CMD is there and cannot be executed: its mode, its directory, its #! line
  127  CMD not found")]
pub(crate) struct Run {
    /// How many workers, or 'auto': one per CPU [default: WEB_CONCURRENCY, or auto]
    #[arg(short, long, short_alias = 'i', value_name = "N|auto", allow_hyphen_values = true)]
    pub(crate) workers: Option<Workers>,

    /// Bind first: HOST:PORT, :PORT, PORT, unix:PATH, fd://N, perhaps ?backlog=N; repeatable
    #[arg(short, long, value_name = "[NAME=]ADDR")]
    pub(crate) bind: Vec<Bind>,

    /// What to call the program [default: its file name]
    #[arg(short, long, value_parser = value::name)]
    pub(crate) name: Option<String>,

    /// Who gets a connection: rr, least, sticky, route, shared or reuseport [default: see below]
    #[arg(long)]
    pub(crate) policy: Option<Policy>,

    /// A class of workers, for policy route; full= is wait, refuse or spill:CLASS; repeatable
    #[arg(long, value_name = "NAME=N[,policy=..][,full=..]")]
    pub(crate) class: Vec<ClassFlag>,

    /// Send connections to a class: NETWORK, listener:NAME, port:N, or several with commas
    #[arg(long, value_name = "RULE=CLASS")]
    pub(crate) route: Vec<RouteFlag>,

    /// One more argument for the workers of a class; repeatable
    #[arg(long, value_name = "CLASS=ARG")]
    pub(crate) class_arg: Vec<ClassArg>,

    /// Connections a worker may hold at a time; further ones wait, under rr, least and sticky [default: any number]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::connections)]
    pub(crate) max_connections: Option<u64>,

    /// How the program gets its connections: auto, library, socket or node [default: auto]
    #[arg(long, value_enum, default_value_t, hide_default_value = true, hide_possible_values = true)]
    pub(crate) kind: Kind,

    /// What makes a worker ready: listen, notify, message, online or delay:DURATION [default: listen]
    #[arg(long, value_name = "WHAT")]
    pub(crate) ready: Option<Ready>,

    /// How long a worker may take to become ready [default: 60s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(crate) start_timeout: Option<Duration>,

    /// How long a leaving worker may finish what it has [default: 8s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(crate) graceful_timeout: Option<Duration>,

    /// On a stop serve on for this long before draining, for load balancers [default: 0s]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::duration)]
    pub(crate) drain_delay: Option<Duration>,

    /// Replace a worker after N connections, or up to J more [default: never]
    #[arg(long, value_name = "N[~J]", allow_hyphen_values = true)]
    pub(crate) max_requests: Option<MaxRequests>,

    /// Replace a worker after this time, less up to a quarter [default: never]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(crate) max_lifetime: Option<Duration>,

    /// Replace a worker of this size, as in 512M, or up to a tenth less; at least 1M [default: never]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = value::resident)]
    pub(crate) max_rss: Option<u64>,

    /// Kill a worker that is silent, as said below, for this long [default: never]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(crate) timeout: Option<Duration>,

    /// When a worker that ended is replaced: always, on-failure or never [default: always]
    #[arg(long, value_enum, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) restart: Option<Restart>,

    /// Give a worker's place up after N failures within a time [default: 10/5m, or see below]
    #[arg(long, value_name = "N/DURATION", allow_hyphen_values = true)]
    pub(crate) give_up: Option<GiveUp>,

    /// Node workers do not load our script, which lets clients of a leaving worker know
    #[arg(long)]
    pub(crate) no_preload: bool,

    /// Set a variable in the workers' environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Variable>,

    /// Set variables from a file, read once, one NAME=VALUE in a line; repeatable, and --env wins
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// The user workers run as, by name or number; the command itself stays what it is
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,

    /// The group workers run as [default: that of --user]
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,

    /// The workers' working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,

    /// What becomes of the workers' output: prefix or inherit [default: prefix on a terminal]
    #[arg(long, value_enum, value_name = "HOW", hide_possible_values = true)]
    pub(crate) output: Option<Output>,

    #[command(flatten)]
    pub(crate) looks: Looks,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Serve a built-in HTTP worker on every core
#[derive(Debug, Flags)]
#[command(override_usage = "everycore demo [OPTIONS]")]
#[command(after_help = "\
Examples:
  everycore demo
  everycore demo -w 4 -b 127.0.0.1:9000 --policy shared")]
pub(crate) struct Demo {
    /// Where to listen [default: 127.0.0.1:8000, or the next free port]
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) bind: Option<String>,

    /// How many workers, or 'auto': one per CPU [default: WEB_CONCURRENCY, or auto]
    #[arg(short, long, short_alias = 'i', value_name = "N|auto", allow_hyphen_values = true)]
    pub(crate) workers: Option<Workers>,

    /// Who gets a connection: rr, least, sticky, shared or reuseport [default: least]
    #[arg(long)]
    pub(crate) policy: Option<Policy>,

    #[command(flatten)]
    pub(crate) looks: Looks,
}

/// How things are shown.
#[derive(Clone, Copy, Debug, Flags)]
pub(crate) struct Looks {
    /// Print events as lines of JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// No colours, also without NO_COLOR
    #[arg(long)]
    pub(crate) no_color: bool,
}

/// How a program gets its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Offer both and see what the program does
    #[default]
    Auto,
    /// It uses the everycore library
    Library,
    /// It takes an inherited socket: {fd} or LISTEN_FDS
    Socket,
    /// It is Node's cluster: node, bun, deno
    Node,
}

/// When a worker that ended is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    /// However it ended
    Always,
    /// After a failure
    OnFailure,
    /// Never
    Never,
}

/// What becomes of the workers' output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Each line with the worker's name in front
    Prefix,
    /// Unchanged, straight from the worker
    Inherit,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(words: &[&str]) -> Run {
        match Args::try_parse_from([&["everycore", "run"], words].concat()).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_fit_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_may_follow_with_or_without_dashes() {
        for words in [&["-w", "2", "--", "node", "-w", "x"][..], &["-w", "2", "node", "-w", "x"]] {
            let run = run(words);
            assert_eq!(run.workers, Some(Workers::Count(2)));
            assert_eq!(run.command, ["node", "-w", "x"]);
        }
    }

    #[test]
    fn binds_may_be_repeated_and_named() {
        let run = run(&["-b", ":80", "--bind", "admin=127.0.0.1:9", "-i", "max", "--", "x"]);
        assert_eq!(run.workers, Some(Workers::Auto));
        assert_eq!(run.bind[0], Bind { name: None, address: ":80".into() });
        assert_eq!(run.bind[1], Bind { name: Some("admin".into()), address: "127.0.0.1:9".into() });
    }

    #[test]
    fn a_policy_has_its_names() {
        assert_eq!(run(&["--policy", "none", "x"]).policy, Some(Policy::Shared));
        assert!(Args::try_parse_from(["everycore", "run", "--policy", "fair", "x"]).is_err());
    }

    #[test]
    fn values_that_cannot_be_are_named_also_when_they_look_like_flags() {
        for (flag, value) in [
            ("-w", "-1"),
            ("--start-timeout", "-5s"),
            ("--max-connections", "0"),
            ("--max-connections", "x"),
            ("--max-rss", "-1M"),
            ("--give-up", "-1/5m"),
        ] {
            let error = Args::try_parse_from(["everycore", "run", flag, value, "x"]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("error: invalid value '{value}' for ")), "{error}");
            assert!(!error.contains("u64") && !error.contains(".."), "{error}");
        }
    }

    #[test]
    fn a_class_may_be_repeated_and_its_argument_may_look_like_a_flag() {
        let run = run(&["--class", "a=1", "--class", "b=2,full=refuse", "--class-arg", "b=--fast", "x"]);
        assert_eq!(run.class.iter().map(|class| class.workers).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(run.class_arg[0], ClassArg { class: "b".into(), arg: "--fast".into() });
    }
}
