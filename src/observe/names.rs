//! All names and labels in logs and metrics, each from a closed set.
//!
//! Labels never contain data from a client or a backend. The matches are exhaustive on purpose: a
//! new termination does not compile until it has a name here.

pub mod metric;

use std::sync::LazyLock;

use crate::error::{FailureKind, Phase, Side, Termination};

/// Number of [`termination`] labels; every [`termination_index`] is less.
pub const TERMINATIONS: usize = SINGLE + SIDES * PHASES * KINDS;

/// Terminations that are not failures.
const SINGLE: usize = 14;
const SIDES: usize = 3;
const PHASES: usize = 9;
const KINDS: usize = 54;

/// All labels by index.
static LABELS: LazyLock<Vec<Box<str>>> = LazyLock::new(|| {
    let single = [
        "complete",
        "answered",
        "client_closed",
        "backend_closed",
        "proxy_closed",
        "idle",
        "drained",
        "panicked",
        "rebalanced",
        "aged",
        "half_closed",
        "backend_down",
        "expired",
        "revoked",
    ];
    let mut labels: Vec<Box<str>> = single.into_iter().map(Box::from).collect();
    for side in [Side::Client, Side::Backend, Side::Proxy] {
        for phase in PHASE_ORDER {
            for kind in KIND_ORDER {
                let (side, phase, kind) = (self::side(side), self::phase(phase), self::kind(kind));
                labels.push(format!("{side}_{phase}_{kind}").into());
            }
        }
    }
    labels
});

/// Label of a termination: `complete`, `client_closed`, or side, phase and kind of a failure, such
/// as `backend_connect_refused`.
pub fn termination(termination: &Termination) -> &'static str {
    termination_at(termination_index(termination)).unwrap_or("unknown")
}

/// Label at an index below [`TERMINATIONS`].
pub fn termination_at(index: usize) -> Option<&'static str> {
    LABELS.get(index).map(AsRef::as_ref)
}

/// Index of a termination's counter: below [`TERMINATIONS`], and equal only for equal labels.
pub fn termination_index(termination: &Termination) -> usize {
    match *termination {
        Termination::Complete => 0,
        Termination::Answered => 1,
        Termination::Closed(side) => 2 + side_index(side),
        Termination::Idle => 5,
        Termination::Drained => 6,
        Termination::Panicked => 7,
        Termination::Rebalanced => 8,
        Termination::Aged => 9,
        Termination::HalfClosed => 10,
        Termination::BackendDown => 11,
        Termination::Expired => 12,
        Termination::Revoked => 13,
        Termination::Failed(side, phase, kind) => {
            SINGLE + (side_index(side) * PHASES + phase_index(phase)) * KINDS + kind_index(kind)
        }
    }
}

/// Every failure that has a label, for tests of all of them.
#[cfg(test)]
pub(crate) fn failures() -> impl Iterator<Item = crate::error::ProxyError> {
    let sides = [Side::Client, Side::Backend, Side::Proxy].into_iter();
    let phases = sides.flat_map(|side| PHASE_ORDER.into_iter().map(move |phase| (side, phase)));
    phases.flat_map(|(side, phase)| {
        KIND_ORDER.into_iter().map(move |kind| crate::error::ProxyError::new(side, phase, kind))
    })
}

/// Label of a side.
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Backend => "backend",
        Side::Proxy => "proxy",
    }
}

/// Label of a phase.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::ProxyHeader => "proxy_header",
        Phase::Handshake => "handshake",
        Phase::Request => "request",
        Phase::Select => "select",
        Phase::Connect => "connect",
        Phase::RequestBody => "request_body",
        Phase::ResponseHeader => "response_header",
        Phase::ResponseBody => "response_body",
        Phase::Tunnel => "tunnel",
    }
}

/// Label of a kind.
pub fn kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::BadRequest(_) => "bad_request",
        FailureKind::MethodNotAllowed => "method_not_allowed",
        FailureKind::UpgradeRequired => "upgrade_required",
        FailureKind::BodyTooLarge => "body_too_large",
        FailureKind::NoRoute => "no_route",
        FailureKind::NoFile => "no_file",
        FailureKind::NoOperation => "no_operation",
        FailureKind::NoOperationMethod => "no_operation_method",
        FailureKind::MediaType => "media_type",
        FailureKind::InvalidRequest => "invalid_request",
        FailureKind::NoBackend => "no_backend",
        FailureKind::SessionGone => "session_gone",
        FailureKind::Saturated => "saturated",
        FailureKind::NotAdmitted => "not_admitted",
        FailureKind::Refused => "refused",
        FailureKind::Exhausted => "exhausted",
        FailureKind::TimedOut => "timed_out",
        FailureKind::Reset => "reset",
        FailureKind::Incomplete => "incomplete",
        FailureKind::Malformed => "malformed",
        FailureKind::BadUpgrade => "bad_upgrade",
        FailureKind::Untrusted => "untrusted",
        FailureKind::Missing => "missing",
        FailureKind::NotTls => "not_tls",
        FailureKind::UnknownName => "unknown_name",
        FailureKind::CertificateExpired => "certificate_expired",
        FailureKind::CertificateName => "certificate_name",
        FailureKind::CertificateUntrusted => "certificate_untrusted",
        FailureKind::CertificateRevoked => "certificate_revoked",
        FailureKind::CertificateMissing => "certificate_missing",
        FailureKind::CertificateInvalid => "certificate_invalid",
        FailureKind::Alert => "alert",
        FailureKind::Misdirected => "misdirected",
        FailureKind::TooMany => "too_many",
        FailureKind::HeaderTooLarge => "header_too_large",
        FailureKind::TargetTooLong => "target_too_long",
        FailureKind::UnsupportedVersion => "unsupported_version",
        FailureKind::UnsupportedCoding => "unsupported_coding",
        FailureKind::Loop => "loop",
        FailureKind::Forbidden => "forbidden",
        FailureKind::Maintenance => "maintenance",
        FailureKind::RateLimited => "rate_limited",
        FailureKind::QuotaUsed => "quota_used",
        FailureKind::TooManyAtOnce => "too_many_at_once",
        FailureKind::MessageTooLarge => "message_too_large",
        FailureKind::MessageRate => "message_rate",
        FailureKind::Unauthenticated(_) => "unauthenticated",
        FailureKind::Denied => "denied",
        FailureKind::OriginDenied => "origin_denied",
        FailureKind::LoginFailed => "login_failed",
        FailureKind::AuthUnavailable => "auth_unavailable",
        FailureKind::ContentCoding => "content_coding",
        FailureKind::Unchangeable => "unchangeable",
        FailureKind::Io => "io",
    }
}

fn side_index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Backend => 1,
        Side::Proxy => 2,
    }
}

const PHASE_ORDER: [Phase; PHASES] = [
    Phase::Handshake,
    Phase::Request,
    Phase::Select,
    Phase::Connect,
    Phase::RequestBody,
    Phase::ResponseHeader,
    Phase::ResponseBody,
    Phase::Tunnel,
    Phase::ProxyHeader,
];

fn phase_index(phase: Phase) -> usize {
    match phase {
        Phase::Handshake => 0,
        Phase::Request => 1,
        Phase::Select => 2,
        Phase::Connect => 3,
        Phase::RequestBody => 4,
        Phase::ResponseHeader => 5,
        Phase::ResponseBody => 6,
        Phase::Tunnel => 7,
        Phase::ProxyHeader => 8,
    }
}

const KIND_ORDER: [FailureKind; KINDS] = [
    FailureKind::BadRequest(""),
    FailureKind::MethodNotAllowed,
    FailureKind::UpgradeRequired,
    FailureKind::BodyTooLarge,
    FailureKind::NoRoute,
    FailureKind::NoBackend,
    FailureKind::SessionGone,
    FailureKind::Saturated,
    FailureKind::Refused,
    FailureKind::Exhausted,
    FailureKind::TimedOut,
    FailureKind::Reset,
    FailureKind::Incomplete,
    FailureKind::Malformed,
    FailureKind::BadUpgrade,
    FailureKind::Io,
    FailureKind::NotAdmitted,
    FailureKind::Untrusted,
    FailureKind::Missing,
    FailureKind::NotTls,
    FailureKind::UnknownName,
    FailureKind::CertificateExpired,
    FailureKind::CertificateName,
    FailureKind::CertificateUntrusted,
    FailureKind::CertificateRevoked,
    FailureKind::CertificateMissing,
    FailureKind::CertificateInvalid,
    FailureKind::Alert,
    FailureKind::Misdirected,
    FailureKind::TooMany,
    FailureKind::HeaderTooLarge,
    FailureKind::TargetTooLong,
    FailureKind::UnsupportedVersion,
    FailureKind::UnsupportedCoding,
    FailureKind::Loop,
    FailureKind::Forbidden,
    FailureKind::Maintenance,
    FailureKind::RateLimited,
    FailureKind::QuotaUsed,
    FailureKind::TooManyAtOnce,
    FailureKind::NoFile,
    FailureKind::MessageTooLarge,
    FailureKind::MessageRate,
    FailureKind::Unauthenticated(""),
    FailureKind::Denied,
    FailureKind::AuthUnavailable,
    FailureKind::ContentCoding,
    FailureKind::MediaType,
    FailureKind::Unchangeable,
    FailureKind::OriginDenied,
    FailureKind::NoOperation,
    FailureKind::NoOperationMethod,
    FailureKind::InvalidRequest,
    FailureKind::LoginFailed,
];

fn kind_index(kind: FailureKind) -> usize {
    match kind {
        FailureKind::BadRequest(_) => 0,
        FailureKind::MethodNotAllowed => 1,
        FailureKind::UpgradeRequired => 2,
        FailureKind::BodyTooLarge => 3,
        FailureKind::NoRoute => 4,
        FailureKind::NoBackend => 5,
        FailureKind::SessionGone => 6,
        FailureKind::Saturated => 7,
        FailureKind::Refused => 8,
        FailureKind::Exhausted => 9,
        FailureKind::TimedOut => 10,
        FailureKind::Reset => 11,
        FailureKind::Incomplete => 12,
        FailureKind::Malformed => 13,
        FailureKind::BadUpgrade => 14,
        FailureKind::Io => 15,
        FailureKind::NotAdmitted => 16,
        FailureKind::Untrusted => 17,
        FailureKind::Missing => 18,
        FailureKind::NotTls => 19,
        FailureKind::UnknownName => 20,
        FailureKind::CertificateExpired => 21,
        FailureKind::CertificateName => 22,
        FailureKind::CertificateUntrusted => 23,
        FailureKind::CertificateRevoked => 24,
        FailureKind::CertificateMissing => 25,
        FailureKind::CertificateInvalid => 26,
        FailureKind::Alert => 27,
        FailureKind::Misdirected => 28,
        FailureKind::TooMany => 29,
        FailureKind::HeaderTooLarge => 30,
        FailureKind::TargetTooLong => 31,
        FailureKind::UnsupportedVersion => 32,
        FailureKind::UnsupportedCoding => 33,
        FailureKind::Loop => 34,
        FailureKind::Forbidden => 35,
        FailureKind::Maintenance => 36,
        FailureKind::RateLimited => 37,
        FailureKind::QuotaUsed => 38,
        FailureKind::TooManyAtOnce => 39,
        FailureKind::NoFile => 40,
        FailureKind::MessageTooLarge => 41,
        FailureKind::MessageRate => 42,
        FailureKind::Unauthenticated(_) => 43,
        FailureKind::Denied => 44,
        FailureKind::AuthUnavailable => 45,
        FailureKind::ContentCoding => 46,
        FailureKind::MediaType => 47,
        FailureKind::Unchangeable => 48,
        FailureKind::OriginDenied => 49,
        FailureKind::NoOperation => 50,
        FailureKind::NoOperationMethod => 51,
        FailureKind::InvalidRequest => 52,
        FailureKind::LoginFailed => 53,
    }
}

/// How the backend of a stream was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChosenBy {
    /// By the Engine.IO session id.
    Sid,
    /// By the affinity cookie.
    Cookie,
    /// By the pool's balance policy.
    Balance,
    /// By an owner search among the backends.
    OwnerSearch,
    /// By the client's recent session.
    Memory,
    /// No backend was chosen.
    #[default]
    None,
}

impl ChosenBy {
    /// All values, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Sid, Self::Cookie, Self::Balance, Self::OwnerSearch, Self::Memory, Self::None];

    /// Label of this value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sid => "sid",
            Self::Cookie => "cookie",
            Self::Balance => "balance",
            Self::OwnerSearch => "owner_search",
            Self::Memory => "memory",
            Self::None => "none",
        }
    }
}

/// Prefix of every metric name.
pub const PREFIX: &str = "moorline";

#[cfg(test)]
mod tests;
