//! Ways to exchange messages that wait in system calls.

use std::io::{self, BufReader, BufWriter, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use everycore_ipc::{Codec, Connection, Limits, blocking};

use super::{Payload, Way};

/// One end of a two-way stream of messages.
pub(super) trait Link {
    /// Sends one, or keeps it for [`flush`](Self::flush).
    fn send(&mut self, payload: &Payload) -> io::Result<()>;
    /// Sends what was kept.
    fn flush(&mut self) -> io::Result<()>;
    /// Waits for one; `None` when the other side has gone.
    fn receive(&mut self) -> io::Result<Option<Payload>>;
}

/// Opens one end.
pub(super) fn open(way: Way, socket: OwnedFd) -> io::Result<Box<dyn Link>> {
    Ok(match way {
        Way::Bytes | Way::BytesCoalesced => {
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            let reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
            Box::new(Bytes {
                reader,
                writer: BufWriter::with_capacity(1 << 16, stream),
                keeps: way == Way::BytesCoalesced,
            })
        }
        Way::Json | Way::JsonBlocking | Way::Native | Way::NativeBlocking => {
            let codec = way.codec();
            let connection = Connection::new(socket, codec, Limits::default())?;
            Box::new(Blocking { channel: blocking::Channel::new(connection), codec })
        }
    })
}

/// Four bytes of length, then the message.
struct Bytes {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
    keeps: bool,
}

impl Link for Bytes {
    fn send(&mut self, payload: &Payload) -> io::Result<()> {
        let Payload::Bytes(bytes) = payload else { return Err(io::ErrorKind::InvalidInput.into()) };
        let length = (bytes.len() as u32).to_ne_bytes();
        if self.keeps {
            self.writer.write_all(&length)?;
            self.writer.write_all(bytes)
        } else {
            write_both(self.writer.get_mut(), &length, bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    fn receive(&mut self) -> io::Result<Option<Payload>> {
        let mut length = [0u8; 4];
        match self.reader.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let mut bytes = vec![0; u32::from_ne_bytes(length) as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(Some(Payload::Bytes(bytes.into())))
    }
}

/// One system call where the kernel takes both whole.
fn write_both(stream: &mut UnixStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let written = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    stream.write_all(&head[written.min(head.len())..])?;
    stream.write_all(&body[written.saturating_sub(head.len())..])
}

struct Blocking {
    channel: blocking::Channel,
    codec: Codec,
}

impl Link for Blocking {
    fn send(&mut self, payload: &Payload) -> io::Result<()> {
        self.channel.send_message(payload.to_message()?).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Payload>> {
        let message = self.channel.recv().map_err(io::Error::other)?;
        message.map(|message| Payload::of(self.codec, message)).transpose()
    }
}
