//! Every name and label that leaves the process in logs and metrics, each from a closed set.
//!
//! A label is never made of anything a client or a backend sent. The matches are exhaustive on
//! purpose: a new way to end does not compile until it has a name here.

use std::sync::LazyLock;

use crate::error::{Kind, Phase, Side, Termination};

/// Number of different [`termination`] labels; [`termination_index`] is always below.
pub const TERMINATIONS: usize = SINGLE + SIDES * PHASES * KINDS;

/// Endings that are not a failure.
const SINGLE: usize = 12;
const SIDES: usize = 3;
const PHASES: usize = 9;
const KINDS: usize = 35;

/// All labels by index, put together once.
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

/// The label of an ending: `complete`, `client_closed`, or side, phase and kind of a failure like
/// `backend_connect_refused`.
pub fn termination(termination: &Termination) -> &'static str {
    termination_at(termination_index(termination)).unwrap_or("unknown")
}

/// The label at an index below [`TERMINATIONS`].
pub fn termination_at(index: usize) -> Option<&'static str> {
    LABELS.get(index).map(AsRef::as_ref)
}

/// Where counters keep an ending: below [`TERMINATIONS`], equal for equal labels only.
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
        Termination::Failed(side, phase, kind) => {
            SINGLE + (side_index(side) * PHASES + phase_index(phase)) * KINDS + kind_index(kind)
        }
    }
}

/// The label of a side.
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Backend => "backend",
        Side::Proxy => "proxy",
    }
}

/// The label of a phase.
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

/// The label of a kind.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::BadRequest(_) => "bad_request",
        Kind::MethodNotAllowed => "method_not_allowed",
        Kind::UpgradeRequired => "upgrade_required",
        Kind::BodyTooLarge => "body_too_large",
        Kind::NoRoute => "no_route",
        Kind::NoBackend => "no_backend",
        Kind::SessionGone => "session_gone",
        Kind::Saturated => "saturated",
        Kind::NotAdmitted => "not_admitted",
        Kind::Refused => "refused",
        Kind::Exhausted => "exhausted",
        Kind::TimedOut => "timed_out",
        Kind::Reset => "reset",
        Kind::Incomplete => "incomplete",
        Kind::Malformed => "malformed",
        Kind::BadUpgrade => "bad_upgrade",
        Kind::Untrusted => "untrusted",
        Kind::Missing => "missing",
        Kind::NotTls => "not_tls",
        Kind::UnknownName => "unknown_name",
        Kind::CertificateExpired => "certificate_expired",
        Kind::CertificateName => "certificate_name",
        Kind::CertificateUntrusted => "certificate_untrusted",
        Kind::CertificateRevoked => "certificate_revoked",
        Kind::CertificateMissing => "certificate_missing",
        Kind::CertificateInvalid => "certificate_invalid",
        Kind::Alert => "alert",
        Kind::Misdirected => "misdirected",
        Kind::TooMany => "too_many",
        Kind::HeaderTooLarge => "header_too_large",
        Kind::TargetTooLong => "target_too_long",
        Kind::UnsupportedVersion => "unsupported_version",
        Kind::UnsupportedCoding => "unsupported_coding",
        Kind::Loop => "loop",
        Kind::Io => "io",
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

const KIND_ORDER: [Kind; KINDS] = [
    Kind::BadRequest(""),
    Kind::MethodNotAllowed,
    Kind::UpgradeRequired,
    Kind::BodyTooLarge,
    Kind::NoRoute,
    Kind::NoBackend,
    Kind::SessionGone,
    Kind::Saturated,
    Kind::Refused,
    Kind::Exhausted,
    Kind::TimedOut,
    Kind::Reset,
    Kind::Incomplete,
    Kind::Malformed,
    Kind::BadUpgrade,
    Kind::Io,
    Kind::NotAdmitted,
    Kind::Untrusted,
    Kind::Missing,
    Kind::NotTls,
    Kind::UnknownName,
    Kind::CertificateExpired,
    Kind::CertificateName,
    Kind::CertificateUntrusted,
    Kind::CertificateRevoked,
    Kind::CertificateMissing,
    Kind::CertificateInvalid,
    Kind::Alert,
    Kind::Misdirected,
    Kind::TooMany,
    Kind::HeaderTooLarge,
    Kind::TargetTooLong,
    Kind::UnsupportedVersion,
    Kind::UnsupportedCoding,
    Kind::Loop,
];

fn kind_index(kind: Kind) -> usize {
    match kind {
        Kind::BadRequest(_) => 0,
        Kind::MethodNotAllowed => 1,
        Kind::UpgradeRequired => 2,
        Kind::BodyTooLarge => 3,
        Kind::NoRoute => 4,
        Kind::NoBackend => 5,
        Kind::SessionGone => 6,
        Kind::Saturated => 7,
        Kind::Refused => 8,
        Kind::Exhausted => 9,
        Kind::TimedOut => 10,
        Kind::Reset => 11,
        Kind::Incomplete => 12,
        Kind::Malformed => 13,
        Kind::BadUpgrade => 14,
        Kind::Io => 15,
        Kind::NotAdmitted => 16,
        Kind::Untrusted => 17,
        Kind::Missing => 18,
        Kind::NotTls => 19,
        Kind::UnknownName => 20,
        Kind::CertificateExpired => 21,
        Kind::CertificateName => 22,
        Kind::CertificateUntrusted => 23,
        Kind::CertificateRevoked => 24,
        Kind::CertificateMissing => 25,
        Kind::CertificateInvalid => 26,
        Kind::Alert => 27,
        Kind::Misdirected => 28,
        Kind::TooMany => 29,
        Kind::HeaderTooLarge => 30,
        Kind::TargetTooLong => 31,
        Kind::UnsupportedVersion => 32,
        Kind::UnsupportedCoding => 33,
        Kind::Loop => 34,
    }
}

/// How the backend of a stream was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChosenBy {
    /// By the Engine.IO session id.
    Sid,
    /// By the sticky cookie.
    Cookie,
    /// By the pool's balance policy.
    Balance,
    /// By asking the nodes who knows the session.
    OwnerSearch,
    /// By the memory of a session that ended a moment ago.
    Memory,
    /// None was chosen.
    #[default]
    None,
}

impl ChosenBy {
    /// Every value, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Sid, Self::Cookie, Self::Balance, Self::OwnerSearch, Self::Memory, Self::None];

    /// Its label.
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

/// What every metric's name begins with.
pub const PREFIX: &str = "moorline";

/// Metric names without [`PREFIX`] and without the `_total` that the text format adds to counters.
pub mod metric {
    /// Streams that ended, by listener and termination.
    pub const STREAMS: &str = "streams";
    /// Streams that ended, by listener and how their backend was chosen.
    pub const CHOSEN: &str = "chosen";
    /// Connections accepted, by listener.
    pub const ACCEPTED: &str = "accepted";
    /// Connections open, by listener.
    pub const CONNECTIONS: &str = "connections";
    /// Tunnels open, by listener.
    pub const TUNNELS: &str = "tunnels";
    /// TLS handshakes that succeeded, by listener and whether a session was resumed.
    pub const HANDSHAKES: &str = "tls_handshakes";
    /// Bytes relayed, by listener and direction.
    pub const BYTES: &str = "bytes";
    /// Pauses of accepting for want of descriptors or memory.
    pub const ACCEPT_PAUSES: &str = "accept_pauses";
    /// Access-log lines lost to a slow or failing sink.
    pub const ACCESS_LOG_DROPPED: &str = "access_log_dropped";
    /// Tasks that panicked.
    pub const PANICS: &str = "panics";
    /// Times that a worker of the runtime was stuck in one task.
    pub const STALLS: &str = "worker_stalls";
    /// Workers of the runtime that are stuck in one task.
    pub const STALLED_WORKERS: &str = "workers_stalled";
    /// Reloads, by result.
    pub const RELOADS: &str = "reloads";
    /// Sessions whose node was searched, by result.
    pub const OWNER_SEARCHES: &str = "owner_searches";
    /// Requests tried again: sent to another backend, or connected for again.
    pub const RETRIES: &str = "retries";
    /// Backends left out for their failures under traffic, by reason.
    pub const EJECTIONS: &str = "ejections";
    /// New sessions that had to wait to be admitted or were not, by result.
    pub const ADMISSION: &str = "admission";
    /// New sessions without a cookie whose client was here a moment ago, by result.
    pub const MEMORY: &str = "memory";
    /// Orders of certificates by ACME, by result.
    pub const ACME_ORDERS: &str = "acme_orders";
    /// When a certificate expires, in seconds of Unix time, by listener and the certificate's first name.
    pub const CERTIFICATE_EXPIRY: &str = "certificate_expiry_seconds";
    /// Whether a backend is left out for its failures under traffic, by pool and backend.
    pub const BACKEND_EJECTED: &str = "backend_ejected";
    /// Part of a backend's weight that is in force, 0 to 1, by pool and backend.
    pub const BACKEND_RAMP: &str = "backend_weight_share";
    /// Connections to a backend that are in use, tunnels included, by pool and backend.
    pub const BACKEND_CONNECTIONS: &str = "backend_connections";
    /// Requests that wait for a connection to a backend, by pool and backend.
    pub const BACKEND_PENDING: &str = "backend_pending_requests";
    /// New sessions that wait for a backend to admit them, by pool and backend.
    pub const BACKEND_WAITING: &str = "backend_waiting_sessions";
    /// Whether a backend is up, by pool and backend.
    pub const BACKEND_UP: &str = "backend_up";
    /// Whether a backend takes no new sessions any more, by pool and backend.
    pub const BACKEND_DRAINING: &str = "backend_draining";
    /// Live sessions and tunnels of a backend, by pool and backend.
    pub const BACKEND_SESSIONS: &str = "backend_sessions";
    /// Requests in flight to a backend, by pool and backend.
    pub const BACKEND_REQUESTS: &str = "backend_requests";
    /// Idle connections kept to a backend, by pool and backend.
    pub const BACKEND_IDLE: &str = "backend_idle_connections";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn every_termination() -> Vec<Termination> {
        let mut all = vec![
            Termination::Complete,
            Termination::Answered,
            Termination::Idle,
            Termination::Drained,
            Termination::Panicked,
            Termination::Rebalanced,
            Termination::Aged,
            Termination::HalfClosed,
            Termination::BackendDown,
        ];
        for side in [Side::Client, Side::Backend, Side::Proxy] {
            all.push(Termination::Closed(side));
            for phase in PHASE_ORDER {
                for kind in KIND_ORDER {
                    all.push(Termination::Failed(side, phase, kind));
                }
            }
        }
        all
    }

    #[test]
    fn each_ending_has_a_label_of_its_own() {
        let all = every_termination();
        assert_eq!(all.len(), TERMINATIONS);
        assert_eq!(LABELS.len(), TERMINATIONS);
        let indices: HashSet<_> = all.iter().map(termination_index).collect();
        assert_eq!(indices, (0..TERMINATIONS).collect());
        let labels: HashSet<_> = all.iter().map(termination).collect();
        assert_eq!(labels.len(), TERMINATIONS);
        let plain = |label: &&str| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(labels.iter().all(plain));
    }

    #[test]
    fn labels_say_what_the_ending_was() {
        let of = |t: Termination| termination(&t);
        assert_eq!(of(Termination::Complete), "complete");
        assert_eq!(of(Termination::Answered), "answered");
        assert_eq!(of(Termination::Idle), "idle");
        assert_eq!(of(Termination::Drained), "drained");
        assert_eq!(of(Termination::Panicked), "panicked");
        assert_eq!(of(Termination::Rebalanced), "rebalanced");
        assert_eq!(of(Termination::Aged), "aged");
        assert_eq!(of(Termination::HalfClosed), "half_closed");
        assert_eq!(of(Termination::BackendDown), "backend_down");
        for who in [Side::Client, Side::Backend, Side::Proxy] {
            assert_eq!(of(Termination::Closed(who)), format!("{}_closed", side(who)));
            for when in PHASE_ORDER {
                for what in KIND_ORDER {
                    let expected = format!("{}_{}_{}", side(who), phase(when), kind(what));
                    assert_eq!(of(Termination::Failed(who, when, what)), expected);
                }
            }
        }
    }

    #[test]
    fn a_reason_is_no_label() {
        let with = |reason| {
            let failed =
                Termination::Failed(Side::Client, Phase::Request, Kind::BadRequest(reason));
            termination(&failed)
        };
        assert_eq!(with("two Host headers"), with("no Host header"));
        assert_eq!(with("x"), "client_request_bad_request");
    }

    #[test]
    fn chosen_by_is_listed_completely_and_in_order() {
        for (n, by) in ChosenBy::ALL.into_iter().enumerate() {
            assert_eq!(by as usize, n);
        }
        let labels: HashSet<_> = ChosenBy::ALL.into_iter().map(ChosenBy::label).collect();
        assert_eq!(labels.len(), ChosenBy::ALL.len());
    }
}
