//! TLS session tickets under keys that can be handed to the next process, so that a client's
//! resumption survives a binary upgrade. rustls's own ticketer keeps its keys to itself.
//!
//! # Why this is safe
//!
//! - A ticket is `key name (16) ‖ nonce (12) ‖ AES-256-GCM-SIV(state) with tag (16)`, the name being
//!   authenticated with it (RFC 5077 section 4, with an AEAD in place of its CBC and HMAC). It is all
//!   made and opened by aws-lc-rs; nothing is composed here.
//! - Nonces are random. GCM-SIV (RFC 8452) is made for that: a nonce that repeats by chance tells
//!   whether two states are the same, and nothing else; with GCM it would give the key away.
//! - Keys roll every 6 hours at the first ticket made after that, and are accepted until they are 12
//!   hours old, as with rustls. Ages are taken by the monotonic clock.
//! - A key leaves the process only over the socket pair of an upgrade, towards a process that it has
//!   started itself, and is in no text that this type gives.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

/// Age at which a key makes no more tickets.
const ROLL: Duration = Duration::from_secs(6 * 3600);
/// Age at which a key opens none any more.
const ACCEPT: Duration = Duration::from_secs(12 * 3600);

const NAME: usize = 16;
const SECRET: usize = 32;

/// Makes and opens tickets.
pub(super) struct Ticketer {
    keys: ArcSwap<Ring>,
    /// Held while the keys roll, so that they roll once.
    rolling: Mutex<()>,
}

struct Ring {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

struct Key {
    name: [u8; NAME],
    secret: [u8; SECRET],
    aead: RandomizedNonceKey,
    made: Instant,
}

/// A key as it goes to the next process.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct TicketKey {
    name: [u8; NAME],
    secret: [u8; SECRET],
    /// Since it was made.
    age: Duration,
}

impl fmt::Debug for TicketKey {
    /// Says how old, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("age", &self.age).finish_non_exhaustive()
    }
}

impl Ticketer {
    /// With keys of its own, or those of another process, the current one first.
    ///
    /// # Errors
    /// No randomness.
    pub(super) fn new(handed: &[TicketKey]) -> Result<Arc<Self>, rustls::Error> {
        let mut keys = handed.iter().filter_map(Key::adopt).map(Arc::new);
        let (current, previous) = (keys.next(), keys.next());
        let current = match current {
            Some(key) => key,
            None => {
                Arc::new(Key::make(Instant::now()).ok_or(rustls::Error::FailedToGetRandomBytes)?)
            }
        };
        let keys = ArcSwap::from_pointee(Ring { current, previous });
        Ok(Arc::new(Self { keys, rolling: Mutex::new(()) }))
    }

    /// The keys, the current one first.
    pub(super) fn export(&self) -> Vec<TicketKey> {
        let ring = self.keys.load();
        [Some(&ring.current), ring.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|k| k.hand())
            .collect()
    }

    /// The key that makes tickets now.
    fn current(&self, now: Instant) -> Arc<Key> {
        let ring = self.keys.load();
        if ring.current.age(now) < ROLL {
            return Arc::clone(&ring.current);
        }
        let _rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.keys.load();
        if ring.current.age(now) < ROLL {
            return Arc::clone(&ring.current);
        }
        // Without randomness the old one goes on: no worse than a restart that was put off.
        let Some(new) = Key::make(now).map(Arc::new) else { return Arc::clone(&ring.current) };
        let previous = Some(Arc::clone(&ring.current));
        self.keys.store(Arc::new(Ring { current: Arc::clone(&new), previous }));
        new
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_at_checked(NAME)?;
        let ring = self.keys.load();
        let mut keys = [Some(&ring.current), ring.previous.as_ref()].into_iter().flatten();
        let key = keys.find(|key| key.name == name)?;
        (key.age(now) < ACCEPT).then(|| key.open(sealed))?
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ACCEPT.as_secs() as u32
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        self.current(Instant::now()).seal(state)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, Instant::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl Key {
    fn make(now: Instant) -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME], [0; SECRET]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        Self::of(name, secret, now)
    }

    fn of(name: [u8; NAME], secret: [u8; SECRET], made: Instant) -> Option<Self> {
        let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, &secret).ok()?;
        Some(Self { name, secret, aead, made })
    }

    fn adopt(handed: &TicketKey) -> Option<Self> {
        // A system that is younger than the key: it began before this machine's clock did.
        let made = Instant::now().checked_sub(handed.age)?;
        Self::of(handed.name, handed.secret, made)
    }

    fn hand(&self) -> TicketKey {
        TicketKey { name: self.name, secret: self.secret, age: self.age(Instant::now()) }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    fn seal(&self, state: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = state.to_vec();
        let nonce = self.aead.seal_in_place_append_tag(Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut state = sealed.to_vec();
        let length = self.aead.open_in_place(nonce, Aad::from(self.name), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ticket_is_opened_by_whoever_has_the_key() {
        let ours = Ticketer::new(&[]).unwrap();
        let ticket = ours.encrypt(b"state").unwrap();
        assert_eq!(ours.decrypt(&ticket).unwrap(), b"state");
        assert_ne!(ours.encrypt(b"state").unwrap(), ticket);
        let keys = serde_json::to_string(&ours.export()).unwrap();
        let keys: Vec<TicketKey> = serde_json::from_str(&keys).unwrap();
        let successor = Ticketer::new(&keys).unwrap();
        assert_eq!(successor.decrypt(&ticket).unwrap(), b"state");
        assert_eq!(ours.decrypt(&successor.encrypt(b"later").unwrap()).unwrap(), b"later");
        assert_eq!(Ticketer::new(&[]).unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn keys_roll_and_are_accepted_for_a_while() {
        let ticketer = Ticketer::new(&[]).unwrap();
        let start = Instant::now();
        let first = ticketer.current(start).seal(b"first").unwrap();
        let later = start + ROLL;
        let second = ticketer.current(later).seal(b"second").unwrap();
        assert_ne!(second[..NAME], first[..NAME], "the key should have rolled");
        assert_eq!(ticketer.current(later).seal(b"third").unwrap()[..NAME], second[..NAME]);
        assert_eq!(ticketer.export().len(), 2);
        assert_eq!(ticketer.open(&first, later).unwrap(), b"first");
        assert_eq!(ticketer.open(&second, later).unwrap(), b"second");
        let last = start + ACCEPT + Duration::from_secs(1);
        assert_eq!(ticketer.open(&first, last), None);
        assert_eq!(ticketer.open(&second, last).unwrap(), b"second");
        // A successor accepts both.
        let successor = Ticketer::new(&ticketer.export()).unwrap();
        assert_eq!(successor.open(&first, start).unwrap(), b"first");
        assert_eq!(successor.open(&second, start).unwrap(), b"second");
    }

    #[test]
    fn keys_are_in_no_text() {
        let ticketer = Ticketer::new(&[]).unwrap();
        let key = &ticketer.export()[0];
        let text = format!("{ticketer:?} {key:?}");
        assert!(!text.contains(&format!("{:?}", key.secret)), "{text}");
    }

    proptest! {
        #[test]
        fn what_was_changed_or_made_up_opens_nothing(
            state in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
            noise in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let ticketer = Ticketer::new(&[]).unwrap();
            let mut ticket = ticketer.encrypt(&state).unwrap();
            prop_assert_eq!(ticketer.decrypt(&ticket).unwrap(), state);
            prop_assert_eq!(ticketer.decrypt(&noise), None);
            for end in 0..ticket.len() {
                prop_assert_eq!(ticketer.decrypt(&ticket[..end]), None);
            }
            let place = at.index(ticket.len());
            ticket[place] ^= 1 << bit;
            prop_assert_eq!(ticketer.decrypt(&ticket), None);
        }
    }
}
