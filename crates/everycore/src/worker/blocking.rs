//! [`BlockingStream`]: a connection in a program without a runtime.

use std::io::{self, IoSlice, Read, Write};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::driver::timespec;
use super::stream::Stream;

/// A [`Stream`] whose reads and writes wait; what
/// [`Listener::accept_blocking`](crate::Listener::accept_blocking) gives out.
///
/// ```no_run
/// use std::io::Write;
///
/// fn serve(listener: everycore::Listener) {
///     while let Ok((mut stream, _)) = listener.accept_blocking() {
///         let _ = stream.write_all(b"hi there\n");
///     }
/// }
/// ```
#[derive(Debug)]
pub struct BlockingStream {
    stream: Stream,
    timeout: Option<Duration>,
}

impl BlockingStream {
    /// Bounds how long one read or write waits; `None`, the default, waits without end. What takes longer fails with
    /// `TimedOut`.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// The stream as asynchronous programs know it.
    pub fn into_inner(self) -> Stream {
        self.stream
    }

    fn wait(&mut self, what: PollFlags) -> io::Result<()> {
        if what == PollFlags::IN {
            self.stream.first_turn_over();
        }
        let timeout = self.timeout.map(timespec);
        let mut fds = [PollFd::from_borrowed_fd(self.stream.fd()?, what)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl From<Stream> for BlockingStream {
    fn from(stream: Stream) -> Self {
        Self { stream, timeout: None }
    }
}

impl Deref for BlockingStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for BlockingStream {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl Read for BlockingStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }
}

impl Write for BlockingStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.stream.write_now(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use everycore_sys::counters::{self, WorkerPage};
    use everycore_sys::eventfd::EventFd;
    use everycore_sys::socket_pair::stream_pair;

    use super::*;
    use crate::worker::load::Load;

    #[test]
    fn threads_read_and_write_without_a_runtime() {
        let (memfd, _) = counters::create().unwrap();
        let load = Load::new(WorkerPage::open(memfd).unwrap(), EventFd::new().unwrap());
        let (client, server) = stream_pair().unwrap();
        let mut client = UnixStream::from(client);
        client.set_nonblocking(false).unwrap();
        let mut stream = BlockingStream::from(Stream::new(server, None, load.take()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0; 5];
                client.write_all(b"hello").unwrap();
                client.read_exact(&mut bytes).unwrap();
                assert_eq!(&bytes, b"olleh");
            });
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            bytes.reverse();
            stream.write_all(&bytes).unwrap();
        });
        stream.set_timeout(Some(Duration::from_millis(1)));
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Nobody reads: the buffers fill up.
        assert_eq!(stream.write_all(&vec![0; 64 << 20]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        client.shutdown(Shutdown::Both).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(stream.into_inner().peer_addr().tcp(), None);
    }
}
