//! `Cache-Status` (RFC 9211): what the cache did with a request.

use std::{fmt::Write as _, time::Duration};

use http::StatusCode;
use moorline_http::Head;

use crate::gateway::LocalReply;

/// Why a request went to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardReason {
    /// Nothing is stored for the URL.
    UriMiss,
    /// The stored responses of the URL are for other requests.
    VaryMiss,
    /// The stored response is stale.
    Stale,
    /// The client requires a new response.
    Request,
    /// The method is not GET or HEAD.
    Method,
}

/// What the cache did.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheOutcome {
    hit: bool,
    forwarded: Option<ForwardReason>,
    status: Option<StatusCode>,
    /// Seconds for which the response stays fresh; negative if it is stale.
    ttl: Option<i64>,
    stored: bool,
}

impl ForwardReason {
    fn name(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Method => "method",
        }
    }
}

impl CacheOutcome {
    const NONE: Self = Self { hit: false, forwarded: None, status: None, ttl: None, stored: false };

    /// A fresh response was used.
    pub(super) fn hit(remaining: Duration) -> Self {
        Self { hit: true, ttl: Some(whole(remaining)), ..Self::NONE }
    }

    /// A stale response was used.
    pub(super) fn stale_hit(stale_for: Duration) -> Self {
        Self { hit: true, ttl: Some(-whole(stale_for)), ..Self::NONE }
    }

    /// The request went to the backend.
    pub(super) fn forwarded(reason: ForwardReason) -> Self {
        Self { forwarded: Some(reason), ..Self::NONE }
    }

    /// With the status that the backend sent, if the client gets another one.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The response was stored.
    pub(super) fn stored(self, remaining: Duration) -> Self {
        Self { stored: true, ttl: Some(whole(remaining)), ..self }
    }

    /// Adds the field to a response.
    pub(super) fn write(self, head: &mut Head) {
        let mut text = String::from("moorline");
        if self.hit {
            text.push_str("; hit");
        }
        if let Some(reason) = self.forwarded {
            text.push_str("; fwd=");
            text.push_str(reason.name());
        }
        // Writing to a string cannot fail.
        if let Some(status) = self.status {
            _ = write!(text, "; fwd-status={}", status.as_u16());
        }
        if let Some(ttl) = self.ttl {
            _ = write!(text, "; ttl={ttl}");
        }
        if self.stored {
            text.push_str("; stored");
        }
        head.append_named("Cache-Status", text);
    }
}

fn whole(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The reply to a client that accepts only a stored response.
pub(super) fn not_stored() -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::GATEWAY_TIMEOUT);
    let fields = reply.fields();
    fields.append_named("Cache-Control", "no-store");
    fields.append_named("Cache-Status", "moorline; fwd=miss; detail=only-if-cached");
    reply
}
