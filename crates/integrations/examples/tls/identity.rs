//! The certificate: the primary makes it when a worker first asks, and gives it to every one.
//!
//! A service has it in files, which each worker reads for itself.

use everycore::{Event, Primary};

/// Certificate and private key, each in DER.
pub(crate) type Identity = (Vec<u8>, Vec<u8>);

/// What workers ask.
pub(crate) const QUESTION: &str = "identity";

/// Answers workers; every other event is left to `next`.
pub(crate) fn answer(mut next: impl FnMut(&Primary, Event) + Send) -> impl FnMut(&Primary, Event) + Send {
    let mut identity = None;
    move |primary, event| {
        if let Event::Request { worker, id, .. } = event {
            // A worker that is gone by now needs no answer.
            let _ = primary.reply(worker.id, id, identity.get_or_insert_with(self_signed));
        } else {
            next(primary, event);
        }
    }
}

fn self_signed() -> Identity {
    match rcgen::generate_simple_self_signed(["localhost".to_owned()]) {
        Ok(made) => (made.cert.der().to_vec(), made.signing_key.serialize_der()),
        // Workers find out what is missing, and say so.
        Err(_) => Identity::default(),
    }
}
