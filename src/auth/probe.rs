//! The check of tokens alone, for measurements.

use super::{TokenCheck, jwt::JwtVerifier, now};
use crate::config::JwtConfig;

/// The check of the tokens of one configuration.
#[derive(Debug)]
pub struct TokenProbe(JwtVerifier);

impl TokenProbe {
    /// Creates the check.
    pub fn new(config: &JwtConfig) -> Self {
        Self(JwtVerifier::new(config.clone()))
    }

    /// Whether a token is accepted now.
    pub fn accepts(&self, token: &str) -> bool {
        matches!(self.0.check(token, now()), TokenCheck::Done(Ok(_)))
    }

    /// Forgets the tokens that were verified.
    pub fn forget(&self) {
        self.0.forget();
    }
}
