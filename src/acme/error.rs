//! Why there is no certificate, and whether a retry may help.

use std::{fmt, time::Duration};

use instant_acme::Error;

use super::client::is_temporary;

/// Problem type of an unknown account (RFC 8555 §6.7).
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct OrderError {
    /// The message, with the server's own words if it sent a problem document.
    pub(super) text: String,
    /// Whether the challenge of a name failed. The other challenge type may succeed.
    pub(super) challenge_failed: bool,
    /// Whether the server does not know the account.
    pub(super) unknown_account: bool,
    /// `Retry-After` of the server.
    pub(super) retry_after: Option<Duration>,
    /// Whether a retry of the same request may succeed.
    pub(super) temporary: bool,
}

impl OrderError {
    /// An error that is not temporary.
    pub(super) fn new(error: impl fmt::Display) -> Self {
        Self {
            text: error.to_string(),
            challenge_failed: false,
            unknown_account: false,
            retry_after: None,
            temporary: false,
        }
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        let unknown_account = matches!(
            &error,
            Error::Api(problem) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT)
        );
        let status = match &error {
            Error::Api(problem) => problem.status.map(|status| format!("HTTP {status}: ")),
            _ => None,
        };
        let text = format!("{}{error}", status.unwrap_or_default());
        Self { unknown_account, temporary: is_temporary(&error), ..Self::new(text) }
    }
}
