//! One remembered sid, in few bytes.

use std::{
    mem,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Weak},
};

use super::super::recent_sessions::Key;
use crate::upstream::{Backend, Hold};

/// One sid with its backend. The key is the backend's pool and the sid.
///
/// Times are milliseconds of the table's clock.
pub(super) struct Entry {
    sid: Sid,
    backend: Arc<Backend>,
    count: Count,
    expiry: u64,
    lifetime: u32,
    tag: u32,
    /// The client that opened the session, as its handshake named it.
    client: Option<Key>,
    origin: Origin,
}

/// A million of them are a table's whole memory, nearly.
const _: () = assert!(size_of::<Entry>() == 96);

/// Where a session comes from, for operators.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// Address of the client that opened it.
    pub(super) address: Option<IpAddr>,
    /// When it was learned, in seconds of the table's clock, from 1.
    pub(super) since: Option<NonZeroU32>,
}

/// A sid's bytes; nearly all have 20 and need no memory of their own.
enum Sid {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

const SHORT: usize = 22;

/// How a session is counted on its backend: at most once, whatever happens to its entry.
enum Count {
    /// Not at all: its last tunnel ended, and nothing was heard of it since.
    Not,
    /// By its entry.
    ByEntry(Hold),
    /// By its open tunnels, so that it is counted for as long as they are, entry or not.
    ByTunnels(Weak<Hold>),
    /// Not at all, and never again: it was let go.
    LetGo,
}

impl Entry {
    /// An entry that counts its session.
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
            count: Count::ByEntry(backend.hold()),
            expiry: now + u64::from(lifetime),
            lifetime,
            tag,
            client: None,
            origin: Origin::default(),
        }
    }

    /// Where its session comes from.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Notes where its session comes from, unless that is known.
    pub(super) fn set_origin(&mut self, address: Option<IpAddr>, now: u64) {
        if self.origin.since.is_none() {
            let seconds = u32::try_from(now / 1000).unwrap_or(u32::MAX - 1);
            self.origin = Origin { address, since: NonZeroU32::new(seconds + 1) };
        }
    }

    /// The client that opened the session, if it is known.
    pub(super) fn client(&self) -> Option<Key> {
        self.client
    }

    /// Notes the client that opened the session. One that is not known does not replace one that is.
    pub(super) fn set_client(&mut self, client: Option<Key>) {
        self.client = client.or(self.client);
    }

    /// The session was closed: it is not counted any more, unless it is used again. What counted it is
    /// handed out, so that it is dropped outside of any lock.
    pub(super) fn close(&mut self) -> Option<Hold> {
        match mem::replace(&mut self.count, Count::Not) {
            Count::ByEntry(hold) => Some(hold),
            other => {
                self.count = other;
                None
            }
        }
    }

    /// The part of the key's hash that places it within its shard.
    pub(super) fn tag(&self) -> u32 {
        self.tag
    }

    pub(super) fn is(&self, tag: u32, pool: &str, sid: &str) -> bool {
        self.tag == tag && self.sid.bytes() == sid.as_bytes() && self.backend.pool() == pool
    }

    /// Its sid.
    pub(super) fn sid(&self) -> &str {
        // Made of a `str`.
        str::from_utf8(self.sid.bytes()).unwrap_or_default()
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(super) fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// Bytes of heap beside the entry itself.
    pub(super) fn heap(&self) -> usize {
        match &self.sid {
            Sid::Short { .. } => 0,
            Sid::Long(bytes) => bytes.len(),
        }
    }

    /// When it goes; never, while a tunnel is open.
    pub(super) fn expiry(&self) -> u64 {
        if self.is_held() { u64::MAX } else { self.expiry }
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expiry() < now
    }

    /// Whether it is counted and has no tunnel.
    pub(super) fn polls(&self) -> bool {
        matches!(self.count, Count::ByEntry(_))
    }

    pub(super) fn is_let_go(&self) -> bool {
        matches!(self.count, Count::LetGo)
    }

    /// Lets its session go; what counted it is handed out, so that it is dropped outside of any lock.
    pub(super) fn let_go(&mut self) -> Option<Hold> {
        match mem::replace(&mut self.count, Count::LetGo) {
            Count::ByEntry(hold) => Some(hold),
            Count::Not | Count::ByTunnels(_) | Count::LetGo => None,
        }
    }

    /// Notes a use: one more lifetime from now, and counted again if it was not. One that was let go
    /// is not brought back: it expires in its own time.
    pub(super) fn renew(&mut self, lifetime: u32, now: u64) {
        if self.is_let_go() {
            return;
        }
        self.lifetime = lifetime;
        self.extend(now);
        if !self.is_held() && !matches!(self.count, Count::ByEntry(_)) {
            self.count = Count::ByEntry(self.backend.hold());
        }
    }

    /// Leaves counting to a tunnel, together with those that are open already.
    pub(super) fn hold(&mut self, now: u64) -> Arc<Hold> {
        self.extend(now);
        let counted = match mem::replace(&mut self.count, Count::Not) {
            Count::Not | Count::LetGo => None,
            Count::ByEntry(hold) => Some(Arc::new(hold)),
            Count::ByTunnels(open) => open.upgrade(),
        };
        let hold = counted.unwrap_or_else(|| Arc::new(self.backend.hold()));
        self.count = Count::ByTunnels(Arc::downgrade(&hold));
        hold
    }

    /// Whether these tunnels are this entry's.
    pub(super) fn is_held_by(&self, hold: &Arc<Hold>) -> bool {
        matches!(&self.count, Count::ByTunnels(ours) if ours.as_ptr() == Arc::as_ptr(hold))
    }

    /// Lives on uncounted, after its last tunnel ended.
    pub(super) fn release(&mut self, now: u64) {
        self.count = Count::Not;
        self.extend(now);
    }

    /// Sets when it goes.
    pub(super) fn expire(&mut self, at: u64) {
        self.expiry = at;
    }

    fn extend(&mut self, now: u64) {
        self.expiry = now + u64::from(self.lifetime);
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(&self.count, Count::ByTunnels(open) if open.strong_count() > 0)
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
