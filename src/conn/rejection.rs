//! Connections that end before they can be used.

use std::borrow::Cow;

use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::stream::ClientStream,
    proxy::reply::{self, TOO_MANY},
};

/// The limit that an address has reached.
#[derive(Clone, Copy)]
pub(super) enum AddressLimit {
    /// Open connections.
    Open,
    /// New connections; the seconds until the next one may come.
    Rate(u32),
}

/// Why a connection ends before it can be used.
pub(super) struct Rejection {
    pub(super) error: ProxyError,
    /// Bytes to send before the connection is closed.
    pub(super) reply: Option<Box<FinalReply>>,
}

/// Last bytes that are sent to a client.
pub(super) struct FinalReply {
    pub(super) client: ClientStream,
    pub(super) bytes: Cow<'static, [u8]>,
    /// Status if the bytes are an HTTP reply, otherwise 0.
    pub(super) status: u16,
}

impl From<ProxyError> for Rejection {
    fn from(error: ProxyError) -> Self {
        Self { error, reply: None }
    }
}

impl Rejection {
    pub(super) fn new(phase: Phase, kind: FailureKind) -> Self {
        ProxyError::new(Side::Client, phase, kind).into()
    }

    pub(super) fn after(mut self, client: ClientStream, bytes: &'static [u8]) -> Self {
        self.reply = Some(Box::new(FinalReply { client, bytes: bytes.into(), status: 0 }));
        self
    }

    pub(super) fn answered(
        mut self,
        client: ClientStream,
        bytes: impl Into<Cow<'static, [u8]>>,
        status: u16,
    ) -> Self {
        self.reply = Some(Box::new(FinalReply { client, bytes: bytes.into(), status }));
        self
    }

    /// For an address that has reached a limit; `readable`: the client understands a reply.
    pub(super) fn over(limit: AddressLimit, client: ClientStream, readable: bool) -> Self {
        let kind = match limit {
            AddressLimit::Open => FailureKind::TooMany,
            AddressLimit::Rate(_) => FailureKind::RateLimited,
        };
        let rejection = Self::new(Phase::Select, kind);
        match limit {
            _ if !readable => rejection,
            AddressLimit::Open => rejection.answered(client, TOO_MANY, 503),
            AddressLimit::Rate(wait) => rejection.answered(client, reply::too_fast(wait), 429),
        }
    }
}
