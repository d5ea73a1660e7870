//! Which program holds a port that is taken.
//!
//! Turns "address already in use" into "in use by nginx, pid 812". Reads `/proc` and may find nothing: another user's
//! sockets are not shown to everybody.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A program that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Its process id; the lowest one when several processes share the socket.
    pub pid: u32,
    /// Its name as `ps` shows it, at most 15 bytes.
    pub name: String,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, pid {}", self.name, self.pid)
    }
}

/// Finds a program whose TCP listener keeps us from binding `address`. Takes milliseconds: for error messages.
pub fn port_owner(address: SocketAddr) -> Option<PortOwner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let mut listeners: Vec<Listener> =
        tables.iter().flat_map(|table| table.lines().filter_map(Listener::parse)).collect();
    listeners.retain(|listener| listener.conflicts_with(address));
    listeners.sort_by_key(|listener| listener.address != address);
    listeners.iter().find_map(|listener| holder(listener.inode))
}

/// Finds a program whose Unix socket is bound at `path`, an absolute one or an abstract name with a NUL byte in front.
/// Takes milliseconds: for error messages.
pub fn path_owner(path: &Path) -> Option<PortOwner> {
    let table = fs::read("/proc/net/unix").ok()?;
    // An abstract name is shown with an @ for its NUL byte.
    let mut name = path.as_os_str().as_encoded_bytes().to_vec();
    name.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'@');
    let inodes = table.split(|byte| *byte == b'\n').filter_map(|line| unix_inode(line, &name));
    inodes.filter_map(holder).next()
}

/// The inode in a line of `/proc/net/unix`, if it is of a socket bound under this very name.
fn unix_inode(line: &[u8], name: &[u8]) -> Option<u64> {
    let before = line.strip_suffix(name)?.strip_suffix(b" ")?;
    let mut fields = before.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    std::str::from_utf8(fields.nth(6)?).ok()?.parse().ok().filter(|_| fields.next().is_none())
}

/// A line of `/proc/net/tcp` in state LISTEN.
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

impl Listener {
    fn parse(line: &str) -> Option<Self> {
        const LISTEN: &str = "0A";
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        if fields.nth(1)? != LISTEN {
            return None;
        }
        let inode = fields.nth(5)?.parse().ok()?;
        let (ip, port) = local.split_once(':')?;
        let address = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
        Some(Self { address, inode })
    }

    fn conflicts_with(&self, address: SocketAddr) -> bool {
        let (ours, theirs) = (address.ip(), self.address.ip());
        let same_ip = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        // A wildcard of version 6 usually takes version 4 along; that of version 4 only its own.
        let reaches = ours.is_ipv4() == theirs.is_ipv4()
            || (ours.is_ipv6() && ours.is_unspecified())
            || (theirs.is_ipv6() && theirs.is_unspecified());
        self.address.port() == address.port() && same_ip && reaches
    }
}

/// Groups of eight hexadecimal digits, each a number in this machine's byte order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0u8; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn holder(inode: u64) -> Option<PortOwner> {
    let link = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.filter(|pid| holds(*pid, &link)).min()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(PortOwner { pid, name: name.trim_end().to_owned() })
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(link)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn lines_of_the_kernels_tables_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0000 100";
        let found = Listener::parse(line).unwrap();
        assert_eq!(found, Listener { address: "127.0.0.1:8080".parse().unwrap(), inode: 4711 });
        assert_eq!(Listener::parse(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(Listener::parse("  sl  local_address rem_address   st"), None);
        assert_eq!(parse_ip("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_path_is_found_whole() {
        let line = b"ffff8: 00000002 00000000 00010000 0001 01 24117 /run/my app.sock";
        assert_eq!(unix_inode(line, b"/run/my app.sock"), Some(24_117));
        for other in [&b"app.sock"[..], b"/run/my", b"", b"24117 /run/my app.sock"] {
            assert_eq!(unix_inode(line, other), None, "{other:?}");
        }
    }

    #[test]
    fn who_holds_a_path_is_found() {
        let path = std::env::temp_dir().join(format!("everycore-owner-{}", std::process::id()));
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(path_owner(&path).unwrap().pid, std::process::id());
        fs::remove_file(&path).unwrap();
        assert_eq!(path_owner(Path::new("/no/such.sock")), None);
    }

    #[test]
    fn wildcards_conflict() {
        let conflicts = |held: &str, wanted: &str| {
            Listener { address: held.parse().unwrap(), inode: 0 }.conflicts_with(wanted.parse().unwrap())
        };
        assert!(conflicts("0.0.0.0:80", "127.0.0.1:80"));
        assert!(conflicts("127.0.0.1:80", "0.0.0.0:80"));
        assert!(conflicts("[::]:80", "127.0.0.1:80"));
        assert!(!conflicts("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!conflicts("0.0.0.0:80", "127.0.0.1:81"));
        assert!(!conflicts("0.0.0.0:80", "[::1]:80"));
    }

    #[test]
    fn we_find_ourselves() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = port_owner(listener.local_addr().unwrap()).unwrap();
        assert_eq!(owner.pid, std::process::id());
        assert!(owner.to_string().ends_with(&format!(", pid {}", owner.pid)));
    }
}
