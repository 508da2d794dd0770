//! The affinity cookie: read from the request, set in the reply.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, COOKIE, ORIGIN, SET_COOKIE},
};

use super::headers;
use crate::{
    config::FORMER_COOKIE_NAME,
    snapshot::PoolSnapshot,
    sticky::{self, CookieContext},
    upstream::Backend,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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
    /// Reads the affinity cookie of a request to `pool` from its header.
    pub(crate) fn of(fields: &HeaderMap, pool: &PoolSnapshot, tls: bool, host: &str) -> Self {
        let cross_site = match fields.get(SEC_FETCH_SITE) {
            Some(site) => site == "cross-site",
            None => fields.get(ORIGIN).is_some_and(|origin| !is_origin_of(origin, host)),
        };
        let (mut held, mut ours) = (None, false);
        if let Some(cookie) = &pool.config().sticky.cookie
            && fields.contains_key(COOKIE)
        {
            (held, ours) = search(fields, pool, &cookie.name);
        }
        Self { held, ours, context: CookieContext { tls, cross_site } }
    }

    /// Backend that the client's cookie names, if it belongs to the pool.
    pub(crate) fn target(&self) -> Option<&Arc<Backend>> {
        self.held.as_ref().map(|held| &held.backend)
    }

    /// Removes the pool's own cookie from a request; backends do not need it.
    pub(super) fn strip(&self, pool: &PoolSnapshot, fields: &mut HeaderMap) {
        let Some(cookie) = pool.config().sticky.cookie.as_ref().filter(|_| self.ours) else {
            return;
        };
        sticky::cookie::strip(fields, |name, value| {
            name == cookie.name.as_bytes()
                || is_former(pool, name) && pool.cookie_target(value).is_some()
        });
    }

    /// Sets a cookie for `backend`, unless the client already has one.
    pub(super) fn name(&self, pool: &PoolSnapshot, backend: &Arc<Backend>, fields: &mut HeaderMap) {
        let is_it = |held: &Affinity| held.current && Arc::ptr_eq(&held.backend, backend);
        if self.held.as_ref().is_some_and(is_it) {
            return;
        }
        if let Some(value) = pool.cookie(backend, self.context) {
            fields.append(SET_COOKIE, value);
            keep_private(fields);
        }
    }
}

/// Returns the effective cookie, and whether the request has any cookie of this proxy.
///
/// If several cookies are valid, the first one whose backend takes new sessions wins: an older
/// cookie must not hide it. Cookies under the name that earlier versions used come last, and only
/// valid ones count as this proxy's: an application may use that name itself.
fn search(fields: &HeaderMap, pool: &PoolSnapshot, name: &str) -> (Option<Affinity>, bool) {
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
    let found = sticky::cookie::values(fields, name).any(|value| consider(value, true));
    if !found && pool.reads_former_cookie() {
        sticky::cookie::values(fields, FORMER_COOKIE_NAME).any(|value| consider(value, false));
    }
    (best, ours)
}

fn is_former(pool: &PoolSnapshot, name: &[u8]) -> bool {
    pool.reads_former_cookie() && name == FORMER_COOKIE_NAME.as_bytes()
}

/// Whether an `Origin` has this host. Clients without `Sec-Fetch-Site` do not say whether two hosts
/// belong to one site, so only an equal host counts.
fn is_origin_of(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// Makes the reply private: a shared cache that stores an affinity cookie would send all of its clients
/// to one backend.
fn keep_private(fields: &mut HeaderMap) {
    let kept: Vec<&str> = headers::tokens(fields, &CACHE_CONTROL)
        .filter(|token| {
            let token = token.to_ascii_lowercase();
            !(token == "public" || token == "private" || token.starts_with("s-maxage"))
        })
        .collect();
    if kept.iter().any(|token| token.eq_ignore_ascii_case("no-store")) {
        return;
    }
    let joined = std::iter::once("private").chain(kept).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&joined) {
        fields.insert(CACHE_CONTROL, value);
    }
}
