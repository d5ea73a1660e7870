//! Binds what the cluster listens on, and explains why when it cannot.
//!
//! Sockets made here are non-blocking and close-on-exec. They belong to the primary: a worker gets a duplicate or
//! single connections, so the port stays open whatever becomes of the workers.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use self::lock::PathLock;
use crate::address::{Address, BoundAddress};
use crate::error::Error;
use crate::options::ListenOptions;

/// Connections the kernel queues where nobody says otherwise; Node's default. The kernel caps it at
/// `net.core.somaxconn`.
pub(crate) const BACKLOG: u32 = 511;

/// What a socket is to be like besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Connections the kernel queues; [`BACKLOG`] unless set.
    pub(crate) backlog: Option<u32>,
    /// IPv4 too, for an IPv6 address.
    pub(crate) dual_stack: bool,
    /// Share a UDP port with sockets that allow it too.
    pub(crate) reuse_address: bool,
    /// Who else may read from and write to a Unix socket: everybody, where set.
    pub(crate) readable_all: bool,
    /// See `readable_all`.
    pub(crate) writable_all: bool,
    /// Nobody has the time to find out who has an address that is taken, among all processes of the machine.
    pub(crate) hurried: bool,
    /// What people set.
    pub(crate) listen: ListenOptions,
}

impl From<ListenOptions> for Options {
    fn from(listen: ListenOptions) -> Self {
        Self { backlog: listen.backlog, listen, ..Self::default() }
    }
}

impl Options {
    fn with_backlog(&self) -> ListenOptions {
        let mut options = self.listen.clone();
        options.backlog = self.backlog;
        options
    }
}

/// A listening socket, and where it is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The file to remove when the socket is given up: before that is closed, so that nobody finds it stale meanwhile.
    pub(crate) _file: Option<SocketFile>,
    pub(crate) socket: OwnedFd,
    pub(crate) address: BoundAddress,
    /// What others like it are to have as well.
    pub(crate) options: ListenOptions,
    /// Bound here, not inherited: nobody else goes on with it.
    pub(crate) is_ours: bool,
}

/// A Unix socket's file; removed on drop, unless another socket took its place meanwhile.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = PathLock::take(&self.path);
        if self.identity == identity(&self.path) {
            // Gone already is as good as removed, and nobody is left to tell about anything else.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What a file is, whatever its name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Binds and listens.
pub(crate) fn listen(address: &Address, options: &Options) -> Result<Bound, Error> {
    let stack = if options.dual_stack { Stack::Dual } else { Stack::Single };
    let bound = match address {
        Address::Tcp(at) => listen_tcp(*at, stack, options),
        Address::Any { port } => listen_any(*port, options),
        Address::Unix(path) => listen_unix(path, options),
        Address::Udp(at) => bind_udp(*at, stack, options),
        Address::Inherited(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "only the primary inherits sockets; bind it there",
        )),
    };
    bound.map_err(|error| explain(address, error, options.hurried))
}

/// Reads what a service manager has passed, while that can be done.
pub(crate) fn look_for_inherited() -> Result<(), Error> {
    inherited::look().map_err(|source| Error::System { doing: "taking inherited sockets", source })
}

/// What was inherited under this number or name: one socket, or several of one name. They stay what they are; only
/// the options that a listening socket can still be given are set.
pub(crate) fn adopt(which: &str, options: &Options) -> Result<Vec<Bound>, Error> {
    let wrong = |error| explain(&Address::Inherited(which.to_owned()), error, false);
    let sockets = inherited::take(which).map_err(wrong)?;
    sockets.into_iter().map(|socket| adopted(socket, options).map_err(wrong)).collect()
}

fn adopted(socket: OwnedFd, options: &Options) -> io::Result<Bound> {
    let socket = Socket::from(socket);
    let is_stream = socket.r#type()? == Type::STREAM;
    if is_stream && !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the inherited socket does not listen"));
    }
    let at = socket.local_addr()?;
    let address = match (at.as_socket(), is_stream) {
        (Some(at), true) => BoundAddress::Tcp(at),
        (Some(at), false) if socket.r#type()? == Type::DGRAM => BoundAddress::Udp(at),
        (None, true) if socket.domain()? == Domain::UNIX => BoundAddress::Unix(unix_name(&at)),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the inherited socket is of no known kind",
            ));
        }
    };
    socket.set_nonblocking(true)?;
    options.listen.apply(&socket, matches!(address, BoundAddress::Tcp(_)))?;
    if let (Some(backlog), true) = (options.backlog, is_stream) {
        socket.listen(length(Some(backlog)))?;
    }
    // Its file is whoever bound it to remove.
    Ok(Bound { socket: socket.into(), address, options: options.with_backlog(), is_ours: false, _file: None })
}

/// The path of a Unix socket; of an abstract one its name with the NUL byte in front.
fn unix_name(at: &SockAddr) -> PathBuf {
    match at.as_abstract_namespace() {
        Some(name) => std::ffi::OsStr::from_bytes(&[&[0], name].concat()).into(),
        None => at.as_pathname().map(Path::to_owned).unwrap_or_default(),
    }
}

pub(crate) fn length(backlog: Option<u32>) -> i32 {
    i32::try_from(backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX)
}

#[derive(Clone, Copy)]
enum Stack {
    Single,
    Dual,
}

fn listen_any(port: u16, options: &Options) -> io::Result<Bound> {
    match listen_tcp((Ipv6Addr::UNSPECIFIED, port).into(), Stack::Dual, options) {
        // A kernel without IPv6, or with it switched off.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc_errno::EAFNOSUPPORT | libc_errno::EADDRNOTAVAIL)) =>
        {
            listen_tcp((Ipv4Addr::UNSPECIFIED, port).into(), Stack::Single, options)
        }
        other => other,
    }
}

fn listen_tcp(at: SocketAddr, stack: Stack, options: &Options) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A port whose last connections linger in TIME_WAIT is free to be listened on.
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(matches!(stack, Stack::Single))?;
    }
    options.listen.apply(&socket, true)?;
    socket.bind(&at.into())?;
    socket.listen(length(options.backlog))?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Bound {
        socket: socket.into(),
        address: BoundAddress::Tcp(address),
        options: options.with_backlog(),
        is_ours: true,
        _file: None,
    })
}

fn bind_udp(at: SocketAddr, stack: Stack, options: &Options) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(options.reuse_address)?;
    options.listen.apply(&socket, false)?;
    if at.is_ipv6() {
        socket.set_only_v6(matches!(stack, Stack::Single))?;
    }
    socket.bind(&at.into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Bound {
        socket: socket.into(),
        address: BoundAddress::Udp(address),
        options: options.with_backlog(),
        is_ours: true,
        _file: None,
    })
}

fn listen_unix(path: &Path, options: &Options) -> io::Result<Bound> {
    let is_abstract = path.as_os_str().as_encoded_bytes().first() == Some(&0);
    // Removed by this name at the end, wherever this process may be by then.
    let path = &if is_abstract { path.to_owned() } else { std::path::absolute(path)? };
    let (address, _directory) = unix_address(path)?;
    let lock = (!is_abstract).then(|| PathLock::take(path));
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    options.listen.apply(&socket, false)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || is_abstract {
            return Err(error);
        }
        if !is_socket(path) {
            // The kernel refuses a connection to any file as to a socket nobody listens on: this one is not ours.
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket"));
        }
        if !is_stale(path) {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    let file = (!is_abstract).then(|| SocketFile::new(path.clone()));
    // Before it listens: until then nobody gets in, whatever the mode it was made with.
    let admitted = if is_abstract { Ok(()) } else { admit(path, options) };
    let listens = admitted.and_then(|()| socket.listen(length(options.backlog)));
    // The file is removed under the lock, too, if this went wrong.
    drop(lock);
    listens?;
    Ok(Bound {
        socket: socket.into(),
        address: BoundAddress::Unix(path.clone()),
        options: options.with_backlog(),
        is_ours: true,
        _file: file,
    })
}

/// Who may connect: on Linux, whoever may write to the file.
fn admit(path: &Path, options: &Options) -> io::Result<()> {
    let ListenOptions { owner, group, .. } = options.listen;
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::chown(path, owner, group)?;
    }
    let more = if options.readable_all { 0o444 } else { 0 } | if options.writable_all { 0o222 } else { 0 };
    if options.listen.mode.is_some() || more != 0 {
        let mut mode = std::fs::metadata(path)?.permissions();
        mode.set_mode(options.listen.mode.unwrap_or_else(|| mode.mode()) | more);
        std::fs::set_permissions(path, mode)?;
    }
    Ok(())
}

/// Bytes of a path that fit into an address, without the NUL at its end.
const SUN_PATH: usize = 107;

/// The address of a path; one longer than an address can hold is named by way of its open directory, which has to
/// stay open until the address was used.
fn unix_address(path: &Path) -> io::Result<(SockAddr, Option<File>)> {
    match (SockAddr::unix(path), path.parent(), path.file_name()) {
        (Err(_), Some(directory), Some(name)) if path.is_absolute() => {
            let directory = File::open(directory)?;
            let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            // The directory's other name and the slash take their part.
            let most = SUN_PATH - (short.as_os_str().len() - name.len());
            let too_long = |_| too_long("the path's last part", name.len(), most);
            Ok((SockAddr::unix(short).map_err(too_long)?, Some(directory)))
        }
        (address, ..) => {
            let too_long = |_| too_long("its name", path.as_os_str().len(), SUN_PATH);
            Ok((address.map_err(too_long)?, None))
        }
    }
}

fn too_long(what: &str, bytes: usize, most: usize) -> io::Error {
    let message = format!("{what} has {bytes} bytes, and at most {most} fit; choose a shorter one");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Whether this very name is a socket, not what a link points to.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// A socket file nobody holds any more: its owner was killed before it could remove it. Asked with a socket of another
/// type, which the kernel connects to none that is alive, so that no owner sees a connection.
fn is_stale(path: &Path) -> bool {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None);
    let connected = socket.and_then(|socket| socket.connect(&unix_address(path)?.0));
    matches!(connected, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn explain(address: &Address, source: io::Error, hurried: bool) -> Error {
    let message = match source.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = if hurried { None } else { owner(address) };
            let owner = owner.map(|owner| format!(" (by {owner})")).unwrap_or_default();
            format!("bind {address}: address already in use{owner}; choose another or stop its owner")
        }
        io::ErrorKind::PermissionDenied => match address {
            Address::Unix(path) => {
                format!("bind {address}: not permitted; the directory of {} must be writable", path.display())
            }
            _ => format!("bind {address}: not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE"),
        },
        io::ErrorKind::AddrNotAvailable => {
            format!("bind {address}: this machine has no such address")
        }
        io::ErrorKind::AlreadyExists => {
            format!("bind {address}: there is a file that is not a socket; choose another path, or remove it")
        }
        io::ErrorKind::NotFound if matches!(address, Address::Unix(_)) => {
            format!("bind {address}: its directory does not exist; create it, or choose another path")
        }
        _ => format!("bind {address}: {source}"),
    };
    Error::Bind { address: address.clone(), source, message }
}

fn owner(address: &Address) -> Option<String> {
    if let Address::Unix(path) = address {
        let is_abstract = path.as_os_str().as_encoded_bytes().first() == Some(&0);
        let path = if is_abstract { path.clone() } else { std::path::absolute(path).ok()? };
        return everycore_sys::port_owner::path_owner(&path).map(|owner| owner.to_string());
    }
    let at = match address {
        Address::Tcp(at) => *at,
        Address::Any { port } => (Ipv6Addr::UNSPECIFIED, *port).into(),
        Address::Unix(_) | Address::Udp(_) | Address::Inherited(_) => return None,
    };
    everycore_sys::port_owner::port_owner(at).map(|owner| owner.to_string())
}

mod inherited;
mod lock;

/// The two error numbers `std` has no kind for.
mod libc_errno {
    pub(super) const EAFNOSUPPORT: i32 = 97;
    pub(super) const EADDRNOTAVAIL: i32 = 99;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> Address {
        Address::Tcp("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn port_zero_gives_a_real_port() {
        let bound = listen(&any_port(), &Options::default()).unwrap();
        assert_ne!(bound.address.tcp().unwrap().port(), 0);
    }

    #[test]
    fn a_taken_port_names_its_owner() {
        let first = listen(&any_port(), &Options::default()).unwrap();
        let taken = Address::Tcp(first.address.tcp().unwrap());
        let error = listen(&taken, &Options::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("already in use"), "{text}");
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    }

    #[test]
    fn any_accepts_both_families() {
        let bound = listen(&Address::Any { port: 0 }, &Options::default()).unwrap();
        let port = bound.address.tcp().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("everycore-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = listen(&Address::Unix(path.clone()), &Options::default()).unwrap();
        assert!(
            listen(&Address::Unix(path.clone()), &Options::default())
                .unwrap_err()
                .to_string()
                .contains("already in use")
        );
        drop(bound);
        assert!(!path.exists());
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn who_holds_a_path_is_named_and_sees_no_connection() {
        let dir = std::env::temp_dir().join(format!("everycore-held-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.sock");
        let held = std::os::unix::net::UnixListener::bind(&path).unwrap();
        held.set_nonblocking(true).unwrap();
        let error = listen(&Address::Unix(path), &Options::default()).unwrap_err().to_string();
        assert!(error.contains(&format!(", pid {})", std::process::id())), "{error}");
        assert_eq!(held.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn of_two_that_find_a_stale_file_one_binds_and_stays() {
        let dir = std::env::temp_dir().join(format!("everycore-race-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.sock");
        let start = std::sync::Barrier::new(2);
        for round in 0..500 {
            if round % 2 == 0 {
                // Else whoever is first finds nothing, and for a moment is bound without listening.
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            let bind = || {
                start.wait();
                listen(&Address::Unix(path.clone()), &Options::default())
            };
            let mut bound = std::thread::scope(|scope| {
                [scope.spawn(bind), scope.spawn(bind)].map(|thread| thread.join().unwrap())
            });
            assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1, "{round}: {bound:?}");
            bound.sort_by_key(Result::is_err);
            let [Ok(ours), Err(error)] = &bound else { unreachable!("one of each") };
            assert!(error.to_string().contains("already in use"), "{round}: {error}");
            let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            assert!(everycore_sys::accept::accept(&ours.socket).unwrap().is_some(), "{round}: it is ours");
            drop(bound);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{round}: nothing stays behind");
        }
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn one_that_is_given_up_while_another_waits_for_its_place_takes_nothing_away() {
        let dir = std::env::temp_dir().join(format!("everycore-heir-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.sock");
        let start = std::sync::Barrier::new(2);
        for round in 0..500 {
            let old = listen(&Address::Unix(path.clone()), &Options::default()).unwrap();
            let heir = std::thread::scope(|scope| {
                let heir = scope.spawn(|| {
                    start.wait();
                    loop {
                        match listen(&Address::Unix(path.clone()), &Options::default()) {
                            Ok(bound) => break bound,
                            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
                        }
                    }
                });
                start.wait();
                drop(old);
                heir.join().unwrap()
            });
            assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "{round}: its file is there");
            drop(heir);
        }
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_stays_as_it_is() {
        let dir = std::env::temp_dir().join(format!("everycore-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, link) = (dir.join("precious"), dir.join("link"));
        std::fs::write(&file, "data").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &dir] {
            let error = listen(&Address::Unix(path.clone()), &Options::default()).unwrap_err().to_string();
            assert!(error.ends_with("not a socket; choose another path, or remove it"), "{error}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let lost = Address::Unix(dir.join("none").join("app.sock"));
        let error = listen(&lost, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("its directory does not exist"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_path_too_long_for_an_address_is_bound_all_the_same() {
        let dir = std::env::temp_dir().join(format!("everycore-{}-{}", std::process::id(), "d".repeat(100)));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("app.sock");
        for _ in 0..2 {
            // The second time it finds a stale file.
            let mut bound = listen(&Address::Unix(path.clone()), &Options::default()).unwrap();
            assert_eq!(bound.address, BoundAddress::Unix(path.clone()));
            assert!(path.exists());
            std::mem::forget(bound._file.take());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_name_too_long_for_an_address_is_refused_with_how_long_it_may_be() {
        let path = std::env::temp_dir().join("s".repeat(120));
        let error = listen(&Address::Unix(path), &Options::default()).unwrap_err().to_string();
        assert!(error.contains("the path's last part has 120 bytes, and at most "), "{error}");
        let name = Path::new("\0").join("a".repeat(120));
        let error = listen(&Address::Unix(name), &Options::default()).unwrap_err().to_string();
        assert!(error.contains("and at most 107 fit"), "{error}");
    }

    #[test]
    fn accepted_connections_inherit_what_was_set() {
        let set: ListenOptions = "backlog=9&nodelay&keepalive=30&rcvbuf=8192&sndbuf=8192".parse().unwrap();
        let bound = listen(&any_port(), &Options::from(set)).unwrap();
        let _client = std::net::TcpStream::connect(bound.address.tcp().unwrap()).unwrap();
        let accepted = everycore_sys::accept::accept(&bound.socket).unwrap().unwrap();
        let socket = socket2::SockRef::from(&accepted.socket);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), std::time::Duration::from_secs(30));
        // The kernel doubles what it is asked for.
        assert_eq!(
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()),
            (16_384, 16_384)
        );
    }

    #[test]
    fn with_deferred_accept_who_speaks_first_is_first() {
        use std::io::Write;
        let set: ListenOptions = "defer_accept=30".parse().unwrap();
        let bound = listen(&any_port(), &Options::from(set)).unwrap();
        let at = bound.address.tcp().unwrap();
        let _silent = std::net::TcpStream::connect(at).unwrap();
        let mut loud = std::net::TcpStream::connect(at).unwrap();
        loud.write_all(b"hello").unwrap();
        let accepted = everycore_sys::accept::accept(&bound.socket).unwrap().unwrap();
        assert_eq!(accepted.peer, Some(loud.local_addr().unwrap()));
        assert!(
            everycore_sys::accept::accept(&bound.socket).unwrap().is_none(),
            "the other one has not spoken"
        );
    }

    #[test]
    fn an_address_of_another_machine_is_explained() {
        let error = listen(&Address::Tcp("192.0.2.1:1".parse().unwrap()), &Options::default()).unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }
}
