//! A compact entry for one session.

use std::{
    mem,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Weak},
};

use super::super::recent_sessions::ClientKey;
use crate::upstream::{Backend, SessionGuard};

/// A sid with its backend. The key consists of the backend's pool and the sid.
///
/// Times are milliseconds of the table's clock.
pub(super) struct SessionEntry {
    sid: Sid,
    backend: Arc<Backend>,
    count: SessionCount,
    expiry: u64,
    lifetime: u32,
    tag: u32,
    /// The client that opened the session, as identified at its handshake.
    client: Option<ClientKey>,
    origin: SessionOrigin,
}

/// Entries are almost all of a table's memory.
const _: () = assert!(size_of::<SessionEntry>() == 96);

/// Origin of a session, for operators.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionOrigin {
    /// Address of the client that opened the session.
    pub(super) address: Option<IpAddr>,
    /// Time when it was learned, in seconds of the table's clock, from 1.
    pub(super) since: Option<NonZeroU32>,
}

/// Bytes of a sid; nearly all sids have 20 bytes and need no allocation.
enum Sid {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

const SHORT: usize = 22;

/// How a session counts on its backend: at most once, whatever happens to its entry.
enum SessionCount {
    /// Does not count: its last tunnel ended and it has not been used since.
    Uncounted,
    /// Counted by its entry.
    ByEntry(SessionGuard),
    /// Counted by its open tunnels, for as long as they exist, with or without the entry.
    ByTunnels(Weak<SessionGuard>),
    /// Never counts again: it was evicted.
    Evicted,
}

impl SessionEntry {
    /// Creates an entry that counts its session.
    pub(super) fn new(
        tag: u32,
        sid: &str,
        backend: &Arc<Backend>,
        lifetime: u32,
        now: u64,
    ) -> Self {
        Self {
            sid: Sid::new(sid.as_bytes()),
            backend: Arc::clone(backend),
            count: SessionCount::ByEntry(backend.hold()),
            expiry: now + u64::from(lifetime),
            lifetime,
            tag,
            client: None,
            origin: SessionOrigin::default(),
        }
    }

    /// Returns the origin of the session.
    pub(super) fn origin(&self) -> SessionOrigin {
        self.origin
    }

    /// Sets the origin unless it is known.
    pub(super) fn set_origin(&mut self, address: Option<IpAddr>, now: u64) {
        if self.origin.since.is_none() {
            let seconds = u32::try_from(now / 1000).unwrap_or(u32::MAX - 1);
            self.origin = SessionOrigin { address, since: NonZeroU32::new(seconds + 1) };
        }
    }

    /// Returns the client that opened the session, if known.
    pub(super) fn client(&self) -> Option<ClientKey> {
        self.client
    }

    /// Sets the client that opened the session. An unknown client does not replace a known one.
    pub(super) fn set_client(&mut self, client: Option<ClientKey>) {
        self.client = client.or(self.client);
    }

    /// Marks the session as closed: it no longer counts unless it is used again. Returns the hold that counted it, to
    /// be dropped outside of any lock.
    pub(super) fn close(&mut self) -> Option<SessionGuard> {
        match mem::replace(&mut self.count, SessionCount::Uncounted) {
            SessionCount::ByEntry(hold) => Some(hold),
            other => {
                self.count = other;
                None
            }
        }
    }

    /// Part of the key's hash that locates the entry within its shard.
    pub(super) fn tag(&self) -> u32 {
        self.tag
    }

    pub(super) fn is(&self, tag: u32, pool: &str, sid: &str) -> bool {
        self.tag == tag && self.sid.bytes() == sid.as_bytes() && self.backend.pool() == pool
    }

    /// Returns the sid.
    pub(super) fn sid(&self) -> &str {
        // The bytes come from a `str`.
        str::from_utf8(self.sid.bytes()).unwrap_or_default()
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(super) fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// Heap bytes in addition to the entry itself.
    pub(super) fn heap(&self) -> usize {
        match &self.sid {
            Sid::Short { .. } => 0,
            Sid::Long(bytes) => bytes.len(),
        }
    }

    /// Returns the expiry time; never while a tunnel is open.
    pub(super) fn expiry(&self) -> u64 {
        if self.is_held() { u64::MAX } else { self.expiry }
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expiry() < now
    }

    /// Whether the session counts and has no tunnel.
    pub(super) fn polls(&self) -> bool {
        matches!(self.count, SessionCount::ByEntry(_))
    }

    pub(super) fn is_evicted(&self) -> bool {
        matches!(self.count, SessionCount::Evicted)
    }

    /// Evicts the session. Returns the hold that counted it, to be dropped outside of any lock.
    pub(super) fn evict(&mut self) -> Option<SessionGuard> {
        match mem::replace(&mut self.count, SessionCount::Evicted) {
            SessionCount::ByEntry(hold) => Some(hold),
            SessionCount::Uncounted | SessionCount::ByTunnels(_) | SessionCount::Evicted => None,
        }
    }

    /// Records a use: extends the lifetime from now, and counts the session again. An evicted session is not revived: it
    /// expires at its time.
    pub(super) fn renew(&mut self, lifetime: u32, now: u64) {
        if self.is_evicted() {
            return;
        }
        self.lifetime = lifetime;
        self.extend(now);
        if !self.is_held() && !matches!(self.count, SessionCount::ByEntry(_)) {
            self.count = SessionCount::ByEntry(self.backend.hold());
        }
    }

    /// Transfers counting to a tunnel, together with other open tunnels.
    pub(super) fn hold(&mut self, now: u64) -> Arc<SessionGuard> {
        self.extend(now);
        let counted = match mem::replace(&mut self.count, SessionCount::Uncounted) {
            SessionCount::Uncounted | SessionCount::Evicted => None,
            SessionCount::ByEntry(hold) => Some(Arc::new(hold)),
            SessionCount::ByTunnels(open) => open.upgrade(),
        };
        let hold = counted.unwrap_or_else(|| Arc::new(self.backend.hold()));
        self.count = SessionCount::ByTunnels(Arc::downgrade(&hold));
        hold
    }

    /// Whether the hold belongs to this entry.
    pub(super) fn is_held_by(&self, hold: &Arc<SessionGuard>) -> bool {
        matches!(&self.count, SessionCount::ByTunnels(ours) if ours.as_ptr() == Arc::as_ptr(hold))
    }

    /// Continues uncounted after the last tunnel ended.
    pub(super) fn release(&mut self, now: u64) {
        self.count = SessionCount::Uncounted;
        self.extend(now);
    }

    /// Sets the expiry time.
    pub(super) fn expire(&mut self, at: u64) {
        self.expiry = at;
    }

    fn extend(&mut self, now: u64) {
        self.expiry = now + u64::from(self.lifetime);
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(&self.count, SessionCount::ByTunnels(open) if open.strong_count() > 0)
    }
}

impl Sid {
    fn new(sid: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..sid.len()), u8::try_from(sid.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(sid);
                Self::Short { length, bytes }
            }
            _ => Self::Long(sid.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}
