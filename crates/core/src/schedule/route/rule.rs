//! Which connections a rule means.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::Network;

/// What is known of a connection before it has a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// Where it comes from; nothing on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The name of the listener it came to; empty for one that a worker asked for by its address.
    pub listener: &'a str,
    /// The address it came to; nothing on a Unix socket.
    pub local: Option<SocketAddr>,
}

/// Which connections go to a class: all its conditions must hold. In text, one condition or several with commas between
/// them: `10.0.0.0/8` (or `from:10.0.0.0/8`), `listener:admin`, `port:8443`.
///
/// ```
/// use everycore_core::{Inbound, Rule};
///
/// let rule: Rule = "10.0.0.0/8,port:8443".parse()?;
/// let inbound = |peer: &str, local: &str| Inbound {
///     peer: Some(peer.parse().unwrap()),
///     local: Some(local.parse().unwrap()),
///     listener: "https",
/// };
/// assert!(rule.matches(&inbound("10.1.2.3:40000", "192.0.2.1:8443")));
/// assert!(!rule.matches(&inbound("10.1.2.3:40000", "192.0.2.1:8080")));
/// # Ok::<(), everycore_core::RuleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    from: Option<Network>,
    listener: Option<String>,
    port: Option<u16>,
}

impl Rule {
    /// Whether every condition holds. A connection without addresses meets none that is about addresses.
    pub fn matches(&self, inbound: &Inbound<'_>) -> bool {
        let from =
            self.from.is_none_or(|network| inbound.peer.is_some_and(|peer| network.contains(peer.ip())));
        let listener = self.listener.as_deref().is_none_or(|name| name == inbound.listener);
        let port = self.port.is_none_or(|port| inbound.local.is_some_and(|local| local.port() == port));
        from && listener && port
    }

    /// The listener it is about, if it is about one.
    pub fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = |condition: &str| RuleError { condition: condition.to_owned() };
        let mut rule = Rule { from: None, listener: None, port: None };
        for condition in text.split(',') {
            let taken =
                if let Some(name) = condition.strip_prefix("listener:").filter(|name| !name.is_empty()) {
                    rule.listener.replace(name.to_owned()).is_some()
                } else if let Some(port) = condition.strip_prefix("port:") {
                    rule.port.replace(port.parse().map_err(|_| wrong(condition))?).is_some()
                } else {
                    let network = condition.strip_prefix("from:").unwrap_or(condition);
                    rule.from.replace(network.parse().map_err(|_| wrong(condition))?).is_some()
                };
            if taken {
                return Err(wrong(condition));
            }
        }
        Ok(rule)
    }
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The condition that is none, or is there twice.
    pub condition: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no condition of a rule, or the second of its kind; write a source network such as 10.0.0.0/8, listener:NAME or port:N, with commas between them",
            self.condition
        )
    }
}

impl std::error::Error for RuleError {}
