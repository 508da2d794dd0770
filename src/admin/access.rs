//! Who may use the API: whoever the file system lets open the unix socket, and over TCP whoever
//! brings the token.

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

/// One warning about wrong tokens for so long.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// By which way a request came, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum AdminTransport {
    /// The unix socket, by a process of this user, where the system says.
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

/// A bearer token (RFC 6750), as its digest: nothing here can print it.
#[derive(Debug)]
pub(super) struct Token {
    digest: digest::Digest,
    warned: Mutex<Option<Instant>>,
}

impl Token {
    /// The one to bring.
    pub(super) fn new(token: &str) -> Self {
        Self { digest: digest::digest(&SHA256, token.as_bytes()), warned: Mutex::new(None) }
    }

    /// Whether a request brings it. Digests are compared, in constant time: neither a first byte
    /// nor a length can be guessed apart.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let Some((scheme, token)) = field.as_bytes().split_at_checked(7) else { return false };
        let offered = digest::digest(&SHA256, token);
        scheme.eq_ignore_ascii_case(b"bearer ")
            && constant_time::verify_slices_are_equal(offered.as_ref(), self.digest.as_ref())
                .is_ok()
    }

    /// Tells the log about a request without it, now and then.
    pub(super) fn refused(&self, way: AdminTransport) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|then| then.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            drop(warned);
            tracing::warn!(from = %way, "rejected a request to the admin API: it has no token or a wrong one");
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
    fn the_token_and_nothing_else() {
        let token = Token::new("sixteen bytes, or");
        for good in ["Bearer sixteen bytes, or", "bearer sixteen bytes, or"] {
            assert!(token.is_in(&headers(&[good])), "{good}");
        }
        let bad = ["", "Bearer", "Bearer ", "Bearer sixteen", "Basic sixteen bytes, or"];
        for bad in bad.into_iter().chain(["Bearer sixteen bytes, or ", "sixteen bytes, or"]) {
            assert!(!token.is_in(&headers(&[bad])), "{bad}");
        }
        assert!(!token.is_in(&headers(&[])));
        // Which of two counts is anybody's guess.
        let twice = ["Bearer sixteen bytes, or", "Bearer x"];
        assert!(!token.is_in(&headers(&twice)));
    }

    #[test]
    fn nothing_prints_it() {
        let shown = format!("{:?}", Token::new("sixteen bytes, or"));
        assert!(!shown.contains("sixteen"), "{shown}");
    }
}
