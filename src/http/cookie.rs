//! The sticky cookie on its way in and out: what the client holds, whether it is told another.

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

/// The cookie side of a request.
#[derive(Debug)]
pub(super) struct AffinityCookie {
    held: Option<Affinity>,
    /// The request has a cookie that backends are not to see.
    ours: bool,
    context: CookieContext,
}

/// A valid cookie of the client's.
#[derive(Debug)]
struct Affinity {
    backend: Arc<Backend>,
    /// It has today's name and was made under today's key, so that it need not be replaced.
    current: bool,
}

impl AffinityCookie {
    /// Of a request with this header, to this pool.
    pub(super) fn of(fields: &HeaderMap, pool: &PoolSnapshot, tls: bool, host: &str) -> Self {
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

    /// The backend that the client's own cookie names, where it is one of the pool's.
    pub(super) fn target(&self) -> Option<&Arc<Backend>> {
        self.held.as_ref().map(|held| &held.backend)
    }

    /// Removes the pool's own cookie from a request, which no backend has a use for.
    pub(super) fn strip(&self, pool: &PoolSnapshot, fields: &mut HeaderMap) {
        let Some(cookie) = pool.config().sticky.cookie.as_ref().filter(|_| self.ours) else {
            return;
        };
        sticky::cookie::strip(fields, |name, value| {
            name == cookie.name.as_bytes()
                || is_former(pool, name) && pool.cookie_target(value).is_some()
        });
    }

    /// Names `backend` in a cookie, unless the client's own does already.
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

/// The cookie that counts, and whether there is any of ours.
///
/// Of several valid ones the first counts whose backend takes new sessions: an older one must not hide
/// it. Cookies under the name of earlier versions come last, and only valid ones are ours: an application
/// may use that name itself.
fn search(fields: &HeaderMap, pool: &PoolSnapshot, name: &str) -> (Option<Affinity>, bool) {
    let (mut best, mut ours) = (None, false);
    let mut consider = |value: &str, by_name: bool| {
        let named = pool.cookie_target(value);
        ours |= by_name || named.is_some();
        let Some((backend, current_key)) = named else { return false };
        let open = backend.takes_new() && !backend.sheds();
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

/// Whether an `Origin` is this host's own. Clients without `Sec-Fetch-Site` do not say whether two
/// hosts are one site: only the same host counts.
fn is_origin_of(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// A shared cache that keeps a reply with a sticky cookie would moor all its clients to one backend.
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
