//! TLS session tickets whose keys can be handed to the next process, so that clients resume sessions across a
//! binary upgrade. The ticketer of rustls does not export its keys.
//!
//! # Why this is safe
//!
//! - A ticket is `key name (16) ‖ nonce (12) ‖ AES-256-GCM-SIV(date (8) ‖ state) with tag (16)`. The name is
//!   authenticated too (RFC 5077 section 4, with an AEAD in place of its CBC and HMAC). aws-lc-rs does the
//!   sealing and opening; no cryptography is composed here.
//! - A ticket is valid for 12 hours, whatever its key. Its age is the difference of two wall clocks, that of the
//!   issuer and that of the verifier, in whole seconds. A date in the future counts as age zero, because clocks
//!   differ.
//! - Nonces are random. GCM-SIV (RFC 8452) is designed for that: an accidentally repeated nonce reveals only
//!   whether two states are equal. With GCM it would reveal the authentication key.
//! - The client certificate settings of a session are authenticated with the ticket but not stored in it. The
//!   ticket opens in the same [`TicketContext`] only, so that a session of one listener is not valid on another that
//!   requires different client certificates (CVE-2025-23419).
//! - Generated keys rotate every 6 hours, when the next ticket is issued, and are accepted until they are 12 hours
//!   old, as in rustls. Ages follow the monotonic clock. The keys leave the process only over the socket pair of an
//!   upgrade, to a process that it started itself.
//! - Configured keys issue tickets while they are first in the list, and open tickets while they are in the list.
//!   The sealing key is derived from the secret (HKDF, RFC 5869), so that a secret used in two files does not
//!   yield the same key for different purposes.
//! - `Debug` output never contains a key.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf, rand,
};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

use crate::config::SharedKeys;

/// Age after which a key issues no more tickets.
const ROLL: Duration = Duration::from_secs(6 * 3600);
/// Age after which a key opens no tickets, and after which no ticket is accepted.
const ACCEPT: Duration = Duration::from_secs(12 * 3600);

const NAME: usize = 16;
const SECRET: usize = 32;
/// Seconds since 1970, big-endian.
const DATE: usize = 8;

/// Domain separation for key derivation and tickets; other purposes or formats use a different string.
const PURPOSE: &[u8] = b"moorline TLS tickets 2";

/// The current time by both clocks: monotonic for the age of keys, wall clock for tickets from other processes.
#[derive(Clone, Copy)]
struct TicketTime {
    ticks: Instant,
    date: u64,
}

impl TicketTime {
    fn now() -> Self {
        let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { ticks: Instant::now(), date: date.as_secs() }
    }
}

/// The keys that issue and open tickets; can be replaced while in use.
pub(super) struct KeyRing {
    ring: ArcSwap<RingState>,
    /// Held during a rotation, so that concurrent callers rotate once.
    rolling: Mutex<()>,
}

/// Issues and opens tickets in one context.
pub(super) struct Ticketer {
    keys: Arc<KeyRing>,
    context: TicketContext,
}

/// Digest of the settings that a session was created under; `None` without client certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TicketContext(Option<[u8; 32]>);

/// The first key issues tickets; all keys open them.
struct RingState {
    keys: Vec<Arc<SealingKey>>,
    /// Whether the keys come from the configuration.
    given: bool,
}

struct SealingKey {
    name: [u8; NAME],
    secret: [u8; SECRET],
    aead: RandomizedNonceKey,
    made: Instant,
}

/// A key in the form sent to the next process.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct TicketKey {
    name: [u8; NAME],
    secret: [u8; SECRET],
    /// Time since the key was generated.
    age: Duration,
}

impl fmt::Debug for TicketKey {
    /// Shows the age only, never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("age", &self.age).finish_non_exhaustive()
    }
}

impl TicketContext {
    /// The context for settings with this digest.
    pub(super) fn new(digest: &[u8]) -> Self {
        Self(digest.try_into().ok())
    }

    /// Returns the bytes that are authenticated with a ticket or precede a session id.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |digest| digest.as_slice())
    }
}

impl RingState {
    fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        let (keys, given): (Vec<_>, _) = match keys {
            SharedKeys::Configured(secrets) => {
                (secrets.iter().filter_map(|s| SealingKey::derive(s)).collect(), true)
            }
            SharedKeys::Generated => {
                (handed.iter().filter_map(SealingKey::adopt).take(2).collect(), false)
            }
        };
        let mut keys: Vec<Arc<SealingKey>> = keys.into_iter().map(Arc::new).collect();
        if keys.is_empty() {
            let key =
                SealingKey::make(Instant::now()).ok_or(rustls::Error::FailedToGetRandomBytes)?;
            keys.push(Arc::new(key));
        }
        Ok(Self { keys, given })
    }
}

impl KeyRing {
    /// Uses configured keys; without them the keys of another process, current key first, or generated keys.
    ///
    /// # Errors
    /// No randomness.
    pub(super) fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        Ok(Self {
            ring: ArcSwap::from_pointee(RingState::new(keys, handed)?),
            rolling: Mutex::new(()),
        })
    }

    /// Replaces the keys. Generated keys stay if they are already in use.
    ///
    /// # Errors
    /// No randomness; the keys stay unchanged.
    pub(super) fn exchange(&self, keys: &SharedKeys) -> Result<(), rustls::Error> {
        let _rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        if *keys != SharedKeys::Generated || self.ring.load().given {
            self.ring.store(Arc::new(RingState::new(keys, &[])?));
        }
        Ok(())
    }

    /// Returns generated keys, current key first; empty if keys are configured.
    pub(super) fn export(&self) -> Vec<TicketKey> {
        let ring = self.ring.load();
        match ring.given {
            true => Vec::new(),
            false => ring.keys.iter().map(|key| key.export()).collect(),
        }
    }

    /// Returns the key that issues tickets at `now`.
    fn current(&self, now: Instant) -> Option<Arc<SealingKey>> {
        let fresh = |ring: &RingState| {
            let first = ring.keys.first()?;
            (ring.given || first.age(now) < ROLL).then(|| Arc::clone(first))
        };
        if let Some(key) = fresh(&self.ring.load()) {
            return Some(key);
        }
        let _rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring.load();
        if let Some(key) = fresh(&ring) {
            return Some(key);
        }
        let previous = ring.keys.first().cloned();
        // Without randomness the old key stays in use; the effect is that of a delayed restart.
        let Some(new) = SealingKey::make(now).map(Arc::new) else { return previous };
        let keys = [Some(Arc::clone(&new)), previous].into_iter().flatten().collect();
        self.ring.store(Arc::new(RingState { keys, given: false }));
        Some(new)
    }

    fn seal(&self, state: &[u8], context: TicketContext, now: TicketTime) -> Option<Vec<u8>> {
        let dated = [&now.date.to_be_bytes()[..], state].concat();
        self.current(now.ticks)?.seal(dated, context)
    }

    fn open(&self, ticket: &[u8], context: TicketContext, now: TicketTime) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_at_checked(NAME)?;
        let ring = self.ring.load();
        let key = ring.keys.iter().find(|key| key.name == name)?;
        if !ring.given && key.age(now.ticks) >= ACCEPT {
            return None;
        }
        let mut state = key.open(sealed, context)?;
        let date = u64::from_be_bytes(*state.first_chunk::<DATE>()?);
        state.drain(..DATE);
        (now.date.saturating_sub(date) < ACCEPT.as_secs()).then_some(state)
    }
}

impl Ticketer {
    /// Uses these keys in this context.
    pub(super) fn new(keys: Arc<KeyRing>, context: TicketContext) -> Self {
        Self { keys, context }
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
        self.keys.seal(state, self.context, TicketTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.keys.open(ticket, self.context, TicketTime::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyRing {
    /// Shows the number of keys, never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring.load();
        f.debug_struct("KeyRing")
            .field("given", &ring.given)
            .field("keys", &ring.keys.len())
            .finish()
    }
}

impl SealingKey {
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

    fn derive(secret: &[u8]) -> Option<Self> {
        let (mut name, mut sealing) = ([0; NAME], [0; SECRET]);
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, PURPOSE).extract(secret);
        secret.expand(&[b"name"], KeyLength(NAME)).ok()?.fill(&mut name).ok()?;
        secret.expand(&[b"secret"], KeyLength(SECRET)).ok()?.fill(&mut sealing).ok()?;
        Self::of(name, sealing, Instant::now())
    }

    fn adopt(handed: &TicketKey) -> Option<Self> {
        // The key is older than this machine's uptime if the subtraction fails.
        let made = Instant::now().checked_sub(handed.age)?;
        Self::of(handed.name, handed.secret, made)
    }

    fn export(&self) -> TicketKey {
        TicketKey { name: self.name, secret: self.secret, age: self.age(Instant::now()) }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    fn seal(&self, mut sealed: Vec<u8>, context: TicketContext) -> Option<Vec<u8>> {
        let beside = self.beside(context);
        let nonce = self.aead.seal_in_place_append_tag(beside, &mut sealed).ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8], context: TicketContext) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut state = sealed.to_vec();
        let length = self.aead.open_in_place(nonce, self.beside(context), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }

    /// Returns the associated data. The first two parts have a fixed length, so the encoding is unambiguous.
    fn beside(&self, context: TicketContext) -> Aad<Vec<u8>> {
        Aad::from([PURPOSE, &self.name[..], context.as_bytes()].concat())
    }
}

/// Length of a derived key, in bytes.
struct KeyLength(usize);

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests;
