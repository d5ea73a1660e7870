//! Arguments, environment and CPU count become settings: what was typed wins, then the environment, then the
//! machine.

mod classes;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use everycore::{Address, Dialect, ListenOptions, Policy, RecycleSettings, RestartPolicy, RestartSettings};

use classes::Classes;

use crate::account::Account;
use crate::args::value::{Bind, MAX_WORKERS, Variable, Workers};
use crate::args::{self, Looks, Output, Restart};
use crate::env_file;
use crate::exit::{Code, Failure};
use crate::program::template::Placeholder;
use crate::program::{self, Family, Program, Service, Wishes};

/// What the process finds around it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) web_concurrency: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) sched_policy: Option<String>,
    pub(crate) path: Option<OsString>,
    pub(crate) no_color: bool,
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    pub(crate) cpus: usize,
}

impl Surroundings {
    /// Looks around, once.
    pub(crate) fn look() -> Self {
        // Set to nothing counts as not set.
        let text = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        Self {
            web_concurrency: text("WEB_CONCURRENCY"),
            port: text("PORT"),
            sched_policy: text("NODE_CLUSTER_SCHED_POLICY"),
            path: std::env::var_os("PATH"),
            no_color: text("NO_COLOR").is_some() || text("TERM").is_some_and(|term| term == "dumb"),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            cpus: everycore::auto(),
        }
    }

    pub(crate) fn workers(&self, typed: Option<Workers>) -> Result<usize, Failure> {
        let wish = match (typed, &self.web_concurrency) {
            (Some(typed), _) => typed,
            (None, Some(text)) => text.parse().map_err(|problem| {
                Failure::new(Code::Config, format!("WEB_CONCURRENCY is '{text}': {problem}"))
            })?,
            (None, None) => Workers::Auto,
        };
        Ok(match wish {
            Workers::Count(count) => count,
            Workers::Auto => self.cpus.clamp(1, MAX_WORKERS),
        })
    }

    /// Where none was typed. As Node does: a value it does not know is no policy. Each connection handed to Node costs
    /// it a turn of its event loop; Deno can only be handed connections.
    pub(crate) fn policy(&self, family: Option<Family>) -> Policy {
        match (self.sched_policy.as_deref(), family) {
            (Some("rr"), _) => Policy::RoundRobin,
            (_, Some(Family::Deno)) => Policy::Least,
            (Some("none"), _) | (_, Some(Family::Node)) => Policy::Shared,
            _ => Policy::default(),
        }
    }

    /// The port asked for by `PORT`.
    pub(crate) fn port(&self) -> Result<Option<u16>, Failure> {
        self.port
            .as_ref()
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::new(Code::Config, format!("PORT is '{text}', not a port from 0 to 65535"))
                })
            })
            .transpose()
    }

    pub(crate) fn style(&self, looks: Looks, output: Option<Output>) -> Style {
        let prefix = |terminal: bool| match output {
            Some(output) => output == Output::Prefix,
            None => terminal && !looks.json,
        };
        Style {
            json: looks.json,
            colour: self.stderr_is_terminal && !self.no_color && !looks.no_color,
            live: self.stderr_is_terminal && !looks.json,
            prefix_stdout: prefix(self.stdout_is_terminal),
            prefix_stderr: prefix(self.stderr_is_terminal),
        }
    }
}

/// How things are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) json: bool,
    pub(crate) colour: bool,
    /// A line at the bottom that changes.
    pub(crate) live: bool,
    pub(crate) prefix_stdout: bool,
    pub(crate) prefix_stderr: bool,
}

/// Everything `run` needs to know.
#[derive(Debug)]
pub(crate) struct RunSettings {
    pub(crate) name: String,
    pub(crate) workers: usize,
    pub(crate) policy: Policy,
    /// Told apart only under policy `route`.
    pub(crate) classes: Option<Classes>,
    pub(crate) max_connections: Option<u64>,
    pub(crate) binds: Vec<(String, Address)>,
    /// Their sockets' options, in the same order.
    pub(crate) listen: Vec<ListenOptions>,
    pub(crate) service: Service,
    pub(crate) program: Program,
    /// For workers that ask for `{port}` or `PORT` without an address of ours.
    pub(crate) port: Option<u16>,
    pub(crate) restart: RestartSettings,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) graceful_timeout: Option<Duration>,
    pub(crate) drain_delay: Option<Duration>,
    pub(crate) recycle: RecycleSettings,
    pub(crate) hung_timeout: Option<Duration>,
    /// Node workers load our script first.
    pub(crate) preload: bool,
    pub(crate) account: Account,
    pub(crate) env: Vec<Variable>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) style: Style,
}

impl RunSettings {
    /// `script_of` is the runtime that CMD's first line names, if it is a script.
    pub(crate) fn new(
        mut run: args::Run,
        script_of: Option<Family>,
        around: &Surroundings,
    ) -> Result<Self, Failure> {
        let mut program = Program::new(&run.command)?;
        let classes = Classes::of(&run)?;
        if classes.is_some() {
            run.policy = Some(Policy::Route);
        } else if program.uses(Placeholder::Class) {
            return Err(Failure::usage(
                "CMD asks for {class}, but there are no classes of workers; add --class NAME=N",
            ));
        }
        let takes_fd = program.uses(Placeholder::Fd);
        let family = program.family().or(script_of);
        let mut service =
            Wishes { kind: run.kind, policy: run.policy, ready: run.ready, takes_fd, family }.service()?;
        if service.family == Some(Family::Node) {
            if run.command.len() == 1 && program.family() == Some(Family::Node) {
                return Err(Failure::usage(
                    "node without a file reads its program from standard input, which workers cannot share; type: everycore run -- node server.js",
                ));
            }
            if let Some(argument) = program::eval::missing_argument(&run.command) {
                run.command.push(argument);
                program = Program::new(&run.command)?;
            }
        }
        if run.max_connections.is_some() {
            service.count_connections()?;
            // Who accepts by itself is not counted: it is handed its connections, unless something else was asked for.
            if service.family == Some(Family::Node) && around.sched_policy.as_deref() != Some("none") {
                service.policy = service.policy.or(Some(Policy::Least));
            }
        }
        if service.family == Some(Family::Deno) && program.is_told_to("serve") {
            return Err(Failure::usage(
                "deno serve binds a port that only one worker can have; serve with node:http and type: everycore run -- deno run …",
            ));
        }
        let port = around.port()?;
        let mut binds = named(&run.bind)?;
        if binds.is_empty() && service.needs_bind {
            let port = port.ok_or_else(|| {
                let asks =
                    if takes_fd { "CMD asks for {fd}" } else { "--kind socket needs a socket to inherit" };
                Failure::usage(format!("{asks}, but no address is bound; add -b ADDR, or set PORT"))
            })?;
            binds.push((DEFAULT_LISTENER.into(), Address::Any { port }));
        }
        let has_tcp = binds.iter().any(|(_, address)| !matches!(address, Address::Unix(_)));
        if program.uses(Placeholder::Port) && !has_tcp && port.is_none() {
            return Err(Failure::usage(
                "CMD asks for {port}, but no TCP address is bound; add -b ADDR, or set PORT",
            ));
        }
        let account = Account::find(run.user.as_deref(), run.group.as_deref())?;
        let hands_off = service.policy.unwrap_or_else(|| around.policy(service.family)).hands_off();
        if run.max_requests.is_some() && !hands_off {
            return Err(Failure::usage(
                "--max-requests counts connections that are handed over; here workers accept for themselves: choose --policy rr, least or sticky where the program allows it, or --max-lifetime",
            ));
        }
        let is_watched = !service.needs_bind && (hands_off || service.dialect == Dialect::Everycore);
        if run.timeout.is_some() && !is_watched {
            return Err(Failure::usage(
                "--timeout: nobody sees whether such a worker is silent, since it accepts for itself and does not use the library; leave it out, or choose --policy rr or least where the program allows it",
            ));
        }
        Ok(Self {
            name: run.name.unwrap_or_else(|| program::default_name(&run.command[0])),
            workers: match &classes {
                Some(classes) => classes.workers(),
                None => around.workers(run.workers)?,
            },
            classes,
            max_connections: run.max_connections,
            policy: service.policy.unwrap_or_else(|| around.policy(service.family)),
            binds,
            listen: listen_options(&run.bind)?,
            service,
            program,
            port,
            restart: restart(run.restart, run.give_up),
            start_timeout: run.start_timeout,
            graceful_timeout: run.graceful_timeout,
            drain_delay: run.drain_delay,
            recycle: RecycleSettings {
                connections: run.max_requests.map(|max| max.least),
                connections_jitter: run.max_requests.map_or(0, |max| max.jitter),
                lifetime: run.max_lifetime,
                memory: run.max_rss,
            },
            hung_timeout: run.timeout,
            preload: !run.no_preload,
            env: variables(&account, &run.env_file, run.env)?,
            account,
            cwd: run.cwd,
            style: around.style(run.looks, run.output),
        })
    }
}

/// What an address without a name is called by workers that ask for it.
pub(crate) const DEFAULT_LISTENER: &str = "http";

/// Addresses with their names; the first without one is `http`, the next `http-2`, and so on.
fn named(binds: &[Bind]) -> Result<Vec<(String, Address)>, Failure> {
    let mut named: Vec<(String, Address)> = Vec::new();
    for bind in binds {
        let (address, _) = bind.address.split_once('?').unwrap_or((&bind.address, ""));
        let found = Address::lookup(address).map_err(|error| Failure::usage(format!("-b: {error}")))?;
        let address = match &found[..] {
            [address] => address.clone(),
            several => {
                let several: Vec<String> = several.iter().map(Address::to_string).collect();
                return Err(Failure::usage(format!(
                    "-b: '{address}' has several addresses; write the one that is meant, or each with a -b of its own: {}",
                    several.join(", ")
                )));
            }
        };
        let twice = named.iter().any(|(_, known)| *known == address) && !any_port(&address);
        if twice {
            return Err(Failure::usage(format!("-b: {address} is given twice; leave one of them out")));
        }
        let taken = |name: &str| {
            named.iter().any(|(known, _)| known == name)
                || binds.iter().any(|b| b.name.as_deref() == Some(name))
        };
        let name = match &bind.name {
            Some(name) if named.iter().any(|(known, _)| known == name) => {
                return Err(Failure::usage(format!(
                    "-b: two addresses are named '{name}'; give each its own name"
                )));
            }
            Some(name) => name.clone(),
            None if !taken(DEFAULT_LISTENER) => DEFAULT_LISTENER.into(),
            None => {
                (2..).map(|n| format!("{DEFAULT_LISTENER}-{n}")).find(|name| !taken(name)).unwrap_or_default()
            }
        };
        named.push((name, address));
    }
    Ok(named)
}

/// Whether each time it is bound it is another port.
fn any_port(address: &Address) -> bool {
    match address {
        Address::Tcp(at) | Address::Udp(at) => at.port() == 0,
        Address::Any { port } => *port == 0,
        _ => false,
    }
}

/// What stands after the `?` of each address.
fn listen_options(binds: &[Bind]) -> Result<Vec<ListenOptions>, Failure> {
    let options = binds.iter().map(|bind| bind.address.split_once('?').map_or("", |(_, options)| options));
    options.map(|text| text.parse().map_err(|error| Failure::usage(format!("-b: {error}")))).collect()
}

/// What a login would set, then the files, then what was typed: of one name the last counts.
fn variables(account: &Account, files: &[PathBuf], typed: Vec<Variable>) -> Result<Vec<Variable>, Failure> {
    let login = account.variables.iter();
    let mut variables: Vec<Variable> =
        login.map(|(name, value)| Variable { name: name.into(), value: value.into() }).collect();
    for file in files {
        variables.extend(env_file::read(file)?);
    }
    variables.extend(typed);
    Ok(variables)
}

fn restart(policy: Option<Restart>, give_up: Option<args::value::GiveUp>) -> RestartSettings {
    let mut settings = RestartSettings::default();
    if let Some(policy) = policy {
        settings.policy = match policy {
            Restart::Always => RestartPolicy::Always,
            Restart::OnFailure => RestartPolicy::OnFailure,
            Restart::Never => RestartPolicy::Never,
        };
    }
    if let Some(give_up) = give_up {
        settings.limit = give_up.failures;
        settings.period = give_up.period;
        // Who says how often means it from the start.
        settings.start_limit = give_up.failures;
    }
    settings
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn around() -> Surroundings {
        Surroundings { cpus: 3, ..Surroundings::default() }
    }

    fn settings(words: &[&str], around: &Surroundings) -> Result<RunSettings, Failure> {
        match Args::try_parse_from([&["everycore", "run"], words].concat()).unwrap().command {
            Command::Run(run) => RunSettings::new(run, None, around),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn typed_then_environment_then_machine() {
        let mut around = around();
        assert_eq!(around.workers(None).unwrap(), 3);
        around.web_concurrency = Some("5".into());
        assert_eq!(around.workers(None).unwrap(), 5);
        assert_eq!(around.workers(Some(Workers::Count(2))).unwrap(), 2);
        assert_eq!(around.workers(Some(Workers::Auto)).unwrap(), 3, "typed, so it wins");
        around.web_concurrency = Some("many".into());
        let error = around.workers(None).unwrap_err();
        assert_eq!(error.code, Code::Config);
        assert!(error.chain().starts_with("WEB_CONCURRENCY is 'many'"), "{error}");
    }

    #[test]
    fn nodes_variable_sets_the_policy_unless_one_is_typed() {
        let around = Surroundings { sched_policy: Some("rr".into()), ..around() };
        assert_eq!(settings(&["x"], &around).unwrap().policy, Policy::RoundRobin);
        assert_eq!(settings(&["--policy", "least", "x"], &around).unwrap().policy, Policy::Least);
        assert_eq!(settings(&["-b", ":0", "x", "{fd}"], &around).unwrap().policy, Policy::Shared);
        assert_eq!(settings(&["node", "x"], &around).unwrap().policy, Policy::RoundRobin);
        let around = Surroundings { sched_policy: Some("fair".into()), ..around };
        assert_eq!(settings(&["x"], &around).unwrap().policy, Policy::Least);
        assert_eq!(settings(&["node", "x"], &around).unwrap().policy, Policy::Shared);
        let around = Surroundings { sched_policy: Some("none".into()), ..around };
        assert_eq!(settings(&["x"], &around).unwrap().policy, Policy::Shared);
        assert_eq!(settings(&["deno", "run", "x"], &around).unwrap().policy, Policy::Least);
        assert_eq!(settings(&["bun", "x"], &around).unwrap().policy, Policy::Reuseport);
        assert!(settings(&["deno", "serve", "x"], &around).unwrap_err().chain().contains("deno run"));
    }

    #[test]
    fn classes_bring_their_policy_and_their_number() {
        let around = Surroundings { web_concurrency: Some("9".into()), ..around() };
        let set =
            settings(&["--class", "a=2", "--class", "b=1", "--route", "::1=b", "x", "{class}"], &around);
        let set = set.unwrap();
        assert_eq!((set.policy, set.workers), (Policy::Route, 3));
        assert_eq!(set.classes.unwrap().route().unwrap().workers(), 3);
        assert!(!set.service.inherit, "connections are handed over");
        assert!(settings(&["x", "{class}"], &around).unwrap_err().chain().contains("add --class"));
    }

    #[test]
    fn a_bound_on_connections_means_that_they_are_handed_over() {
        let set = settings(&["--max-connections", "9", "x"], &around()).unwrap();
        assert_eq!((set.max_connections, set.service.inherit), (Some(9), false));
        assert_eq!(
            settings(&["--max-connections", "9", "node", "x"], &around()).unwrap().policy,
            Policy::Least
        );
        let socket = settings(&["-b", ":0", "--max-connections", "9", "x", "{fd}"], &around()).unwrap_err();
        assert!(socket.chain().contains("nobody counts"), "{socket}");
    }

    #[test]
    fn addresses_without_names_are_given_some() {
        let names = |words: &[&str]| {
            settings(words, &around()).map(|s| s.binds.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["-b", ":1", "-b", ":2", "x"]).unwrap(), ["http", "http-2"]);
        assert_eq!(names(&["-b", ":1", "-b", "http=:2", "x"]).unwrap(), ["http-2", "http"]);
        assert!(names(&["-b", "a=:1", "-b", "a=:2", "x"]).is_err());
        let twice = names(&["-b", ":80", "-b", "other=:80", "x"]).unwrap_err().chain();
        assert_eq!(twice, "-b: :80 is given twice; leave one of them out");
        assert!(names(&["-b", ":0", "-b", ":0", "x"]).is_ok());
        let options = |bind| settings(&["-b", bind, "x"], &around()).map(|settings| settings.listen);
        assert_eq!(options(":1?nodelay").unwrap(), [ListenOptions::new().nodelay(true)]);
        assert!(options(":1?nodely").unwrap_err().chain().contains("'nodely'"));
        assert!(names(&["-b", "nonsense", "x"]).unwrap_err().chain().contains("'nonsense'"));
    }

    #[test]
    fn a_program_that_takes_a_socket_needs_an_address() {
        let error = settings(&["x", "{fd}"], &around()).unwrap_err();
        assert_eq!(error.code, Code::Usage);
        let with_port = Surroundings { port: Some("81".into()), ..around() };
        assert_eq!(
            settings(&["x", "{fd}"], &with_port).unwrap().binds,
            [("http".into(), Address::Any { port: 81 })]
        );
        assert!(settings(&["x"], &with_port).unwrap().binds.is_empty(), "the program may listen itself");
        assert!(settings(&["x", "{port}"], &around()).is_err());
        assert!(settings(&["-b", "unix:/x", "x", "{port}"], &around()).is_err());
        let wrong = Surroundings { port: Some("http".into()), ..around() };
        assert_eq!(settings(&["x"], &wrong).unwrap_err().code, Code::Config);
    }

    #[test]
    fn output_is_prefixed_on_a_terminal_only_unless_asked() {
        let looks = Looks { json: false, no_color: false };
        let terminal = Surroundings { stdout_is_terminal: true, stderr_is_terminal: true, ..around() };
        let style = terminal.style(looks, None);
        assert!(style.colour && style.live && style.prefix_stdout && style.prefix_stderr);
        let style = around().style(looks, None);
        assert!(!style.colour && !style.live && !style.prefix_stdout);
        assert!(around().style(looks, Some(Output::Prefix)).prefix_stdout);
        let style = terminal.style(Looks { json: true, no_color: true }, None);
        assert!(!style.colour && !style.live && !style.prefix_stdout);
    }

    #[test]
    fn restarts_are_as_typed() {
        let settings = settings(&["--restart", "never", "--give-up", "3/1m", "x"], &around()).unwrap();
        assert_eq!(settings.restart.policy, RestartPolicy::Never);
        assert_eq!((settings.restart.limit, settings.restart.period), (3, Duration::from_secs(60)));
    }
}
