//! Why a source gives no backends, as the log and `moorline backends` show it.

use std::fmt;

use hickory_resolver::proto::rr::RecordType;

use super::limits::{MAX_ALIASES, MAX_ANSWER};
use crate::http_client;

/// Why a source of backends gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// A DNS name was not resolved.
    Dns(DnsLookupError),
    /// A list over HTTP was not received.
    Http(HttpListError),
    /// The answer has no backends.
    Empty,
    /// No entry of the answer can be used; says why.
    Unusable(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(error) => error.fmt(f),
            Self::Http(error) => error.fmt(f),
            Self::Empty => f.write_str("the answer contains no backend"),
            Self::Unusable(reasons) => f.write_str(reasons),
        }
    }
}

impl std::error::Error for SourceError {}

/// Why a DNS name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsLookupError {
    /// The resolver cannot be started, for example because of an invalid `/etc/resolv.conf`.
    Resolver(String),
    /// No name server answered in time.
    Timeout,
    /// A query failed.
    Query {
        /// The name of the query.
        name: String,
        /// The resolver's error.
        reason: String,
    },
    /// A name server answered with an error code.
    ResponseCode {
        /// The name of the query.
        name: String,
        /// The error code, for example `Server Failure`.
        code: String,
    },
    /// The queries for A and for AAAA records failed for different reasons.
    BothFamilies(Box<Self>, Box<Self>),
    /// The name has no A or AAAA records.
    NoAddress(String),
    /// The name has no records of this type.
    NoRecords(String, RecordType),
    /// All SRV records of the name say that the service is not available.
    NoServer(String),
    /// The name is behind too many CNAME records.
    AliasChain(String),
}

impl fmt::Display for DnsLookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolver(reason) => write!(f, "the DNS resolver cannot be started: {reason}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Query { name, reason } => write!(f, "{name}: {reason}"),
            Self::ResponseCode { name, code } => {
                write!(f, "the name server answers {code} for {name}")
            }
            Self::BothFamilies(v4, v6) => write!(f, "{v4}; {v6}"),
            Self::NoAddress(name) => write!(f, "{name} has no address"),
            Self::NoRecords(name, records) => write!(f, "{name} has no {records} records"),
            Self::NoServer(name) => write!(f, "the SRV records of {name} contain no server"),
            Self::AliasChain(name) => {
                write!(f, "{name} is behind more than {MAX_ALIASES} aliases")
            }
        }
    }
}

impl From<DnsLookupError> for SourceError {
    fn from(error: DnsLookupError) -> Self {
        Self::Dns(error)
    }
}

/// Why a list of backends was not received over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpListError {
    /// The answer was not complete in time.
    Timeout,
    /// The request failed: invalid URL, no connection, TLS or HTTP error.
    Request(String),
    /// The server redirects, which is not supported.
    Redirect(u16),
    /// The server answered with another status than 200.
    Status(u16),
    /// The body is too long.
    TooLong,
    /// The body is not JSON.
    NotJson(String),
    /// The JSON is an object without an array `backends`.
    NoArray,
    /// The JSON is neither an array nor an object.
    WrongType,
}

impl fmt::Display for HttpListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no complete answer in time"),
            Self::Request(reason) => f.write_str(reason),
            Self::Redirect(status) => {
                write!(f, "status {status}: redirects are not followed; set the final URL")
            }
            Self::Status(status) => write!(f, "expected status 200, got {status}"),
            Self::TooLong => write!(f, "the answer is longer than {} MiB", MAX_ANSWER >> 20),
            Self::NotJson(reason) => write!(
                f,
                "the answer is not JSON ({reason}); it must be an array of addresses, or Consul's list of \
                 instances"
            ),
            Self::NoArray => f.write_str("the answer has no array `backends`"),
            Self::WrongType => f.write_str("the answer is neither an array nor an object"),
        }
    }
}

impl HttpListError {
    /// A failed request, with the causes of `error`: hyper's own message is often too short.
    pub(super) fn request(error: &dyn std::error::Error) -> Self {
        Self::Request(http_client::with_sources(error))
    }
}

impl From<HttpListError> for SourceError {
    fn from(error: HttpListError) -> Self {
        Self::Http(error)
    }
}
