//! Starts a tunnel after a valid `101`.
//!
//! A `101` is valid if the client requested it and it has `Upgrade: websocket` and the correct
//! `Sec-WebSocket-Accept` (RFC 6455 §4.2.2). Bytes that either side sent early are passed to the
//! tunnel with the sockets.

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    forward::BackendResponse,
    headers::{has_token, strip_hop_by_hop},
    relay::ReplyBody,
};
use crate::{
    error::{FailureKind, Phase, ProxyError, Side, Termination},
    net::{
        answer_first::AnswerFirst,
        stream::{BackendStream, ClientStream},
    },
    stream_log::{StreamScope, TunnelGuard},
    tunnel::{self, TunnelEndpoint, TunnelOptions, TunnelTicket},
    upstream::ConnectionGuard,
};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.trim_ascii());
    context.update(GUID);
    BASE64_STANDARD.encode(context.finish())
}

/// Restores the hop-by-hop fields of a WebSocket handshake or its response.
pub(super) fn mark(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// Validates a `101` against the expected `Sec-WebSocket-Accept`.
pub(super) fn check(headers: &HeaderMap, accept: &str) -> Result<(), ProxyError> {
    let upgrades =
        has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade");
    let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    let accepted = accepts.next().is_some_and(|value| value == accept) && accepts.next().is_none();
    if upgrades && accepted {
        return Ok(());
    }
    Err(ProxyError::new(Side::Backend, Phase::ResponseHeader, FailureKind::BadUpgrade))
}

/// Returns the expected accept value of a validated handshake.
pub(super) fn expected(headers: &HeaderMap) -> String {
    headers.get(SEC_WEBSOCKET_KEY).map_or_else(String::new, |key| accept(key.as_bytes()))
}

/// What a tunnel needs in addition to its two sockets.
#[derive(Debug)]
pub(super) struct PendingTunnel<M> {
    pub(super) client: oneshot::Receiver<TunnelEndpoint<ClientStream>>,
    pub(super) scope: StreamScope,
    pub(super) counts: M,
    pub(super) ticket: TunnelTicket,
    pub(super) options: TunnelOptions,
}

/// Returns the `101` for the client; the tunnel starts in a separate task once it is written.
pub(super) fn switch<M>(answer: BackendResponse, pending: PendingTunnel<M>) -> Response<ReplyBody>
where
    M: Unpin + Send + 'static,
{
    let BackendResponse { mut response, lease, .. } = answer;
    let backend = hyper::upgrade::on(&mut response);
    // The connection has left HTTP: its permit and its request are no longer counted.
    let in_use = lease.into_connection();
    tokio::spawn(start_tunnel(pending, backend, in_use));
    let (mut parts, _): (_, Incoming) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    mark(&mut parts.headers);
    Response::from_parts(parts, ReplyBody::empty())
}

/// Waits for both sockets and spawns the tunnel. The tunnel gets a new task: otherwise the state of
/// this one, with the wrapped sockets, would stay in memory for the lifetime of the tunnel.
async fn start_tunnel<M>(pending: PendingTunnel<M>, backend: OnUpgrade, in_use: ConnectionGuard)
where
    M: Unpin + Send + 'static,
{
    let PendingTunnel { client, scope, counts, ticket, options } = pending;
    let halves = async {
        tokio::try_join!(async { client.await.map_err(|_| Side::Client) }, async {
            backend.await.map_err(|_| Side::Backend)
        },)
    };
    let (client, backend) = match halves.await {
        Ok(halves) => halves,
        Err(side) => return lost(scope, side),
    };
    let Some(backend) = socket(backend) else { return lost(scope, Side::Proxy) };
    let guard = TunnelGuard { scope, _counts: (counts, in_use) };
    tokio::spawn(tunnel::run(client, backend, guard, ticket, options));
}

fn socket(upgraded: Upgraded) -> Option<TunnelEndpoint<BackendStream>> {
    let parts = upgraded.downcast::<TokioIo<AnswerFirst<BackendStream>>>().ok()?;
    // Copies the few bytes, if any: hyper's read buffer would keep 8 KiB alive.
    let early = Bytes::copy_from_slice(&parts.read_buf);
    Some(TunnelEndpoint { stream: parts.io.into_inner().into_inner(), early })
}

fn lost(scope: StreamScope, side: Side) {
    scope.end(Termination::Failed(side, Phase::Tunnel, FailureKind::Incomplete));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_value_matches_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_response_must_upgrade_and_accept_once() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
        assert!(check(&headers, "x").is_err());
        mark(&mut headers);
        assert!(check(&headers, "x").is_ok());
        assert!(check(&headers, "y").is_err());
        headers.append(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
        assert!(check(&headers, "x").is_err());
    }
}
