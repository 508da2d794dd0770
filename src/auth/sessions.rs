//! The identities of Engine.IO sessions and of tunnels, when they end, and which were revoked.
//!
//! A session is bound to the identity of its handshake. The binding lives as long as the session in the session table.
//! A polling session needs no timer: its next request finds that its identity has ended. Tunnels whose identity expires
//! are sorted by that time; one call a second closes those that are due. Tunnels without expiry are listed, so that a
//! revocation finds them, and cost no timer.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;

use super::{Identity, LoginId};
use crate::{
    config::SessionAuthConfig,
    tunnel::{CloseReason, TunnelCloser},
};

/// Number of shards of bindings.
const SHARDS: usize = 32;

/// Maximum number of revoked subjects. The oldest revocation is dropped first.
const MOST_REVOKED: usize = 10_000;

/// Identities of sessions and tunnels. Outlives configurations.
#[derive(Debug, Default)]
pub(crate) struct SessionIdentities {
    shards: [Mutex<HashMap<SessionKey, BoundSession>>; SHARDS],
    hasher: RandomState,
    next_sweep: AtomicUsize,
    tunnels: Mutex<Tunnels>,
    /// When the tokens of subjects were revoked, in seconds since 1970.
    revoked: ArcSwapOption<HashMap<Box<str>, u64>>,
    /// Logins that were ended, and when they would have ended by themselves.
    ended_logins: ArcSwapOption<HashMap<LoginId, u64>>,
}

/// Maximum number of ended logins. The one that would have ended first is dropped first.
const MOST_ENDED: usize = 10_000;

/// Pool and sid.
type SessionKey = (Box<str>, Box<str>);

/// The identity of a session.
#[derive(Clone, Debug)]
pub(crate) struct BoundSession {
    /// The client of the handshake.
    pub(crate) identity: Arc<Identity>,
    /// The place that has opened the session: it is used at no other.
    place: u64,
    /// When the session ends, in seconds since 1970.
    ends: Option<u64>,
    revoked: bool,
}

impl BoundSession {
    /// Creates the binding of a session, or of a tunnel, that opens at this place.
    pub(crate) fn new(identity: Arc<Identity>, place: u64, policy: &SessionAuthConfig) -> Self {
        let ends = identity.expires.map(|expires| expires.saturating_add(policy.grace.as_secs()));
        Self { identity, place, ends, revoked: false }
    }

    /// Whether the session was opened at this place. Elsewhere, it stands for no credential.
    pub(crate) fn is_of(&self, place: u64) -> bool {
        self.place == place
    }

    /// Whether the session has ended because of its identity.
    pub(crate) fn has_ended(&self, now: u64) -> bool {
        self.revoked || self.ends.is_some_and(|ends| ends <= now)
    }
}

/// Tunnels with an identity.
#[derive(Debug, Default)]
struct Tunnels {
    open: HashMap<u64, ListedTunnel>,
    /// When tunnels end, and their numbers.
    ends: BTreeSet<(u64, u64)>,
    next: u64,
}

#[derive(Debug)]
struct ListedTunnel {
    bound: BoundSession,
    closer: TunnelCloser,
    close_code: u16,
}

/// Keeps a tunnel listed.
#[derive(Debug)]
pub(crate) struct BoundTunnel {
    identities: Arc<SessionIdentities>,
    number: u64,
}

impl Drop for BoundTunnel {
    fn drop(&mut self) {
        let mut tunnels = self.identities.tunnels();
        let ended = tunnels.open.remove(&self.number);
        if let Some(ends) = ended.as_ref().and_then(|tunnel| tunnel.bound.ends) {
            tunnels.ends.remove(&(ends, self.number));
        }
        drop(tunnels);
        // Without the lock: this may drop the last reference to the tunnel's state.
        drop(ended);
    }
}

impl SessionIdentities {
    /// Returns the identity of a session.
    pub(crate) fn find(&self, pool: &str, sid: &str) -> Option<BoundSession> {
        let shard = self.shard(pool, sid);
        if shard.is_empty() {
            return None;
        }
        shard.get(&(pool.into(), sid.into())).cloned()
    }

    /// Binds a session that has no identity yet.
    pub(crate) fn bind(&self, pool: &str, sid: &str, bound: &BoundSession) {
        let key = (pool.into(), sid.into());
        let mut shard = self.shard(pool, sid);
        let bound = shard.entry(key).or_insert_with(|| bound.clone());
        // Revoked since the request arrived: either the revocation sees the session, or the session the revocation.
        bound.revoked |= self.is_revoked(&bound.identity);
    }

    /// Lists an open tunnel, until the returned guard is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        bound: &BoundSession,
        closer: TunnelCloser,
        close_code: u16,
    ) -> BoundTunnel {
        let mut tunnels = self.tunnels();
        let number = tunnels.next;
        tunnels.next += 1;
        if let Some(ends) = bound.ends {
            tunnels.ends.insert((ends, number));
        }
        // Revoked since the request arrived: either the revocation sees the tunnel, or the tunnel the revocation.
        if self.is_revoked(&bound.identity) {
            closer.close(CloseReason::Revoked, close_code);
        }
        tunnels.open.insert(number, ListedTunnel { bound: bound.clone(), closer, close_code });
        BoundTunnel { identities: Arc::clone(self), number }
    }

    /// Closes the tunnels whose identity has ended, and returns their number. Call every second.
    pub(crate) fn close_ended(&self, now: u64) -> usize {
        let mut tunnels = self.tunnels();
        let mut closed = 0;
        while let Some(&(ends, number)) = tunnels.ends.first() {
            if ends > now {
                break;
            }
            tunnels.ends.pop_first();
            if let Some(tunnel) = tunnels.open.get(&number) {
                closed += usize::from(tunnel.closer.close(CloseReason::Expired, tunnel.close_code));
            }
        }
        closed
    }

    /// Forgets the bindings of sessions that are not `known` any more, in a part of the table. Call every second.
    pub(crate) fn sweep(&self, known: impl Fn(&str, &str) -> bool) {
        let at = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut shard = lock(&self.shards[at]);
        shard.retain(|(pool, sid), _| known(pool, sid));
        let length = shard.len();
        if shard.capacity() > 4 * length + 64 {
            shard.shrink_to(2 * length);
        }
    }

    /// Revokes the tokens of a subject that were issued until now, and ends all its sessions. Returns the numbers of
    /// sessions and of tunnels that end.
    pub(crate) fn revoke(&self, subject: &str, now: u64) -> (usize, usize) {
        self.refuse_tokens(subject, now);
        self.end(|identity| *identity.subject == *subject, now)
    }

    /// Ends a login, which would have ended `until`: its cookie is refused from now on, and its sessions and tunnels end.
    pub(crate) fn end_login(&self, login: LoginId, until: u64, now: u64) {
        self.ended_logins.rcu(|ended| {
            let mut ended = ended.as_deref().cloned().unwrap_or_default();
            ended.retain(|_, until| *until > now);
            if ended.len() >= MOST_ENDED {
                let first = ended.iter().min_by_key(|(_, until)| **until).map(|(login, _)| *login);
                first.and_then(|login| ended.remove(&login));
            }
            ended.insert(login, until);
            Some(Arc::new(ended))
        });
        self.end(|identity| identity.login == Some(login), now);
    }

    /// Ends the sessions and tunnels of some identities. Returns their numbers.
    fn end(&self, is_theirs: impl Fn(&Identity) -> bool, now: u64) -> (usize, usize) {
        let mut sessions = 0;
        for shard in &self.shards {
            for bound in lock(shard).values_mut() {
                if is_theirs(&bound.identity) && !bound.has_ended(now) {
                    bound.revoked = true;
                    sessions += 1;
                }
            }
        }
        let tunnels = self.tunnels();
        let theirs = tunnels.open.values().filter(|open| is_theirs(&open.bound.identity));
        let closed =
            theirs.filter(|tunnel| tunnel.closer.close(CloseReason::Revoked, tunnel.close_code));
        (sessions, closed.count())
    }

    fn refuse_tokens(&self, subject: &str, now: u64) {
        self.revoked.rcu(|revoked| {
            let mut revoked = revoked.as_deref().cloned().unwrap_or_default();
            revoked.insert(subject.into(), now);
            if revoked.len() > MOST_REVOKED {
                let oldest =
                    revoked.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
                oldest.and_then(|name| revoked.remove(&name));
            }
            Some(Arc::new(revoked))
        });
    }

    /// Whether the token of an identity was revoked, or its login ended. A token without a time of issue counts as old.
    pub(crate) fn is_revoked(&self, identity: &Identity) -> bool {
        if let (Some(login), Some(ended)) = (&identity.login, &*self.ended_logins.load())
            && ended.contains_key(login)
        {
            return true;
        }
        let revoked = self.revoked.load();
        let at = revoked.as_ref().and_then(|revoked| revoked.get(&identity.subject));
        at.is_some_and(|at| identity.issued.is_none_or(|issued| issued <= *at))
    }

    fn shard(&self, pool: &str, sid: &str) -> MutexGuard<'_, HashMap<SessionKey, BoundSession>> {
        lock(&self.shards[self.hasher.hash_one((pool, sid)) as usize % SHARDS])
    }

    fn tunnels(&self) -> MutexGuard<'_, Tunnels> {
        lock(&self.tunnels)
    }
}

/// A panic leaves the tables intact: no critical section can end halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelRegistry;

    const POLICY: SessionAuthConfig =
        SessionAuthConfig { grace: std::time::Duration::from_secs(5), close_code: 1008 };

    const PLACE: u64 = 7;

    fn bound(subject: &str, issued: u64, expires: Option<u64>) -> BoundSession {
        let (subject, issued) = (subject.into(), Some(issued));
        let identity = Identity { subject, issued, expires, ..Identity::default() };
        BoundSession::new(Arc::new(identity), PLACE, &POLICY)
    }

    #[test]
    fn a_session_keeps_its_first_identity_until_it_ends() {
        let identities = SessionIdentities::default();
        identities.bind("chat", "s1", &bound("anna", 10, Some(100)));
        identities.bind("chat", "s1", &bound("bert", 10, Some(900)));
        let found = identities.find("chat", "s1").unwrap();
        assert_eq!(&*found.identity.subject, "anna");
        assert!(!found.has_ended(104) && found.has_ended(105));
        assert!(identities.find("other", "s1").is_none());
        assert!(found.is_of(PLACE) && !found.is_of(PLACE + 1));
        for _ in 0..SHARDS {
            identities.sweep(|_, _| false);
        }
        assert!(identities.find("chat", "s1").is_none());
    }

    #[tokio::test]
    async fn tunnels_are_closed_when_they_are_due_and_only_once() {
        let identities = Arc::new(SessionIdentities::default());
        let registry = Arc::new(TunnelRegistry::default());
        let tickets: Vec<_> =
            (0..4).map(|_| registry.enter(1, "127.0.0.1:1".parse().unwrap(), true)).collect();
        let expiries = [Some(100), Some(50), None, Some(60)];
        let mut guards: Vec<_> = tickets
            .iter()
            .zip(expiries)
            .map(|(ticket, expires)| {
                identities.enter(&bound("anna", 10, expires), ticket.closer(), 1008)
            })
            .collect();
        guards.pop();
        assert_eq!((identities.close_ended(54), registry.staying(1)), (0, 4));
        assert_eq!((identities.close_ended(65), registry.staying(1)), (1, 3));
        assert_eq!(identities.close_ended(65), 0);
        assert_eq!(identities.revoke("bert", 70), (0, 0));
        assert_eq!((identities.revoke("anna", 70), registry.staying(1)), ((0, 2), 1));
        assert_eq!(identities.close_ended(1000), 0);
        guards.clear();
        assert!(identities.tunnels().open.is_empty() && identities.tunnels().ends.is_empty());
    }

    #[test]
    fn a_revocation_ends_sessions_and_refuses_older_tokens() {
        let identities = SessionIdentities::default();
        let (old, new) = (bound("anna", 70, Some(500)), bound("anna", 71, Some(500)));
        identities.bind("chat", "s1", &old);
        identities.bind("chat", "s2", &bound("bert", 10, Some(500)));
        assert!(!identities.is_revoked(&old.identity));
        assert_eq!(identities.revoke("anna", 70), (1, 0));
        assert_eq!(identities.revoke("anna", 70), (0, 0));
        assert!(identities.find("chat", "s1").unwrap().has_ended(71));
        assert!(!identities.find("chat", "s2").unwrap().has_ended(71));
        assert!(identities.is_revoked(&old.identity) && !identities.is_revoked(&new.identity));
        let id = [7; 16];
        let login = |login| Identity { login, subject: "cleo".into(), ..Identity::default() };
        let (login, other) = (login(Some(id)), login(Some([8; 16])));
        identities.bind("chat", "s3", &BoundSession::new(Arc::new(login), PLACE, &POLICY));
        identities.bind("chat", "s4", &BoundSession::new(Arc::new(other), PLACE, &POLICY));
        identities.end_login(id, 500, 70);
        let (login, other) =
            (identities.find("chat", "s3").unwrap(), identities.find("chat", "s4").unwrap());
        assert!(login.has_ended(71) && identities.is_revoked(&login.identity));
        assert!(!other.has_ended(71) && !identities.is_revoked(&other.identity));
        for n in 0..MOST_REVOKED as u64 + 5 {
            identities.refuse_tokens(&n.to_string(), n + 100);
        }
        assert_eq!(identities.revoked.load().as_ref().unwrap().len(), MOST_REVOKED);
    }
}
