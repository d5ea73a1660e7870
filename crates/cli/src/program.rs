//! What kind of program CMD is, and what it is given: sockets, policy, readiness, words and variables.
//!
//! Unless `--kind` says otherwise, the Node family is known by its name; any other program gets both the library's
//! channel and the inherited sockets, and what it does with them decides. `package` finds the program behind `npm start`
//! and its like, `template` has the placeholders, `lookup` finds the file, `half` sees what of it will not run.

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
use template::{Placeholder, Template, Values};

/// Programs whose `cluster` module finds its primary in us.
pub(crate) const NODE_FAMILY: [&str; 4] = ["node", "nodejs", "bun", "deno"];

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

    /// Whether its name is one of the Node family's.
    pub(crate) fn is_node(&self) -> bool {
        let file = self.fixed_file().unwrap_or_default();
        let name = Path::new(&file).file_name().and_then(OsStr::to_str).unwrap_or_default();
        NODE_FAMILY.contains(&without_version(name))
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
    pub(crate) is_node: bool,
}

/// How the program is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Workers inherit the bound sockets.
    pub(crate) inherit: bool,
    /// Nothing is served unless a socket is bound.
    pub(crate) needs_bind: bool,
    pub(crate) dialect: Dialect,
    /// Decided here; else environment and default decide.
    pub(crate) policy: Option<Policy>,
    pub(crate) readiness: Readiness,
}

impl Service {
    /// Both ways are offered: what the program does decides which is taken.
    pub(crate) fn is_open(&self) -> bool {
        self.inherit && self.policy.is_none()
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
        if self.kind == Kind::Node || self.kind == Kind::Auto && self.is_node && !self.takes_fd {
            return Ok(Service {
                inherit: false,
                needs_bind: false,
                dialect: Dialect::Node(Serialization::Json),
                policy: self.policy,
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
        Wishes { kind: Kind::Auto, policy: None, ready: None, takes_fd: false, is_node: false };

    #[test]
    fn unless_told_otherwise_a_program_is_offered_both_ways() {
        let service = WISHES.service().unwrap();
        let expected = Service {
            inherit: true,
            needs_bind: false,
            dialect: Dialect::Everycore,
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
        let program = |word: &str| Program::new(&[word.into(), "server.js".into()]).unwrap();
        assert!(program("node").is_node() && program("/usr/bin/bun").is_node());
        assert!(program("node20").is_node() && program("./node-18.2").is_node());
        assert!(!program("node-exporter").is_node() && !program("python3").is_node());
        for policy in [Policy::Reuseport, Policy::Route, Policy::Sticky, Policy::Shared] {
            let service = Wishes { is_node: true, policy: Some(policy), ..WISHES }.service().unwrap();
            assert_eq!((service.policy, service.inherit), (Some(policy), false));
        }
        let node = Wishes { is_node: true, ..WISHES };
        let service = node.service().unwrap();
        assert_eq!(service.dialect, Dialect::Node(Serialization::Json));
        assert_eq!((service.inherit, service.readiness), (false, Readiness::Listening));
        assert_eq!(Wishes { kind: Kind::Node, ..WISHES }.service().unwrap(), service);
        assert_eq!(Wishes { takes_fd: true, ..node }.service().unwrap().dialect, Dialect::Everycore);
        assert_eq!(Wishes { kind: Kind::Library, ..node }.service().unwrap().dialect, Dialect::Everycore);
        assert!(Wishes { kind: Kind::Node, takes_fd: true, ..WISHES }.service().is_err());
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
