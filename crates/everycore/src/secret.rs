//! Secrets that all workers of a cluster share, as values: the primary makes them, the channel carries them.
//!
//! Pure. Neighbours: `cluster/secrets` rotates them, `worker/secrets` has those a worker was told, `tls` seals session
//! tickets with them.

use std::fmt;
use std::time::Duration;

/// 32 random bytes that every worker of the cluster knows, and nobody else.
///
/// Made by the primary and replaced on a schedule, see [`Secrets`](crate::Secrets). Derive what you need from it (a key
/// per purpose); do not use it as the key of two things. It is never printed; with the feature `tls` it is erased
/// when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: u32,
    bytes: [u8; Secret::LEN],
}

impl Secret {
    /// Length in bytes.
    pub const LEN: usize = 32;

    pub(crate) fn new(id: u32, bytes: [u8; Self::LEN]) -> Self {
        Self { id, bytes }
    }

    /// Which one it is, among all of its cluster: put it beside what was made with the secret. It counts up by one.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The secret itself.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    pub(crate) fn to_hex(&self) -> String {
        self.bytes.iter().fold(String::with_capacity(2 * Self::LEN), |mut hex, byte| {
            hex.extend(
                [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
            );
            hex
        })
    }

    pub(crate) fn from_hex(id: u32, hex: &str) -> Option<Self> {
        let digits: Vec<u8> =
            hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, half| byte << 4 | half)).collect();
        Some(Self::new(id, bytes.try_into().ok().filter(|_| digits.len() == 2 * Self::LEN)?))
    }
}

#[cfg(feature = "tls")]
impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.bytes);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The secrets in force at one time.
///
/// `next` is known to all before it becomes current: a worker that hears of a rotation late understands what the
/// others make with the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretSet {
    /// Until it is replaced, new things are made with it.
    pub(crate) current: Secret,
    /// The one to come.
    pub(crate) next: Secret,
    /// What was made with it is still good.
    pub(crate) previous: Option<Secret>,
    /// How long each is current.
    pub(crate) period: Duration,
}

impl SecretSet {
    pub(crate) fn find(&self, id: u32) -> Option<&Secret> {
        [Some(&self.current), Some(&self.next), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|one| one.id == id)
    }

    /// The set after a rotation.
    pub(crate) fn rotated(&self, next: [u8; Secret::LEN]) -> Self {
        Self {
            current: self.next.clone(),
            next: Secret::new(self.next.id.wrapping_add(1), next),
            previous: Some(self.current.clone()),
            period: self.period,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new(7, [0xab; Secret::LEN]);
        let set = SecretSet {
            current: secret.clone(),
            next: Secret::new(8, [0xab; Secret::LEN]),
            previous: None,
            period: Duration::from_secs(1),
        };
        for printed in [format!("{secret:?}"), format!("{set:?}"), format!("{set:#?}")] {
            assert!(!printed.contains("171") && !printed.contains("ab"), "{printed}");
        }
    }

    #[test]
    fn hexadecimal_leads_there_and_back_and_nothing_else_does() {
        let mut bytes = [0; Secret::LEN];
        bytes.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value * 7);
        let secret = Secret::new(3, bytes);
        assert_eq!(Secret::from_hex(3, &secret.to_hex()), Some(secret.clone()));
        for wrong in ["", "0", "zz", &secret.to_hex()[1..], &format!("{}00", secret.to_hex()), "é"] {
            assert_eq!(Secret::from_hex(3, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_rotation_forgets_what_was_previous() {
        let bytes = |byte| [byte; Secret::LEN];
        let first = SecretSet {
            current: Secret::new(1, bytes(1)),
            next: Secret::new(2, bytes(2)),
            previous: None,
            period: Duration::from_secs(1),
        };
        let third = first.rotated(bytes(3)).rotated(bytes(4));
        assert_eq!(third.current, Secret::new(3, bytes(3)));
        let known: Vec<bool> = (1..=5).map(|id| third.find(id).is_some()).collect();
        assert_eq!(known, [false, true, true, true, false]);
    }
}
