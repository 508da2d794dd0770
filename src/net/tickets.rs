//! TLS session tickets under keys that can be handed to the next process, so that a client's
//! resumption survives a binary upgrade. rustls's own ticketer keeps its keys to itself.
//!
//! # Why this is safe
//!
//! - A ticket is `key name (16) ‖ nonce (12) ‖ AES-256-GCM-SIV(date (8) ‖ state) with tag (16)`, the name
//!   being authenticated with it (RFC 5077 section 4, with an AEAD in place of its CBC and HMAC). It is
//!   all made and opened by aws-lc-rs; nothing is composed here.
//! - A ticket is good for 12 hours, whatever key it was made by. Its age is taken by the clocks of who
//!   made and who opens it, in whole seconds; one of the future has none, for clocks differ.
//! - Nonces are random. GCM-SIV (RFC 8452) is made for that: a nonce that repeats by chance tells
//!   whether two states are the same, and nothing else; with GCM it would give the key away.
//! - What a ticket was made under is authenticated with it and not in it: it is opened in the same
//!   [`Context`] only, so that a session of one listener's client is none of another's that asks for
//!   other proof (CVE-2025-23419).
//! - Keys of our own roll every 6 hours at the first ticket made after that, and are accepted until
//!   they are 12 hours old, as with rustls. Ages are taken by the monotonic clock. They leave the
//!   process only over the socket pair of an upgrade, towards a process that it has started itself.
//! - Keys that are given make tickets until they are not the first any more, and open them until they
//!   are not given any more. What tickets are sealed by is derived from them (HKDF, RFC 5869), so that
//!   one secret in two files makes nothing that fits elsewhere.
//! - No key is in any text that these types give.

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

/// Age at which a key makes no more tickets.
const ROLL: Duration = Duration::from_secs(6 * 3600);
/// Age at which a key opens none any more, and at which no ticket is opened.
const ACCEPT: Duration = Duration::from_secs(12 * 3600);

const NAME: usize = 16;
const SECRET: usize = 32;
/// Seconds since 1970, the most significant byte first.
const DATE: usize = 8;

/// What keys are derived and tickets made for; another purpose or format has another one.
const PURPOSE: &[u8] = b"moorline TLS tickets 2";

/// Now, by both clocks: keys are as old as this process has seen them, tickets go from one to another.
#[derive(Clone, Copy)]
struct Moment {
    ticks: Instant,
    date: u64,
}

impl Moment {
    fn now() -> Self {
        let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { ticks: Instant::now(), date: date.as_secs() }
    }
}

/// Keys that tickets are made and opened by. They can be exchanged while that goes on.
pub(super) struct Keys {
    ring: ArcSwap<Ring>,
    /// Held while the keys roll, so that they roll once.
    rolling: Mutex<()>,
}

/// Makes and opens tickets in one context.
pub(super) struct Ticketer {
    keys: Arc<Keys>,
    context: Context,
}

/// What a session was made under; where nothing is, it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Context(Option<[u8; 32]>);

/// The first key makes tickets, all open them.
struct Ring {
    keys: Vec<Arc<Key>>,
    /// Whether others decide which they are.
    given: bool,
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

impl Context {
    /// Whose terms have this digest.
    pub(super) fn new(digest: &[u8]) -> Self {
        Self(digest.try_into().ok())
    }

    /// As it goes before or beside what it belongs to.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |digest| digest.as_slice())
    }
}

impl Ring {
    fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        let (keys, given): (Vec<_>, _) = match keys {
            SharedKeys::Given(secrets) => {
                (secrets.iter().filter_map(|s| Key::derive(s)).collect(), true)
            }
            SharedKeys::Made => (handed.iter().filter_map(Key::adopt).take(2).collect(), false),
        };
        let mut keys: Vec<Arc<Key>> = keys.into_iter().map(Arc::new).collect();
        if keys.is_empty() {
            let key = Key::make(Instant::now()).ok_or(rustls::Error::FailedToGetRandomBytes)?;
            keys.push(Arc::new(key));
        }
        Ok(Self { keys, given })
    }
}

impl Keys {
    /// Those given; where none are, those of another process, the current one first, or own ones.
    ///
    /// # Errors
    /// No randomness.
    pub(super) fn new(keys: &SharedKeys, handed: &[TicketKey]) -> Result<Self, rustls::Error> {
        Ok(Self { ring: ArcSwap::from_pointee(Ring::new(keys, handed)?), rolling: Mutex::new(()) })
    }

    /// Goes on by these. Own ones stay where there are any already.
    ///
    /// # Errors
    /// No randomness; then nothing has changed.
    pub(super) fn exchange(&self, keys: &SharedKeys) -> Result<(), rustls::Error> {
        let _rolling = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        if *keys != SharedKeys::Made || self.ring.load().given {
            self.ring.store(Arc::new(Ring::new(keys, &[])?));
        }
        Ok(())
    }

    /// Own keys, the current one first; none where they are given.
    pub(super) fn export(&self) -> Vec<TicketKey> {
        let ring = self.ring.load();
        match ring.given {
            true => Vec::new(),
            false => ring.keys.iter().map(|key| key.hand()).collect(),
        }
    }

    /// The key that makes tickets now.
    fn current(&self, now: Instant) -> Option<Arc<Key>> {
        let fresh = |ring: &Ring| {
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
        // Without randomness the old one goes on: no worse than a restart that was put off.
        let Some(new) = Key::make(now).map(Arc::new) else { return previous };
        let keys = [Some(Arc::clone(&new)), previous].into_iter().flatten().collect();
        self.ring.store(Arc::new(Ring { keys, given: false }));
        Some(new)
    }

    fn seal(&self, state: &[u8], context: Context, now: Moment) -> Option<Vec<u8>> {
        let dated = [&now.date.to_be_bytes()[..], state].concat();
        self.current(now.ticks)?.seal(dated, context)
    }

    fn open(&self, ticket: &[u8], context: Context, now: Moment) -> Option<Vec<u8>> {
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
    /// By these keys.
    pub(super) fn new(keys: Arc<Keys>, context: Context) -> Self {
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
        self.keys.seal(state, self.context, Moment::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.keys.open(ticket, self.context, Moment::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Keys {
    /// Says how many, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring.load();
        f.debug_struct("Keys").field("given", &ring.given).field("keys", &ring.keys.len()).finish()
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

    fn derive(secret: &[u8]) -> Option<Self> {
        let (mut name, mut sealing) = ([0; NAME], [0; SECRET]);
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, PURPOSE).extract(secret);
        secret.expand(&[b"name"], Length(NAME)).ok()?.fill(&mut name).ok()?;
        secret.expand(&[b"secret"], Length(SECRET)).ok()?.fill(&mut sealing).ok()?;
        Self::of(name, sealing, Instant::now())
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

    fn seal(&self, mut sealed: Vec<u8>, context: Context) -> Option<Vec<u8>> {
        let beside = self.beside(context);
        let nonce = self.aead.seal_in_place_append_tag(beside, &mut sealed).ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8], context: Context) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut state = sealed.to_vec();
        let length = self.aead.open_in_place(nonce, self.beside(context), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }

    /// What is authenticated beside the state. The first two have one length, so nothing runs together.
    fn beside(&self, context: Context) -> Aad<Vec<u8>> {
        Aad::from([PURPOSE, &self.name[..], context.as_bytes()].concat())
    }
}

/// How many bytes are derived.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOWHERE: Context = Context(None);

    fn made() -> Keys {
        Keys::new(&SharedKeys::Made, &[]).unwrap()
    }

    fn given(names: &[u8]) -> SharedKeys {
        SharedKeys::Given(names.iter().map(|name| vec![*name; 32]).collect())
    }

    fn seal(keys: &Keys, state: &[u8]) -> Vec<u8> {
        keys.seal(state, NOWHERE, Moment::now()).unwrap()
    }

    fn after(now: Moment, time: Duration) -> Moment {
        Moment { ticks: now.ticks + time, date: now.date + time.as_secs() }
    }

    fn open(keys: &Keys, ticket: &[u8]) -> Option<Vec<u8>> {
        keys.open(ticket, NOWHERE, Moment::now())
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_the_key() {
        let ours = made();
        let ticket = seal(&ours, b"state");
        assert_eq!(open(&ours, &ticket).unwrap(), b"state");
        assert_ne!(seal(&ours, b"state"), ticket);
        let keys = serde_json::to_string(&ours.export()).unwrap();
        let keys: Vec<TicketKey> = serde_json::from_str(&keys).unwrap();
        let successor = Keys::new(&SharedKeys::Made, &keys).unwrap();
        assert_eq!(open(&successor, &ticket).unwrap(), b"state");
        assert_eq!(open(&ours, &seal(&successor, b"later")).unwrap(), b"later");
        assert_eq!(open(&made(), &ticket), None);
        let keys = Arc::new(ours);
        let ticketer = Ticketer::new(Arc::clone(&keys), NOWHERE);
        assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"state");
        assert_eq!(open(&keys, &ticketer.encrypt(b"more").unwrap()).unwrap(), b"more");
    }

    #[test]
    fn a_ticket_is_opened_in_its_own_context_only() {
        let keys = Arc::new(made());
        let contexts = [NOWHERE, Context(Some([0; 32])), Context(Some([1; 32]))];
        for made_in in contexts {
            let ticket = Ticketer::new(Arc::clone(&keys), made_in).encrypt(b"state").unwrap();
            for context in contexts {
                let opened = Ticketer::new(Arc::clone(&keys), context).decrypt(&ticket);
                assert_eq!(opened.is_some(), context == made_in, "{made_in:?} in {context:?}");
            }
        }
    }

    #[test]
    fn given_keys_are_the_same_everywhere_and_roll_when_they_are_rolled() {
        let keys = Keys::new(&given(&[1]), &made().export()).unwrap();
        let first = seal(&keys, b"first");
        assert_eq!(open(&Keys::new(&given(&[1]), &[]).unwrap(), &first).unwrap(), b"first");
        let later = after(Moment::now(), 10 * ACCEPT);
        let again = keys.seal(b"again", NOWHERE, later).unwrap();
        assert_eq!(again[..NAME], first[..NAME], "nobody rolled");
        assert_eq!(keys.open(&again, NOWHERE, later).unwrap(), b"again");
        assert_eq!(keys.open(&first, NOWHERE, later), None, "tickets grow old all the same");
        assert!(keys.export().is_empty(), "the next process is given them too");

        keys.exchange(&given(&[2, 1])).unwrap();
        let second = seal(&keys, b"second");
        assert_ne!(second[..NAME], first[..NAME]);
        assert_eq!(open(&keys, &first).unwrap(), b"first");
        keys.exchange(&given(&[2])).unwrap();
        assert_eq!(open(&keys, &first), None);
        assert_eq!(open(&keys, &second).unwrap(), b"second");

        keys.exchange(&SharedKeys::Made).unwrap();
        assert_eq!(open(&keys, &second), None);
        let own = seal(&keys, b"own");
        keys.exchange(&SharedKeys::Made).unwrap();
        assert_eq!(open(&keys, &own).unwrap(), b"own", "own ones stay");
    }

    #[test]
    fn a_ticket_grows_old_by_the_date_and_clocks_may_differ() {
        for terms in [SharedKeys::Made, given(&[1])] {
            let keys = Keys::new(&terms, &[]).unwrap();
            let now = Moment::now();
            let ticket = keys.seal(b"state", NOWHERE, now).unwrap();
            let opens = |date| keys.open(&ticket, NOWHERE, Moment { date, ..now }).is_some();
            assert!(opens(now.date + ACCEPT.as_secs() - 1) && !opens(now.date + ACCEPT.as_secs()));
            assert!(opens(now.date - 3600) && opens(0), "theirs is ahead");
        }
    }

    #[test]
    fn keys_roll_and_are_accepted_for_a_while() {
        let keys = made();
        let start = Moment::now();
        let seal = |state: &[u8], now| keys.seal(state, NOWHERE, now).unwrap();
        let open = |ticket: &[u8], now| keys.open(ticket, NOWHERE, now);
        let first = seal(b"first", start);
        let later = after(start, ROLL + Duration::from_secs(1));
        let second = seal(b"second", later);
        assert_ne!(second[..NAME], first[..NAME], "the key should have rolled");
        assert_eq!(seal(b"third", later)[..NAME], second[..NAME]);
        assert_eq!(keys.export().len(), 2);
        assert_eq!(open(&first, later).unwrap(), b"first");
        assert_eq!(open(&second, later).unwrap(), b"second");
        let last = after(start, ACCEPT + Duration::from_secs(1));
        assert_eq!(open(&first, last), None);
        assert_eq!(open(&second, last).unwrap(), b"second");
        // A successor accepts both.
        let successor = Keys::new(&SharedKeys::Made, &keys.export()).unwrap();
        assert_eq!(successor.open(&first, NOWHERE, start).unwrap(), b"first");
        assert_eq!(successor.open(&second, NOWHERE, start).unwrap(), b"second");
    }

    #[test]
    fn keys_are_in_no_text() {
        let keys = made();
        let key = &keys.export()[0];
        let text = format!("{keys:?} {key:?}");
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
            let keys = made();
            let mut ticket = seal(&keys, &state);
            prop_assert_eq!(open(&keys, &ticket).unwrap(), state);
            prop_assert_eq!(open(&keys, &noise), None);
            for end in 0..ticket.len() {
                prop_assert_eq!(open(&keys, &ticket[..end]), None);
            }
            let place = at.index(ticket.len());
            ticket[place] ^= 1 << bit;
            prop_assert_eq!(open(&keys, &ticket), None);
        }
    }
}
