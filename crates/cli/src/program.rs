//! What kind of program CMD is, and what it is given: sockets, policy, readiness, words and variables.
//!
//! Unless `--kind` says otherwise, the Node family is known by its name; any other program gets both the library's
//! channel and the inherited sockets, and what it does with them decides. `package` finds the program behind `npm start`
//! and its like, `eval` sees code on the command line, `template` has the placeholders, `lookup` finds the file, `half` sees what of it
//! will not run.

pub(crate) mod eval;
pub(crate) mod half;
pub(crate) mod lookup;
pub(crate) mod package;
pub(crate) mod template;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use everycore::{Dialect, Policy, Readiness, Serialization};

use crate::args::Kind;
use crate::args::value::Ready;
use crate::exit::Failure;
use crate::output::spoken;
use template::{Placeholder, Template, Values};

/// Runtimes whose `cluster` module finds its primary in us. Each takes its connections in a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// It asks, and serves what it is handed and what it is given to accept on.
    Node,
    /// Its HTTP servers bind a socket for each worker, and nothing can be handed to it.
    Bun,
    /// It asks, and serves what it is handed.
    Deno,
}

impl Family {
    /// The one that a program's file belongs to, by its name.
    pub(crate) fn of(file: &OsStr) -> Option<Self> {
        match without_version(Path::new(file).file_name()?.to_str()?) {
            "node" | "nodejs" => Some(Self::Node),
            "bun" => Some(Self::Bun),
            "deno" => Some(Self::Deno),
            _ => None,
        }
    }

    /// The policy that was typed, if it can serve.
    fn policy(self, typed: Option<Policy>) -> Result<Option<Policy>, Failure> {
        let refused = |why: &str| {
            let policy = typed.map(|policy| policy.to_string()).unwrap_or_default();
            Err(Failure::usage(format!("--policy {policy} cannot serve {why}")))
        };
        match (self, typed) {
            (Self::Bun, Some(policy)) if policy != Policy::Reuseport => refused(
                "Bun, whose workers each bind a socket of their own, as under reuseport; leave --policy out, or run the program with node",
            ),
            (Self::Bun, _) => Ok(Some(Policy::Reuseport)),
            (Self::Deno, Some(policy)) if !policy.hands_off() => refused(
                "Deno, whose workers do not accept on a socket they are given; choose least, rr or sticky",
            ),
            (Self::Node | Self::Deno, typed) => Ok(typed),
        }
    }
}

/// CMD, ready to be filled in for each worker.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    words: Vec<Template>,
}

impl Program {
    /// Reads CMD's placeholders.
    pub(crate) fn new(words: &[OsString]) -> Result<Self, Failure> {
        let words: Vec<_> = words.iter().map(|word| Template::parse(word)).collect::<Result<_, _>>()?;
        if words.is_empty() {
            return Err(Failure::usage("a program to run is missing; write it after --"));
        }
        Ok(Self { words })
    }

    /// Whether any word asks for this value.
    pub(crate) fn uses(&self, placeholder: Placeholder) -> bool {
        self.words.iter().any(|word| word.uses(placeholder))
    }

    /// The program's file, if it is the same for all workers.
    pub(crate) fn fixed_file(&self) -> Option<OsString> {
        self.words[0].plain()
    }

    /// Which of the Node family its name says it is.
    pub(crate) fn family(&self) -> Option<Family> {
        Family::of(&self.fixed_file()?)
    }

    /// Whether its first argument is this word.
    pub(crate) fn is_told_to(&self, verb: &str) -> bool {
        self.words.get(1).and_then(Template::plain).is_some_and(|word| word == verb)
    }

    /// File and arguments for one worker.
    pub(crate) fn fill(&self, values: &Values<'_>) -> (OsString, Vec<OsString>) {
        let mut words = self.words.iter().map(|word| word.fill(values));
        (words.next().unwrap_or_default(), words.collect())
    }
}

/// `node` of `node20`, `node-20` and `node-20.1`.
fn without_version(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-')
}

/// What was said about how the program is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) kind: Kind,
    /// As typed; the environment only suggests.
    pub(crate) policy: Option<Policy>,
    pub(crate) ready: Option<Ready>,
    /// CMD contains `{fd}`.
    pub(crate) takes_fd: bool,
    /// CMD is one of the Node family.
    pub(crate) family: Option<Family>,
}

/// How the program is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Workers inherit the bound sockets.
    pub(crate) inherit: bool,
    /// Nothing is served unless a socket is bound.
    pub(crate) needs_bind: bool,
    pub(crate) dialect: Dialect,
    pub(crate) family: Option<Family>,
    /// Decided here; else environment and default decide.
    pub(crate) policy: Option<Policy>,
    pub(crate) readiness: Readiness,
}

impl Service {
    /// Both ways are offered: what the program does decides which is taken.
    pub(crate) fn is_open(&self) -> bool {
        self.inherit && self.policy.is_none()
    }

    /// What a worker has not done that is not ready in time.
    pub(crate) fn awaited(&self) -> Option<String> {
        Some(match self.readiness {
            Readiness::Listening => "it does not listen".into(),
            Readiness::Socket => "it uses the library and does not listen".into(),
            Readiness::Notify => "no READY=1 on NOTIFY_SOCKET".into(),
            Readiness::Message => "no 'ready' message".into(),
            Readiness::Online => "it has not joined its channel".into(),
            Readiness::StaysUp(time) => format!("it has not stayed up for {}", spoken(time)),
            _ => return None,
        })
    }

    /// What may be wrong when workers of a program fail that could take a socket in more than one way.
    pub(crate) fn hint(&self, addresses: &[String]) -> Option<String> {
        if !self.is_open() || addresses.is_empty() {
            return None;
        }
        Some(format!(
            "everycore holds {} for its workers, so a program that binds it fails: have it take the socket, by {{fd}} or LISTEN_FDS; Node behind a shell: add --kind node; a program that only binds its own port can share it by SO_REUSEPORT alone: leave -b out",
            addresses.join(" and ")
        ))
    }

    /// Only connections that are handed over are counted: who wants that means a program that can take them.
    pub(crate) fn count_connections(&mut self) -> Result<(), Failure> {
        if self.needs_bind {
            return Err(Failure::usage(
                "--max-connections cannot bound a program that takes an inherited socket: it accepts for itself, and nobody counts; set a limit in the program",
            ));
        }
        self.inherit = false;
        Ok(())
    }
}

impl Wishes {
    /// Fits the wishes together, or says which two do not.
    pub(crate) fn service(self) -> Result<Service, Failure> {
        if let (Kind::Library | Kind::Node, true) = (self.kind, self.takes_fd) {
            let kind = if self.kind == Kind::Node { "node" } else { "library" };
            return Err(Failure::usage(format!(
                "CMD asks for {{fd}}, but --kind {kind} gives it no socket to inherit; leave --kind out, or write {{{{fd}}}} for a plain {{fd}}"
            )));
        }
        let family = match self.kind {
            Kind::Node => Some(self.family.unwrap_or(Family::Node)),
            Kind::Auto => self.family.filter(|_| !self.takes_fd),
            Kind::Library | Kind::Socket => None,
        };
        if let Some(family) = family {
            return Ok(Service {
                inherit: false,
                needs_bind: false,
                dialect: Dialect::Node(Serialization::Json),
                family: Some(family),
                policy: family.policy(self.policy)?,
                readiness: Wishes { kind: Kind::Node, ..self }.readiness(false)?,
            });
        }
        let inherits_for_sure = self.takes_fd || self.kind == Kind::Socket;
        let hand_off = self.policy.filter(|policy| policy.hands_off());
        if let (true, Some(policy)) = (inherits_for_sure, hand_off) {
            return Err(Failure::usage(format!(
                "--policy {policy} cannot serve a program that takes an inherited socket: its workers accept for themselves, as under --policy shared or reuseport; a program that binds a port of its own will be served by --proxy, in a later version"
            )));
        }
        let readiness = self.readiness(inherits_for_sure)?;
        Ok(Service {
            // Who types a policy that hands connections over means a program that can take them.
            inherit: inherits_for_sure || self.kind == Kind::Auto && hand_off.is_none(),
            needs_bind: inherits_for_sure,
            dialect: Dialect::Everycore,
            family: None,
            policy: if inherits_for_sure { self.policy.or(Some(Policy::Shared)) } else { self.policy },
            readiness,
        })
    }

    fn readiness(self, inherits_for_sure: bool) -> Result<Readiness, Failure> {
        let needs_library = |what| {
            Failure::usage(format!(
                "--ready {what} needs a program that uses the library; one that takes an inherited socket can have --ready listen, notify or delay:DURATION"
            ))
        };
        match self.ready {
            None | Some(Ready::Listen) => Ok(match self.kind {
                Kind::Library | Kind::Node => Readiness::Listening,
                // Who says so, or types `{fd}`, means a program that waits on the socket; else it is a guess.
                Kind::Auto | Kind::Socket if inherits_for_sure || self.ready.is_some() => {
                    Readiness::Inherited
                }
                Kind::Auto | Kind::Socket => Readiness::Socket,
            }),
            Some(Ready::Notify) => Ok(Readiness::Notify),
            Some(Ready::Delay(delay)) => Ok(Readiness::StaysUp(delay)),
            Some(Ready::Message) if inherits_for_sure => Err(needs_library("message")),
            Some(Ready::Online) if inherits_for_sure => Err(needs_library("online")),
            Some(Ready::Message) => Ok(Readiness::Message),
            Some(Ready::Online) => Ok(Readiness::Online),
        }
    }
}

/// What the program is called unless a name was typed: its file's name, with what names may not contain replaced.
pub(crate) fn default_name(program: &OsStr) -> String {
    let file = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = file.chars().take(32).map(|c| if fits(c) { c } else { '-' }).collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "app".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WISHES: Wishes =
        Wishes { kind: Kind::Auto, policy: None, ready: None, takes_fd: false, family: None };

    #[test]
    fn unless_told_otherwise_a_program_is_offered_both_ways() {
        let service = WISHES.service().unwrap();
        let expected = Service {
            inherit: true,
            needs_bind: false,
            dialect: Dialect::Everycore,
            family: None,
            policy: None,
            readiness: Readiness::Socket,
        };
        assert_eq!(service, expected);
    }

    #[test]
    fn a_program_that_takes_a_socket_shares_it() {
        for wishes in [Wishes { takes_fd: true, ..WISHES }, Wishes { kind: Kind::Socket, ..WISHES }] {
            let service = wishes.service().unwrap();
            assert_eq!(service.policy, Some(Policy::Shared));
            assert!(service.inherit && service.needs_bind);
            for policy in [Policy::RoundRobin, Policy::Least, Policy::Sticky, Policy::Route] {
                let error = Wishes { policy: Some(policy), ..wishes }.service().unwrap_err();
                assert!(error.chain().contains("--proxy"), "{error}");
            }
            assert!(Wishes { policy: Some(Policy::Shared), ..wishes }.service().is_ok());
            let own = Wishes { policy: Some(Policy::Reuseport), ..wishes }.service().unwrap();
            assert_eq!((own.policy, own.inherit), (Some(Policy::Reuseport), true));
            assert!(Wishes { ready: Some(Ready::Message), ..wishes }.service().is_err());
        }
    }

    #[test]
    fn a_library_program_inherits_nothing() {
        let library = Wishes { kind: Kind::Library, ..WISHES };
        let service = library.service().unwrap();
        assert!(!service.inherit);
        assert_eq!(service.readiness, Readiness::Listening);
        assert!(Wishes { takes_fd: true, ..library }.service().is_err());
        let service = Wishes { policy: Some(Policy::Least), ..WISHES }.service().unwrap();
        assert!(!service.inherit, "a hand-off policy was asked for");
    }

    #[test]
    fn the_node_family_is_known_by_its_name() {
        let family = |word: &str| Program::new(&[word.into(), "server.js".into()]).unwrap().family();
        assert_eq!(family("node"), Some(Family::Node));
        assert_eq!((family("node20"), family("./node-18.2")), (Some(Family::Node), Some(Family::Node)));
        assert_eq!((family("/usr/bin/bun"), family("deno")), (Some(Family::Bun), Some(Family::Deno)));
        assert_eq!((family("node-exporter"), family("python3")), (None, None));
        let node = Wishes { family: Some(Family::Node), ..WISHES };
        let service = node.service().unwrap();
        assert_eq!(service.dialect, Dialect::Node(Serialization::Json));
        assert_eq!((service.inherit, service.readiness), (false, Readiness::Listening));
        assert_eq!(Wishes { kind: Kind::Node, ..WISHES }.service().unwrap(), service);
        assert_eq!(Wishes { takes_fd: true, ..node }.service().unwrap().dialect, Dialect::Everycore);
        assert_eq!(Wishes { kind: Kind::Library, ..node }.service().unwrap().dialect, Dialect::Everycore);
        assert!(Wishes { kind: Kind::Node, takes_fd: true, ..WISHES }.service().is_err());
    }

    #[test]
    fn each_of_the_family_has_the_policies_it_can_serve() {
        let policy = |family, policy| {
            let wishes = Wishes { family: Some(family), policy, ..WISHES };
            wishes.service().map(|service| service.policy).map_err(|refusal| refusal.chain())
        };
        for any in [Policy::RoundRobin, Policy::Least, Policy::Sticky, Policy::Shared, Policy::Reuseport] {
            assert_eq!(policy(Family::Node, Some(any)), Ok(Some(any)));
            assert_eq!(policy(Family::Deno, Some(any)).is_ok(), any.hands_off());
            assert_eq!(policy(Family::Bun, Some(any)).is_ok(), any == Policy::Reuseport);
        }
        assert_eq!(policy(Family::Node, None), Ok(None));
        assert_eq!(policy(Family::Bun, None), Ok(Some(Policy::Reuseport)));
        assert!(policy(Family::Bun, Some(Policy::RoundRobin)).unwrap_err().contains("leave --policy out"));
        assert!(policy(Family::Deno, Some(Policy::Shared)).unwrap_err().contains("choose least"));
    }

    #[test]
    fn readiness_is_what_was_asked_for() {
        let ready = |ready| Wishes { ready: Some(ready), ..WISHES }.service().unwrap().readiness;
        assert_eq!(ready(Ready::Notify), Readiness::Notify);
        assert_eq!(ready(Ready::Message), Readiness::Message);
        assert_eq!(ready(Ready::Delay(Duration::from_secs(1))), Readiness::StaysUp(Duration::from_secs(1)));
    }

    #[test]
    fn names_come_from_files() {
        assert_eq!(default_name(OsStr::new("/usr/bin/python3.11")), "python3.11");
        assert_eq!(default_name(OsStr::new("./my app")), "my-app");
        assert_eq!(default_name(OsStr::new("..")), "app");
        assert_eq!(default_name(OsStr::new("")), "app");
    }
}
