//! Policy `route`: classes of workers, with what they are started with, and how a connection's class is chosen.
//!
//! What is said here is checked once and then taken apart: classes and rules go to the core, arguments and variables to
//! `program`, the function and its first bytes to `selector`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use everycore_core::{Policy, Router, Rule, WhenFull};

use crate::error::{Error, Result};

/// The most bytes that may be looked at before a class is chosen.
const MAX_PEEK: usize = 4096;

/// The longest that a client may take to send them.
const MAX_PEEK_TIME: Duration = Duration::from_secs(60);

/// Classes of workers, and which connections go to which: for [`Cluster::route`](crate::Cluster::route).
///
/// A connection goes to the class that the [function](Self::choose) names, if there is one and it names one; else to the
/// class of the first [rule](Self::rule) that matches, else to the first class. It is served by a worker of that class or,
/// where the class spills, of the one it spills to; by no other. Where nobody of its class is left and none will come (its
/// slots have been given up), it is closed, and counted as refused.
///
/// ```
/// use everycore::{Class, Cluster, Policy, Route, WhenFull};
///
/// let route = Route::new()
///     .class(Class::new("normal", 3))
///     .class(Class::new("special", 1).policy(Policy::RoundRobin).when_full(WhenFull::Refuse).arg("--special"))
///     .rule("10.0.0.0/8", "special")?
///     .rule("listener:admin", "special")?;
/// let cluster = Cluster::builder().bind("http", ":8000")?.bind("admin", "127.0.0.1:9000")?.route(route);
/// # Ok::<(), everycore::Error>(())
/// ```
#[derive(Default)]
pub struct Route {
    classes: Vec<Class>,
    rules: Vec<(Rule, String)>,
    choose: Option<Choose>,
    peek: Option<Peek>,
}

/// A class of workers: how many, who of them gets the next connection, and what they are started with.
#[derive(Clone, Debug)]
pub struct Class {
    core: everycore_core::Class,
    launch: Launch,
}

/// What the workers of a class are given besides what all get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// The function that chooses a class.
pub(crate) type Choose = Box<dyn FnMut(&Opening<'_>) -> Routing + Send>;

/// How much the function is shown of what a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peek {
    pub(crate) bytes: usize,
    pub(crate) within: Duration,
}

/// What is known of a connection when its class is chosen.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Opening<'a> {
    /// Where it comes from; nothing on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The name of the listener it came to; empty for one that a worker asked for by its address.
    pub listener: &'a str,
    /// The address it came to; nothing on a Unix socket.
    pub local: Option<SocketAddr>,
    /// What the client has said so far, as far as it may be [looked at](Route::peek). The worker reads it again.
    pub first_bytes: &'a [u8],
    /// There will be no more bytes to see, for whatever reason: [`Routing::More`] would be in vain.
    pub is_last: bool,
}

/// What a function says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// It goes to the class of this name.
    To(Cow<'static, str>),
    /// The rules decide.
    ByRules,
    /// Ask again when the client has said more. Where there is no more to see, the rules decide.
    More,
}

impl From<&'static str> for Routing {
    fn from(class: &'static str) -> Self {
        Routing::To(class.into())
    }
}

impl From<String> for Routing {
    fn from(class: String) -> Self {
        Routing::To(class.into())
    }
}

impl<T: Into<Routing>> From<Option<T>> for Routing {
    fn from(class: Option<T>) -> Self {
        class.map_or(Routing::ByRules, Into::into)
    }
}

impl Class {
    /// So many workers, under policy `least`; a full class waits.
    pub fn new(name: impl Into<String>, workers: u32) -> Self {
        Self { core: everycore_core::Class::new(name, workers), launch: Launch::default() }
    }

    /// Who of the class gets a connection: [`Policy::RoundRobin`], [`Policy::Least`] or [`Policy::Sticky`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.core = self.core.policy(policy);
        self
    }

    /// What becomes of a connection when nobody of the class is free.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.core = self.core.when_full(when_full);
        self
    }

    /// One more argument for workers of the class, after those that all get.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.launch.args.push(arg.into());
        self
    }

    /// Sets a variable in the environment of the class's workers. `EVERYCORE_CLASS`, with the class's name, they have
    /// anyhow.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.launch.env.push((name.into(), value.into()));
        self
    }
}

impl Route {
    /// Without classes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a class. Classes take their slots in the order in which they are added; slots that come by
    /// [scaling](crate::Primary::scale) belong to the last one.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.classes.push(class);
        self
    }

    /// Sends connections to a class. A rule is a source network (`10.0.0.0/8`, `::1`), `listener:NAME`, `port:N` (where
    /// the client connected to), or several of these with commas between them: then all must hold.
    ///
    /// # Errors
    /// The text is no rule. Whether there is such a class, and such a listener, shows in
    /// [`run`](crate::Cluster::run).
    pub fn rule(mut self, rule: &str, class: impl Into<String>) -> Result<Self> {
        let rule = rule.parse().map_err(|error| Error::Setting(format!("route: {error}")))?;
        self.rules.push((rule, class.into()));
        Ok(self)
    }

    /// Asks a function first. It runs for each connection, on the primary's thread: keep it short, and never wait in it.
    /// It may return the name of a class, an `Option` of one, or a [`Routing`]. A name that is no class's is warned of,
    /// and the rules decide.
    ///
    /// ```
    /// use everycore::{Class, Route};
    /// let route = Route::new().class(Class::new("even", 1)).class(Class::new("odd", 1)).choose(|opening| {
    ///     opening.peer.map(|peer| if peer.port() % 2 == 0 { "even" } else { "odd" })
    /// });
    /// ```
    #[must_use]
    pub fn choose<R: Into<Routing>>(
        mut self,
        mut choose: impl FnMut(&Opening<'_>) -> R + Send + 'static,
    ) -> Self {
        self.choose = Some(Box::new(move |opening| choose(opening).into()));
        self
    }

    /// Shows the function what the client says first: at most so many bytes, for which the client has so long. Nothing is
    /// taken away, the worker reads them again.
    ///
    /// The function is asked when there is something to see, again each time that there is more as long as it says
    /// [`Routing::More`], and a last time when all of it has come, the client has ended its side, or the time is over:
    /// then with whatever has come, perhaps nothing. So a client that says nothing costs no more than its place until
    /// then. A listener has 1,024 places for connections that wait or are looked at; with all of them taken it accepts no
    /// more. [`defer_accept`](crate::ListenOptions::defer_accept) lets the kernel do part of the waiting.
    #[must_use]
    pub fn peek(mut self, bytes: usize, within: Duration) -> Self {
        self.peek = Some(Peek { bytes, within });
        self
    }

    /// Workers of all classes together.
    pub fn workers(&self) -> u32 {
        self.classes.iter().map(|class| class.core.workers()).fold(0, u32::saturating_add)
    }

    /// Takes it apart; an error says what does not fit. `listeners` are the names of those that are bound.
    pub(crate) fn plan(self, listeners: &[&str]) -> Result<Plan> {
        let setting = |problem: String| Error::Setting(format!("route: {problem}"));
        for name in self.rules.iter().filter_map(|(rule, _)| rule.listener()) {
            if !listeners.contains(&name) {
                let there = match listeners {
                    [] => "none is; bind it first".to_owned(),
                    names => format!("there are {}", names.join(", ")),
                };
                return Err(setting(format!("no listener is bound under the name {name:?}; {there}")));
            }
        }
        match self.peek {
            Some(_) if self.choose.is_none() => {
                return Err(setting("peek shows the first bytes to a function; add it with choose".into()));
            }
            Some(Peek { bytes, .. }) if !(1..=MAX_PEEK).contains(&bytes) => {
                return Err(setting(format!("peek can show 1 to {MAX_PEEK} bytes, not {bytes}")));
            }
            Some(Peek { within, .. }) if within.is_zero() || within > MAX_PEEK_TIME => {
                return Err(setting(format!("peek can wait up to {MAX_PEEK_TIME:?}, not {within:?}")));
            }
            Some(_) | None => {}
        }
        let classes = self.classes.iter().map(|class| class.core.clone());
        let route = classes.fold(everycore_core::Route::new(), everycore_core::Route::class);
        let route = self.rules.into_iter().fold(route, |route, (rule, class)| route.rule(rule, class));
        let router = Router::new(route).map_err(|error| setting(error.to_string()))?;
        let launches =
            self.classes.into_iter().map(|class| (class.core.name().to_owned(), class.launch)).collect();
        Ok(Plan { router, launches, choose: self.choose, peek: self.peek })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("classes", &self.classes)
            .field("rules", &self.rules)
            .field("peek", &self.peek)
            .finish_non_exhaustive()
    }
}

/// A [`Route`] whose parts fit together.
pub(crate) struct Plan {
    pub(crate) router: Router,
    /// By the name of the class.
    pub(crate) launches: BTreeMap<String, Launch>,
    pub(crate) choose: Option<Choose>,
    pub(crate) peek: Option<Peek>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Route {
        Route::new().class(Class::new("one", 2)).class(Class::new("two", 1))
    }

    fn refused(route: Route, listeners: &[&str]) -> String {
        route.plan(listeners).err().expect("it does not fit").to_string()
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let admin = || classes().rule("listener:admin", "two").unwrap();
        assert!(refused(admin(), &[]).contains("bind it first"));
        assert!(refused(admin(), &["http", "ops"]).contains("there are http, ops"));
        assert!(admin().plan(&["admin"]).is_ok());
        let second = Duration::from_secs(1);
        assert!(refused(classes().peek(1, second), &[]).contains("add it with choose"));
        let chosen = || classes().choose(|_| "one");
        assert!(refused(chosen().peek(0, second), &[]).contains("1 to 4096 bytes, not 0"));
        assert!(refused(chosen().peek(5000, second), &[]).contains("not 5000"));
        assert!(refused(chosen().peek(1, Duration::ZERO), &[]).contains("up to 60s"));
        assert!(refused(classes().rule("::1", "three").unwrap(), &[]).contains("there are one, two"));
        assert!(refused(Route::new(), &[]).contains("none is named"));
        assert!(classes().rule("::1/200", "two").unwrap_err().to_string().contains("::1/200"));
    }

    #[test]
    fn a_function_may_return_what_is_handy() {
        assert_eq!(Routing::from("one"), Routing::To("one".into()));
        assert_eq!(Routing::from(Some(String::from("one"))), Routing::To("one".into()));
        assert_eq!(Routing::from(None::<&'static str>), Routing::ByRules);
    }
}
