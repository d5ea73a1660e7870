//! TLS session tickets that any worker understands, whichever made them (feature `tls`).
//!
//! A client that comes back is handed to another worker as often as not. With the keys that rustls makes for itself its
//! ticket would be worth nothing there, and each visit a full handshake. [`Ticketer`] seals tickets with the
//! [`Secrets`] of the cluster instead.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::secret::Secret;
use crate::worker::Secrets;

/// Sets what the derived keys are for apart from whatever else a program derives from the same secret.
const PURPOSE: &[u8] = b"everycore tls session ticket v1";

const ID_LEN: usize = size_of::<u32>();
const SALT_LEN: usize = 16;
const HEAD: usize = ID_LEN + SALT_LEN;

/// Clients may not keep tickets for longer (RFC 8446, 4.6.1).
const LONGEST_LIFETIME: u64 = 7 * 24 * 60 * 60;

/// Makes and reads TLS session tickets with the secrets of the cluster: a session begun with one worker resumes with
/// any other, also with one that came with a reload.
///
/// A ticket is good until the second rotation after it was made: for one period at least, two at most. After that,
/// or when it was made under another primary, the client gets a full handshake. Each ticket is sealed with
/// ChaCha20-Poly1305 under a key of its own, which HKDF-SHA256 derives from the secret and a random salt, so that no
/// number of tickets wears a secret out.
///
/// ```no_run
/// use std::sync::Arc;
///
/// # async fn configure(worker: everycore::Worker, mut config: rustls::ServerConfig) -> everycore::Result<()> {
/// config.ticketer = Arc::new(everycore::tls::Ticketer::new(worker.secrets().await?));
/// config.send_tls13_tickets = 1; // each costs some hundred bytes per handshake
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Ticketer {
    secrets: Secrets,
    random: SystemRandom,
}

impl Ticketer {
    /// A ticketer that follows the rotation of these secrets.
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, random: SystemRandom::new() }
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    /// One period in seconds: for so long every ticket can be used.
    fn lifetime(&self) -> u32 {
        self.secrets.period().as_secs().clamp(1, LONGEST_LIFETIME) as u32
    }

    /// Number of the secret, salt, sealed state.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let secret = self.secrets.current();
        let mut ticket = Vec::with_capacity(HEAD + plain.len() + CHACHA20_POLY1305.tag_len());
        ticket.extend(secret.id().to_be_bytes());
        ticket.resize(HEAD, 0);
        self.random.fill(&mut ticket[ID_LEN..]).ok()?;
        ticket.extend(plain);
        let (head, state) = ticket.split_at_mut(HEAD);
        let tag = key(&secret, &head[ID_LEN..])?
            .seal_in_place_separate_tag(only_nonce(), Aad::from(&*head), state)
            .ok()?;
        ticket.extend(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD)?;
        let (id, salt) = head.split_first_chunk::<ID_LEN>()?;
        let secret = self.secrets.find(u32::from_be_bytes(*id))?;
        let mut state = sealed.to_vec();
        let length = key(&secret, salt)?.open_in_place(only_nonce(), Aad::from(head), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

fn key(secret: &Secret, salt: &[u8]) -> Option<LessSafeKey> {
    let derived = Salt::new(HKDF_SHA256, salt).extract(secret.bytes());
    let key = derived.expand(&[PURPOSE], &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

/// Each key seals one ticket.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::secret::SecretSet;

    fn set() -> SecretSet {
        SecretSet {
            current: Secret::new(1, [1; Secret::LEN]),
            next: Secret::new(2, [2; Secret::LEN]),
            previous: None,
            period: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_ticket_is_good_in_every_worker_until_the_second_rotation() {
        let (here, there) = (Secrets::new(set()), Secrets::new(set()));
        let (maker, reader) = (Ticketer::new(here), Ticketer::new(there.clone()));
        let ticket = maker.encrypt(b"state").unwrap();
        assert_eq!(reader.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        let once = set().rotated([3; Secret::LEN]);
        there.replace(once.clone());
        assert_eq!(reader.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        // The other has not heard of the rotation yet, and understands all the same.
        let newer = reader.encrypt(b"newer").unwrap();
        assert_eq!(maker.decrypt(&newer).as_deref(), Some(&b"newer"[..]));
        there.replace(once.rotated([4; Secret::LEN]));
        assert_eq!(reader.decrypt(&ticket), None);
    }

    #[test]
    fn secrets_of_another_primary_open_nothing() {
        let mut other = set();
        other.current = Secret::new(1, [9; Secret::LEN]);
        let ticket = Ticketer::new(Secrets::new(set())).encrypt(b"state").unwrap();
        assert_eq!(Ticketer::new(Secrets::new(other)).decrypt(&ticket), None);
    }

    #[test]
    fn no_two_tickets_are_alike_and_none_shows_what_is_in_it() {
        let ticketer = Ticketer::new(Secrets::new(set()));
        let plain = b"forty-two bytes that nobody ought to read!";
        let tickets = [ticketer.encrypt(plain).unwrap(), ticketer.encrypt(plain).unwrap()];
        assert_ne!(tickets[0][ID_LEN..HEAD], tickets[1][ID_LEN..HEAD]);
        assert_ne!(tickets[0][HEAD..], tickets[1][HEAD..]);
        assert!(!tickets[0].windows(9).any(|part| part == &plain[..9]));
    }

    #[test]
    fn a_lifetime_is_one_that_clients_may_keep_to() {
        for (period, seconds) in [(Duration::from_millis(10), 1), (Duration::from_secs(3600), 3600)] {
            assert_eq!(Ticketer::new(Secrets::new(SecretSet { period, ..set() })).lifetime(), seconds);
        }
        let period = Duration::from_secs(u64::MAX);
        assert_eq!(Ticketer::new(Secrets::new(SecretSet { period, ..set() })).lifetime(), 604_800);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_no_ticket(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Ticketer::new(Secrets::new(set())).decrypt(&bytes), None);
        }

        #[test]
        fn a_ticket_with_one_bit_changed_is_none(plain in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>()) {
            let ticketer = Ticketer::new(Secrets::new(set()));
            let mut ticket = ticketer.encrypt(&plain).unwrap();
            let bit = at.index(ticket.len() * 8);
            ticket[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(ticketer.decrypt(&ticket), None);
        }
    }
}
