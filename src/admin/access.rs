//! Authentication of API requests: file permissions on the unix socket, a bearer token over TCP.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    constant_time,
    digest::{self, SHA256},
};
use http::{HeaderMap, header};

/// Minimum time between two warnings about wrong tokens.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Transport of a request, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdminTransport {
    /// The unix socket, with the user id of the client if the system reports it.
    Unix(Option<u32>),
    /// TCP, from this address.
    Tcp(SocketAddr),
}

impl fmt::Display for AdminTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(Some(user)) => write!(f, "unix uid={user}"),
            Self::Unix(None) => f.write_str("unix"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
        }
    }
}

/// The expected bearer token (RFC 6750), as a digest, so that it cannot be printed.
#[derive(Debug)]
pub(super) struct Token {
    digest: digest::Digest,
    warned: Mutex<Option<Instant>>,
}

impl Token {
    /// Creates the digest of the expected token.
    pub(super) fn new(token: &str) -> Self {
        Self { digest: digest::digest(&SHA256, token.as_bytes()), warned: Mutex::new(None) }
    }

    /// Whether a request has the token. Compares digests in constant time, so that response times
    /// reveal neither the first bytes nor the length.
    pub(super) fn matches(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let Some((scheme, token)) = field.as_bytes().split_at_checked(7) else { return false };
        let offered = digest::digest(&SHA256, token);
        scheme.eq_ignore_ascii_case(b"bearer ")
            && constant_time::verify_slices_are_equal(offered.as_ref(), self.digest.as_ref())
                .is_ok()
    }

    /// Logs a rejected request, at most once per [`WARN_INTERVAL`].
    pub(super) fn log_rejected(&self, transport: AdminTransport) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|then| then.elapsed() >= WARN_INTERVAL) {
            *warned = Some(Instant::now());
            drop(warned);
            tracing::warn!(from = %transport, "rejected a request to the admin API: it has no token or a wrong one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_exact_bearer_token_matches() {
        let token = Token::new("sixteen bytes, or");
        for good in ["Bearer sixteen bytes, or", "bearer sixteen bytes, or"] {
            assert!(token.matches(&headers(&[good])), "{good}");
        }
        let bad = ["", "Bearer", "Bearer ", "Bearer sixteen", "Basic sixteen bytes, or"];
        for bad in bad.into_iter().chain(["Bearer sixteen bytes, or ", "sixteen bytes, or"]) {
            assert!(!token.matches(&headers(&[bad])), "{bad}");
        }
        assert!(!token.matches(&headers(&[])));
        // Two fields are ambiguous.
        let twice = ["Bearer sixteen bytes, or", "Bearer x"];
        assert!(!token.matches(&headers(&twice)));
    }

    #[test]
    fn debug_does_not_print_the_token() {
        let shown = format!("{:?}", Token::new("sixteen bytes, or"));
        assert!(!shown.contains("sixteen"), "{shown}");
    }
}
