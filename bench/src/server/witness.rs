//! What a worker has taken, written down before it serves: afterwards a client's loss can be told from a client's
//! connection that nobody took.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use everycore::BoundAddress;

/// An open book, shared by all workers: one line per connection, each written by one call.
#[derive(Clone, Debug)]
pub(crate) struct Witness(Arc<File>);

impl Witness {
    /// Opens it for more lines.
    #[expect(clippy::expect_used, reason = "without it the measurement would say nothing was taken")]
    pub(crate) fn open(path: &str) -> Self {
        let file =
            OpenOptions::new().append(true).create(true).open(path).expect("the bench's own directory");
        Self(Arc::new(file))
    }

    /// `ADDRESS PID NANOSECONDS`
    #[expect(clippy::expect_used, reason = "as in `open`")]
    pub(crate) fn took(&self, peer: &BoundAddress) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{peer} {} {}\n", std::process::id(), now.as_nanos());
        (&*self.0).write_all(line.as_bytes()).expect("a file of the bench takes a line");
    }
}
