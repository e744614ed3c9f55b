//! Content hashes (SHA-256) and the chain that links the events of one log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::event::EventKind;

/// A SHA-256 digest, printed in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// What the first event of a log follows.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of some content.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From the bytes of a database column.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The hash of event number `seq`: it covers everything of the event and the hash before it.
pub fn chain(previous: Hash32, instance: Uuid, seq: i64, epoch: i64, kind: EventKind, at_micros: i64, payload: &str) -> Hash32 {
    let mut hasher = Sha256::new();
    hasher.update(previous.0);
    hasher.update(instance.as_bytes());
    hasher.update(seq.to_be_bytes());
    hasher.update(epoch.to_be_bytes());
    hasher.update(at_micros.to_be_bytes());
    hasher.update(kind.as_str().as_bytes());
    hasher.update([0]);
    hasher.update(payload.as_bytes());
    Hash32(hasher.finalize().into())
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash32 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a SHA-256 hash is 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(WANTED);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| WANTED)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WANTED)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hash32 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash32 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_prints_in_hexadecimal_and_parses_back() {
        let hash = Hash32::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("ba78".parse::<Hash32>().is_err());
    }

    #[test]
    fn the_chain_depends_on_everything_in_the_event() {
        let id = Uuid::from_u128(1);
        let base = chain(Hash32::ZERO, id, 1, 1, EventKind::Model, 5, "{}");
        let others = [
            chain(base, id, 1, 1, EventKind::Model, 5, "{}"),
            chain(Hash32::ZERO, Uuid::from_u128(2), 1, 1, EventKind::Model, 5, "{}"),
            chain(Hash32::ZERO, id, 2, 1, EventKind::Model, 5, "{}"),
            chain(Hash32::ZERO, id, 1, 2, EventKind::Model, 5, "{}"),
            chain(Hash32::ZERO, id, 1, 1, EventKind::Tool, 5, "{}"),
            chain(Hash32::ZERO, id, 1, 1, EventKind::Model, 6, "{}"),
            chain(Hash32::ZERO, id, 1, 1, EventKind::Model, 5, "[]"),
        ];
        assert!(others.iter().all(|other| *other != base));
    }
}
