//! The switch to a WebSocket tunnel after a valid `101`.
//!
//! A `101` is valid if the client requested it and it has `Upgrade: websocket` and the correct
//! `Sec-WebSocket-Accept` (RFC 6455 §4.2.2). Bytes that either side sent early are passed to the
//! tunnel with the sockets.

use std::future::poll_fn;

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use moorline_http::{BodyLength, Buffer, ClientConnection, FieldId, Head, ResponseHead};
use tokio::io::AsyncWriteExt as _;

use super::client::ClientSide;
use crate::{
    error::{FailureKind, Phase, ProxyError, Side},
    net::stream::BackendStream,
    stream_log::TunnelGuard,
    tunnel::{self, LimitedStream, MessageLimits, TunnelEndpoint, TunnelOptions, TunnelTicket},
};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Protocol of the `Upgrade` field.
pub(super) const PROTOCOL: &str = "websocket";

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.trim_ascii());
    context.update(GUID);
    BASE64_STANDARD.encode(context.finish())
}

/// Returns the expected accept value of a validated handshake.
pub(super) fn expected(head: &Head) -> Box<str> {
    head.get(FieldId::SecWebSocketKey).map(accept).unwrap_or_default().into()
}

/// Validates a `101` against the expected `Sec-WebSocket-Accept`.
pub(super) fn check(head: &Head, accept: &str) -> Result<(), ProxyError> {
    let upgrades = head.has_token(FieldId::Upgrade, PROTOCOL)
        && head.has_token(FieldId::Connection, "upgrade");
    let accepted = head.only(FieldId::SecWebSocketAccept) == Some(accept.as_bytes());
    if upgrades && accepted {
        return Ok(());
    }
    Err(ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::BadUpgrade))
}

/// A tunnel whose `101` has been written.
pub(super) struct ReadyTunnel<M> {
    pub(super) backend: BackendStream,
    /// Bytes that the backend sent behind its `101`.
    pub(super) early: Option<Buffer>,
    pub(super) guard: TunnelGuard<M>,
    pub(super) ticket: TunnelTicket,
    pub(super) options: TunnelOptions,
    /// Limits on the client's messages.
    pub(super) messages: Option<MessageLimits>,
}

impl<M: Unpin + Send + 'static> ReadyTunnel<M> {
    /// Starts the tunnel in a separate task: the task of the connection is much larger.
    pub(super) fn start(self, client: ClientSide) {
        let ClientSide { stream, input, .. } = client;
        let client = TunnelEndpoint { stream, early: early(input) };
        let backend = TunnelEndpoint { stream: self.backend, early: early(self.early) };
        let (guard, ticket, options) = (self.guard, self.ticket, self.options);
        match self.messages {
            None => tokio::spawn(tunnel::run(client, backend, guard, ticket, options)),
            Some(limits) => {
                let client = LimitedStream::endpoint(client, limits);
                tokio::spawn(tunnel::run(client, backend, guard, ticket, options))
            }
        };
    }
}

fn early(input: Option<Buffer>) -> Bytes {
    input.map_or_else(Bytes::new, |input| Bytes::copy_from_slice(input.filled()))
}

/// Writes the `101` to the client.
///
/// # Errors
/// The client's connection has failed.
pub(super) async fn switch(client: &mut ClientSide, head: ResponseHead) -> std::io::Result<()> {
    let mut out = client.output.take().unwrap_or_default();
    let connection =
        ClientConnection { version: client.version, closes: false, upgrade: Some(PROTOCOL) };
    head.write(&mut out, BodyLength::Exactly(0), connection);
    drop(head);
    poll_fn(|cx| out.poll_drain(cx, &mut client.stream)).await?;
    client.stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::response;

    #[test]
    fn accept_value_matches_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_response_must_upgrade_and_accept_once() {
        let check = |fields: &str, accept| {
            check(&response(&format!("HTTP/1.1 101 x\r\n{fields}")).head, accept)
        };
        assert!(check("Sec-WebSocket-Accept: x\r\n", "x").is_err());
        let valid = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n";
        assert!(check(valid, "x").is_ok());
        assert!(check(valid, "y").is_err());
        assert!(check(&format!("{valid}Sec-WebSocket-Accept: x\r\n"), "x").is_err());
    }
}
