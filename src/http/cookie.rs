//! The sticky cookie on its way in and out: what the client holds, whether it is told another.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, ORIGIN, SET_COOKIE},
};

use super::headers;
use crate::{
    snapshot::Pool,
    sticky::{self, Context},
    upstream::Backend,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The cookie side of a request.
#[derive(Debug)]
pub(super) struct Crossing {
    held: Option<Box<str>>,
    context: Context,
}

impl Crossing {
    /// Of a request with this header, to this pool.
    pub(super) fn of(fields: &HeaderMap, pool: &Pool, tls: bool, host: &str) -> Self {
        let cookie = pool.config().sticky.cookie.as_ref();
        let held = cookie.and_then(|cookie| sticky::read(fields, &cookie.name)).map(Into::into);
        let cross_site = match fields.get(SEC_FETCH_SITE) {
            Some(site) => site == "cross-site",
            None => fields.get(ORIGIN).is_some_and(|origin| !is_origin_of(origin, host)),
        };
        Self { held, context: Context { tls, cross_site } }
    }

    /// The backend that the client's own cookie names, where it is one of the pool's.
    pub(super) fn moored<'a>(&self, pool: &'a Pool) -> Option<&'a Arc<Backend>> {
        self.held.as_deref().and_then(|value| pool.moored(value))
    }

    /// Names `backend` in a cookie, unless the client's own does already.
    pub(super) fn name(&self, pool: &Pool, backend: &Backend, fields: &mut HeaderMap) {
        if let Some(value) = pool.cookie(backend, self.held.as_deref(), self.context) {
            fields.append(SET_COOKIE, value);
            keep_private(fields);
        }
    }
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
