//! Which pages may open sessions of Engine.IO and WebSockets.
//!
//! A browser lets every page open a WebSocket to every host, and adds the cookies of the host: the origin is the only sign
//! of the page (RFC 6455 §10.2). Requests without an origin pass: they are not from a page, or from one of the same host.

use std::borrow::Cow;

use moorline_http::{FieldId, RequestHead};

use super::{cors::is_allowed, variables::FilterFacts};
use crate::config::OriginRules;

/// Returns the origin of a request that opens or uses a session or a WebSocket, if its pages may not.
pub(super) fn refused<'r>(
    rules: &OriginRules,
    request: &'r RequestHead,
    facts: &FilterFacts<'_>,
) -> Option<Cow<'r, str>> {
    if !facts.upgrade && !facts.is_engine {
        return None;
    }
    let mut origins = request.head.all(FieldId::Origin);
    let origin = origins.next()?;
    let is_same = || rules.same_host && is_of_host(origin, facts.host);
    let allowed = origins.next().is_none() && (is_allowed(&rules.listed, origin) || is_same());
    (!allowed).then(|| String::from_utf8_lossy(origin))
}

/// Whether an origin has this host. The scheme is not compared: a proxy in front may have ended TLS.
fn is_of_host(origin: &[u8], host: &str) -> bool {
    let origin = std::str::from_utf8(origin).unwrap_or_default();
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let usual = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    let plain = |authority: &str| authority.strip_suffix(usual).unwrap_or(authority).to_owned();
    !authority.is_empty() && plain(authority).eq_ignore_ascii_case(&plain(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_its_host_and_port() {
        for (origin, host) in [
            ("https://app.test", "app.test"),
            ("https://app.test", "APP.test:443"),
            ("http://app.test", "app.test:80"),
            ("http://app.test:8080", "app.test:8080"),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ] {
            assert!(is_of_host(origin.as_bytes(), host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://evil.test", "app.test"),
            ("https://app.test.evil.test", "app.test"),
            ("https://app.test:8443", "app.test"),
            ("https://app.test", "app.test:8443"),
            ("http://app.test:443", "app.test"),
            ("null", "app.test"),
            ("file://", ""),
            ("https://", ""),
            ("app.test", "app.test"),
        ] {
            assert!(!is_of_host(origin.as_bytes(), host), "{origin} {host}");
        }
    }
}
