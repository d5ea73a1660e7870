//! Addresses a cluster can listen on, as people write them and as the primary binds them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where to listen.
///
/// A text is read without asking anybody: of host names only `localhost` is known, as `127.0.0.1`.
/// [`lookup`](Self::lookup) is for others.
///
/// ```
/// use everycore::Address;
/// let address: Address = "127.0.0.1:8000".parse()?;
/// assert_eq!(address, Address::Tcp("127.0.0.1:8000".parse().unwrap()));
/// assert_eq!(":8000".parse::<Address>()?, Address::Any { port: 8000 });
/// assert_eq!("unix:/run/app.sock".parse::<Address>()?, Address::Unix("/run/app.sock".into()));
/// assert_eq!("unix:@app".parse::<Address>()?, Address::Unix("\0app".into()));
/// assert_eq!("fd://http".parse::<Address>()?, Address::Inherited("http".into()));
/// # Ok::<(), everycore::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// One IP address and port; port 0 lets the kernel choose, once for all workers. An IPv6 address is bound
    /// for IPv6 alone, `[::]` included: dual stack is [`Address::Any`].
    Tcp(SocketAddr),
    /// Every address of the machine: `[::]` for IPv6 and IPv4 together, or `0.0.0.0` where there is no IPv6.
    Any {
        /// The port; 0 lets the kernel choose.
        port: u16,
    },
    /// A Unix stream socket at this path; a path that begins with a NUL byte is an abstract name, written
    /// `unix:@name`. A path longer than an address can hold is bound by way of its directory.
    Unix(PathBuf),
    /// A UDP socket, which all workers share; they take it with [`Worker::udp`](crate::Worker::udp).
    Udp(SocketAddr),
    /// A socket this process inherited, written `fd://3` or `fd://NAME`: by its number, or by its name in
    /// `LISTEN_FDNAMES`, as a service manager passes it. It already listens, or is a bound UDP socket.
    Inherited(String),
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    why: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is no address to listen on: {}; write IP:PORT, :PORT, [IPV6]:PORT, unix:PATH, udp://IP:PORT or fd://N",
            self.text, self.why
        )
    }
}

impl std::error::Error for AddressError {}

impl AddressError {
    fn new(text: &str, why: impl Into<String>) -> Self {
        Self { text: text.to_owned(), why: why.into() }
    }
}

impl Address {
    /// What a text means that may name a host, `example.org:80`: all its addresses, in the order that the system prefers.
    ///
    /// Waits for the system's resolver, so not for a worker's loop: look names up before, or where waiting is allowed.
    ///
    /// # Errors
    /// The text is no address, or the host is not known.
    pub fn lookup(text: &str) -> Result<Vec<Self>, AddressError> {
        let (host, port) = match Written::read(text)? {
            Written::Address(address) => return Ok(vec![address]),
            Written::Host(host, port) => (host, port),
        };
        let found = (host, port).to_socket_addrs();
        let found = found.map_err(|error| AddressError::new(text, format!("{host}: {error}")))?;
        let mut addresses: Vec<Self> = Vec::new();
        for address in found.map(Self::Tcp) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.is_empty() {
            true => Err(AddressError::new(text, "the host name has no address")),
            false => Ok(addresses),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match Written::read(text)? {
            Written::Address(address) => Ok(address),
            Written::Host(host, _) => Err(AddressError::new(
                text,
                format!("'{host}' is a host name, which nobody is asked for here (Address::lookup does)"),
            )),
        }
    }
}

/// What a text says by itself.
enum Written<'a> {
    Address(Address),
    /// Somebody has to be asked.
    Host(&'a str, u16),
}

impl<'a> Written<'a> {
    fn read(text: &'a str) -> Result<Self, AddressError> {
        Ok(match Self::read_ip(text)? {
            Self::Host("localhost", port) => Self::Address((Ipv4Addr::LOCALHOST, port).into()),
            written => written,
        })
    }

    fn read_ip(text: &'a str) -> Result<Self, AddressError> {
        use Address::{Any, Inherited, Tcp, Udp, Unix};
        let wrong = |why: &str| AddressError::new(text, why);
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix('@') {
                Some("") => Err(wrong("the abstract name is missing")),
                Some(name) => Ok(Self::Address(Unix(format!("\0{name}").into()))),
                None if path.is_empty() => Err(wrong("the path is missing")),
                None => Ok(Self::Address(Unix(path.into()))),
            };
        }
        if let Some(which) = text.strip_prefix("fd://") {
            return if which.is_empty() {
                Err(wrong("the descriptor's number or name is missing"))
            } else {
                Ok(Self::Address(Inherited(which.to_owned())))
            };
        }
        if let Some(address) = text.strip_prefix("udp://") {
            let address = address.parse().map_err(|_| wrong("UDP needs an IP address and a port"))?;
            return Ok(Self::Address(Udp(address)));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(wrong("it is a URL; leave the scheme and the path out"));
        }
        let text_of_address = text.strip_prefix("tcp://").unwrap_or(text);
        if let Ok(address) = text_of_address.parse::<SocketAddr>() {
            return Ok(Self::Address(Tcp(address)));
        }
        let (host, port) = match text_of_address.rsplit_once(':') {
            Some((host, port)) => (host, port),
            // A bare number can only be meant as a port.
            None if text_of_address.bytes().all(|b| b.is_ascii_digit()) => ("", text_of_address),
            None => return Err(wrong("the port is missing")),
        };
        let port: u16 = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
        match host {
            "" | "*" => Ok(Self::Address(Any { port })),
            host if has_port(host) => Err(wrong("it has two ports")),
            host if host.contains(':') => Err(wrong("an IPv6 address needs brackets around it")),
            host => Ok(Self::Host(host, port)),
        }
    }
}

/// Whether a host, what stands before the last colon, has a port of its own; in an IPv6 address are more colons.
fn has_port(host: &str) -> bool {
    let mut parts = host.split(':').skip(1);
    parts.next().is_some_and(|port| port.parse::<u16>().is_ok()) && parts.next().is_none()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Any { port } => write!(f, ":{port}"),
            Self::Unix(path) => write!(f, "unix:{}", readable(path)),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Inherited(which) => write!(f, "fd://{which}"),
        }
    }
}

/// An abstract name with the `@` that tools show for its NUL byte.
fn readable(path: &Path) -> String {
    path.to_string_lossy().replace('\0', "@")
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<(Ipv4Addr, u16)> for Address {
    fn from((ip, port): (Ipv4Addr, u16)) -> Self {
        Self::Tcp((IpAddr::V4(ip), port).into())
    }
}

impl From<(Ipv6Addr, u16)> for Address {
    fn from((ip, port): (Ipv6Addr, u16)) -> Self {
        Self::Tcp((IpAddr::V6(ip), port).into())
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

/// Something that names an address: text, a [`SocketAddr`], or an [`Address`] itself.
pub trait IntoAddress {
    /// The address, or why there is none.
    fn into_address(self) -> Result<Address, AddressError>;
}

impl<T> IntoAddress for T
where
    T: TryInto<Address>,
    AddressError: From<T::Error>,
{
    fn into_address(self) -> Result<Address, AddressError> {
        self.try_into().map_err(AddressError::from)
    }
}

impl From<std::convert::Infallible> for AddressError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Who is at the other end of an accepted connection, or where a listener is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BoundAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A Unix socket path.
    Unix(PathBuf),
    /// The IP address and port of a UDP socket.
    Udp(SocketAddr),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", readable(path)),
            Self::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

impl BoundAddress {
    /// The IP address and port of a TCP socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Udp(_) => None,
        }
    }

    /// The port, unless this is a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_people_write_are_understood() {
        assert_eq!("8000".parse(), Ok(Address::Any { port: 8000 }));
        assert_eq!("*:80".parse(), Ok(Address::Any { port: 80 }));
        assert_eq!("[::1]:80".parse(), Ok(Address::Tcp("[::1]:80".parse().unwrap())));
        assert_eq!("tcp://127.0.0.1:1".parse(), Ok(Address::Tcp("127.0.0.1:1".parse().unwrap())));
        assert_eq!("localhost:9".parse(), Ok(Address::Tcp("127.0.0.1:9".parse().unwrap())));
    }

    #[test]
    fn nobody_is_asked_for_a_host_unless_that_is_wanted() {
        // Not even for names that the system would know without a server.
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let known = hosts.lines().filter_map(|line| line.split('#').next()?.split_whitespace().nth(1));
        for host in known.filter(|host| *host != "localhost").chain(["name.invalid"]) {
            let error = format!("{host}:80").parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("host name") && error.contains("Address::lookup"), "{error}");
        }
        assert_eq!(Address::lookup(":80"), Ok(vec![Address::Any { port: 80 }]));
        assert_eq!(Address::lookup("localhost:80"), Ok(vec![Address::Tcp("127.0.0.1:80".parse().unwrap())]));
        assert!(Address::lookup("unix:").is_err());
        // Too long for any resolver to ask for.
        let endless = "x".repeat(300);
        let error = Address::lookup(&format!("{endless}:80")).unwrap_err().to_string();
        assert!(error.contains(&format!("{endless}: ")), "{error}");
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        for text in ["unix:@app", "unix:/run/app.sock", "udp://[::1]:53", "fd://3", ":80", "[::]:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, part) in [
            ("127.0.0.1", "port is missing"),
            ("127.0.0.1:99999", "0 to 65535"),
            ("::1:80", "brackets"),
            ("fe80::1:80", "brackets"),
            (":8000:99", "two ports"),
            ("localhost:8000:99", "two ports"),
            ("http://localhost:80", "URL"),
            ("https://[::1]:443/x", "URL"),
            ("unix:", "path is missing"),
            ("unix:@", "abstract name is missing"),
            ("fd://", "number or name is missing"),
            ("", "port"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
