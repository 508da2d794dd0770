//! The affinity cookie: read from the request, set in the reply.

use std::sync::Arc;

use http::{Method, StatusCode};
use moorline_http::{FieldId, Head};

use super::engine_request::EngineRequest;
use crate::{
    config::{FORMER_COOKIE_NAME, SetOn},
    snapshot::PoolSnapshot,
    sticky::{self, CookieContext},
    upstream::Backend,
};

/// Affinity cookie of a request.
#[derive(Debug)]
pub(crate) struct AffinityCookie {
    held: Option<Affinity>,
    /// The request has a cookie of this proxy, which backends must not see.
    ours: bool,
    context: CookieContext,
}

/// A valid affinity cookie sent by the client.
#[derive(Debug)]
struct Affinity {
    backend: Arc<Backend>,
    /// The cookie has the current name and key, so that it does not have to be replaced.
    current: bool,
}

impl AffinityCookie {
    /// Reads the affinity cookie of a request to `pool` from its head.
    pub(crate) fn of(head: &Head, pool: &PoolSnapshot, tls: bool, host: &str) -> Self {
        let cross_site = match head.get(FieldId::SecFetchSite) {
            Some(site) => site == b"cross-site",
            None => head.get(FieldId::Origin).is_some_and(|origin| !is_origin_of(origin, host)),
        };
        let (mut held, mut ours) = (None, false);
        if let Some(cookie) = &pool.config().sticky.cookie
            && head.has(FieldId::Cookie)
        {
            (held, ours) = search(head, pool, &cookie.name);
        }
        Self { held, ours, context: CookieContext { tls, cross_site } }
    }

    /// Backend that the client's cookie names, if it belongs to the pool.
    pub(crate) fn target(&self) -> Option<&Arc<Backend>> {
        self.held.as_ref().map(|held| &held.backend)
    }

    /// Removes the pool's own cookie from a request; backends do not need it.
    pub(super) fn strip(&self, pool: &PoolSnapshot, head: &mut Head) {
        let Some(cookie) = pool.config().sticky.cookie.as_ref().filter(|_| self.ours) else {
            return;
        };
        let is_ours = |name: &[u8], value: &str| {
            name == cookie.name.as_bytes()
                || is_former(pool, name) && pool.cookie_target(value).is_some()
        };
        sticky::cookie::strip_all(head, is_ours);
    }

    /// Sets a cookie for `backend`, unless the client already has one.
    pub(super) fn name(&self, pool: &PoolSnapshot, backend: &Arc<Backend>, head: &mut Head) {
        let is_it = |held: &Affinity| held.current && Arc::ptr_eq(&held.backend, backend);
        if self.held.as_ref().is_some_and(is_it) {
            return;
        }
        if let Some(value) = pool.cookie(backend, self.context) {
            head.append(FieldId::SetCookie, value);
            keep_private(head);
        }
    }
}

/// Whether the reply to a request sets the affinity cookie. `engine` is the request's Engine.IO query.
pub(super) fn is_set_by_reply(
    pool: &PoolSnapshot,
    (engine, method, upgrade): (Option<&EngineRequest>, &Method, bool),
    status: StatusCode,
) -> bool {
    let Some(cookie) = &pool.config().sticky.cookie else { return false };
    let opens = engine.map_or(upgrade, |engine| engine.sid.is_none());
    (opens || cookie.set_on == SetOn::Always)
        && method != Method::OPTIONS
        && (status.is_success()
            || status.is_redirection()
            || status == StatusCode::SWITCHING_PROTOCOLS)
}

/// Returns the effective cookie, and whether the request has any cookie of this proxy.
///
/// If several cookies are valid, the first one whose backend takes new sessions wins: an older
/// cookie must not hide it. Cookies under the name that earlier versions used come last, and only
/// valid ones count as this proxy's: an application may use that name itself.
fn search(head: &Head, pool: &PoolSnapshot, name: &str) -> (Option<Affinity>, bool) {
    let (mut best, mut ours) = (None, false);
    let mut consider = |value: &str, by_name: bool| {
        let named = pool.cookie_target(value);
        ours |= by_name || named.is_some();
        let Some((backend, current_key)) = named else { return false };
        let open = backend.accepts_new() && !backend.is_shedding();
        if open || best.is_none() {
            let current = current_key && by_name;
            best = Some(Affinity { backend: Arc::clone(backend), current });
        }
        open
    };
    let found =
        sticky::cookie::values(head.all(FieldId::Cookie), name).any(|value| consider(value, true));
    if !found && pool.reads_former_cookie() {
        sticky::cookie::values(head.all(FieldId::Cookie), FORMER_COOKIE_NAME)
            .any(|value| consider(value, false));
    }
    (best, ours)
}

fn is_former(pool: &PoolSnapshot, name: &[u8]) -> bool {
    pool.reads_former_cookie() && name == FORMER_COOKIE_NAME.as_bytes()
}

/// Whether an `Origin` has this host. Clients without `Sec-Fetch-Site` do not say whether two hosts
/// belong to one site, so only an equal host counts.
fn is_origin_of(origin: &[u8], host: &str) -> bool {
    let origin = std::str::from_utf8(origin).unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// Makes the reply private: a shared cache that stores an affinity cookie would send all of its clients
/// to one backend.
fn keep_private(head: &mut Head) {
    let is_kept = |token: &&[u8]| {
        !token.eq_ignore_ascii_case(b"public")
            && !token.eq_ignore_ascii_case(b"private")
            && !token.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"s-maxage"))
    };
    if head.has_token(FieldId::CacheControl, "no-store") {
        return;
    }
    let mut value = b"private".to_vec();
    for token in head.tokens(FieldId::CacheControl).filter(is_kept) {
        value.extend_from_slice(b", ");
        value.extend_from_slice(token);
    }
    head.set(FieldId::CacheControl, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::response;

    #[test]
    fn a_reply_with_a_cookie_is_private() {
        for (sent, expected) in [
            ("", "private"),
            ("Cache-Control: Public, max-age=60, S-MaxAge=9\r\n", "private, max-age=60"),
            ("Cache-Control: private=\"x\"\r\nCache-Control: a\r\n", "private, private=\"x\", a"),
            ("Cache-Control: public, No-Store\r\n", "public, No-Store"),
        ] {
            let mut response = response(&format!("HTTP/1.1 200 OK\r\n{sent}"));
            keep_private(&mut response.head);
            let values: Vec<_> = response.head.all(FieldId::CacheControl).collect();
            assert_eq!(values, [expected.as_bytes()], "{sent}");
        }
    }

    #[test]
    fn only_an_equal_host_is_the_same_site() {
        assert!(is_origin_of(b"https://Chat.test:8443", "chat.test:8443"));
        for other in [&b"https://a.chat.test"[..], b"null", b"chat.test", b"\xff"] {
            assert!(!is_origin_of(other, "chat.test"), "{other:?}");
        }
    }
}
