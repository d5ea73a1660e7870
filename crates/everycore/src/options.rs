//! What people set on a listening socket besides its address.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

/// Options of a listening socket, for [`Cluster::bind_with`](crate::Cluster::bind_with). What is not set is left to
/// the kernel. In text, as after `?` in an address of the command: `nodelay&backlog=1024`.
///
/// ```
/// use everycore::ListenOptions;
/// let written: ListenOptions = "nodelay&backlog=1024".parse()?;
/// assert_eq!(written, ListenOptions::new().nodelay(true).backlog(1024));
/// # Ok::<(), everycore::ListenOptionsError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    pub(crate) backlog: Option<u32>,
    nodelay: bool,
    keepalive: Option<Duration>,
    defer_accept: Option<Duration>,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl ListenOptions {
    /// None set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections the kernel may queue; 511 unless set, and never more than `net.core.somaxconn`. `backlog=N`.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections);
        self
    }

    /// Small writes go out at once (`TCP_NODELAY`); accepted connections inherit it. `nodelay`.
    #[must_use]
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// Probes a silent connection after this long (`SO_KEEPALIVE`), in whole seconds; accepted connections inherit
    /// it. `keepalive=SECONDS`.
    #[must_use]
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.keepalive = Some(idle);
        self
    }

    /// A connection is accepted only when the client has said something, or after this long (`TCP_DEFER_ACCEPT`).
    /// Its cost: a protocol in which the server speaks first stands still for that time, and so does a health check
    /// that only connects. `defer_accept=SECONDS`.
    #[must_use]
    pub fn defer_accept(mut self, limit: Duration) -> Self {
        self.defer_accept = Some(limit);
        self
    }

    /// The kernel's receive buffer, in bytes; for TCP this also switches its own tuning off. `rcvbuf=BYTES`.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// The kernel's send buffer, in bytes; for TCP this also switches its own tuning off. `sndbuf=BYTES`.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// The permissions of a Unix socket's file, such as `0o660`: who may write to it may connect. What the umask
    /// leaves unless set. `mode=660`.
    #[must_use]
    pub fn mode(mut self, permissions: u32) -> Self {
        self.mode = Some(permissions);
        self
    }

    /// The owner of a Unix socket's file, by number. `owner=UID`.
    #[must_use]
    pub fn owner(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// The group of a Unix socket's file, by number. `group=GID`.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// Sets what is a matter of the socket itself.
    pub(crate) fn apply(&self, socket: &Socket, is_tcp: bool) -> io::Result<()> {
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if !is_tcp {
            return Ok(());
        }
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(idle) = self.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
        if let Some(limit) = self.defer_accept {
            everycore_sys::accept::defer(socket.as_fd(), limit)?;
        }
        Ok(())
    }
}

/// Why a text is no set of options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptionsError {
    option: String,
    /// How it is written, where only its value is wrong.
    usage: Option<&'static str>,
}

/// How an option of this name is written.
fn usage(name: &str) -> Option<&'static str> {
    Some(match name {
        "backlog" => "backlog=N, a number of connections",
        "nodelay" => "nodelay, without a value",
        "keepalive" => "keepalive=SECONDS, from 1",
        "defer_accept" => "defer_accept=SECONDS, from 1",
        "rcvbuf" => "rcvbuf=BYTES",
        "sndbuf" => "sndbuf=BYTES",
        "mode" => "mode=OCTAL, up to 777",
        "owner" => "owner=UID, a number",
        "group" => "group=GID, a number",
        _ => return None,
    })
}

impl fmt::Display for ListenOptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "socket option '{}' is not understood; {}",
            self.option,
            match self.usage {
                Some(usage) => format!("write {usage}"),
                None => "there are backlog=N, nodelay, keepalive=SECONDS, defer_accept=SECONDS, rcvbuf=BYTES, sndbuf=BYTES, mode=OCTAL, owner=UID and group=GID, joined by &".into(),
            }
        )
    }
}

impl std::error::Error for ListenOptionsError {}

impl FromStr for ListenOptions {
    type Err = ListenOptionsError;

    fn from_str(text: &str) -> Result<Self, ListenOptionsError> {
        text.split('&').filter(|option| !option.is_empty()).try_fold(Self::new(), |options, option| {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = || value.parse::<u32>().ok();
            let seconds = || number().filter(|n| *n > 0).map(|n| Duration::from_secs(n.into()));
            let read = match name {
                "backlog" => number().map(|n| options.backlog(n)),
                "nodelay" if value.is_empty() => Some(options.nodelay(true)),
                "keepalive" => seconds().map(|idle| options.keepalive(idle)),
                "defer_accept" => seconds().map(|limit| options.defer_accept(limit)),
                "rcvbuf" => number().map(|n| options.receive_buffer(n as usize)),
                "sndbuf" => number().map(|n| options.send_buffer(n as usize)),
                "mode" => {
                    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777);
                    mode.map(|mode| options.mode(mode))
                }
                "owner" => number().map(|n| options.owner(n)),
                "group" => number().map(|n| options.group(n)),
                _ => None,
            };
            read.ok_or_else(|| ListenOptionsError { option: option.to_owned(), usage: usage(name) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_text() {
        let read = "backlog=9&nodelay&keepalive=30&mode=660&group=7".parse();
        let meant = ListenOptions::new()
            .backlog(9)
            .nodelay(true)
            .keepalive(Duration::from_secs(30))
            .mode(0o660)
            .group(7);
        assert_eq!(read, Ok(meant));
        assert_eq!("".parse(), Ok(ListenOptions::new()));
    }

    #[test]
    fn what_is_no_option_is_named() {
        for text in ["nodely", "backlog=x", "mode=9", "keepalive=0", "nodelay=1", "mode=7777"] {
            let error = format!("backlog=1&{text}").parse::<ListenOptions>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            let is_known = text != "nodely";
            assert_eq!(error.contains("there are"), !is_known, "{error}");
        }
    }
}
