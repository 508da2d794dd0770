//! Why a credential is not accepted.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Response;

use super::Identity;

/// Why a request has no identity.
#[derive(Clone, Debug)]
pub(crate) enum AuthFault {
    /// There is no credential.
    Missing,
    /// The credential is longer than allowed.
    TooLong,
    /// The token is not a signed token; with what is wrong.
    Malformed(&'static str),
    /// The token has an algorithm that is not allowed.
    Algorithm,
    /// No key fits the token.
    UnknownKey,
    /// The signature is not valid.
    Signature,
    /// A claim is missing or has a wrong type.
    Claim(&'static str),
    /// There is no such API key.
    UnknownApiKey,
    /// The name or the password is wrong.
    Password,
    /// The credential has expired; it was this identity's.
    Expired(Arc<Identity>),
    /// The token is not valid yet.
    NotYetValid,
    /// The token is from another issuer.
    Issuer,
    /// The token is for another audience.
    Audience,
    /// The subject's tokens of that time were revoked.
    Revoked,
    /// There are no keys: they could never be fetched.
    NoKeys,
    /// A browser has to log in.
    LoginNeeded,
    /// Too many credentials are being checked.
    Busy,
    /// Another server refuses the request, with this response.
    Refused(Box<Response<Bytes>>),
    /// Another server that decides gives no decision; with the reason.
    Undecided(Box<str>),
}

impl AuthFault {
    /// Whether a client with a valid credential would be refused, too.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::NoKeys | Self::Busy | Self::Undecided(_))
    }
}

impl fmt::Display for AuthFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no credentials"),
            Self::TooLong => f.write_str("the credential is too long"),
            Self::Malformed(what) => write!(f, "malformed credential: {what}"),
            Self::Algorithm => f.write_str("the token's algorithm is not allowed"),
            Self::UnknownKey => f.write_str("no key fits the token"),
            Self::Signature => f.write_str("the token's signature is not valid"),
            Self::Claim(name) => write!(f, "the claim `{name}` is missing or has a wrong type"),
            Self::UnknownApiKey => f.write_str("there is no such API key"),
            Self::Password => f.write_str("wrong name or password"),
            Self::Expired(_) => f.write_str("the credential has expired"),
            Self::NotYetValid => f.write_str("the token is not valid yet"),
            Self::Issuer => f.write_str("the token is from another issuer"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Revoked => f.write_str("the credential was revoked"),
            Self::NoKeys => f.write_str("the keys could not be fetched"),
            Self::Refused(response) => {
                write!(f, "refused by forward auth with status {}", response.status().as_u16())
            }
            Self::Undecided(reason) => write!(f, "no decision by forward auth: {reason}"),
            Self::LoginNeeded => f.write_str("a login is needed"),
            Self::Busy => f.write_str("too many passwords are being checked"),
        }
    }
}
