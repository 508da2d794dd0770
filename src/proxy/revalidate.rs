//! Renews a stored response after a client got the stale one (`stale-while-revalidate`, RFC 5861).

use std::sync::Arc;

use moorline_http::RequestHead;

use super::{arrival::RequestState, detached::DetachedRequest};
use crate::gateway::{CacheTicket, ResponseStep};

/// Sends a request with the fields for the backend by another task, and lets the cache decide about the response.
pub(super) fn start(
    ticket: Box<CacheTicket>,
    request: &RequestHead,
    state: &RequestState<'_>,
    id: &str,
) {
    let from = state.connection_origin(id);
    let pool = Arc::clone(&state.pool);
    let detached = DetachedRequest::new(pool, request, state.address.ip(), from);
    tokio::spawn(async move {
        let Ok(mut response) = detached.send(&[]).await else { return };
        response.head.strip_hop_by_hop();
        match ticket.respond(&mut response.head) {
            ResponseStep::Copy(copy) => {
                let mut copy = Some(copy);
                let read = response.read_body(|piece| {
                    copy = copy.take().and_then(|copy| copy.push(piece));
                    copy.is_some()
                });
                if matches!(read.await, Ok(true))
                    && let Some(copy) = copy
                {
                    copy.complete();
                }
            }
            // A 304 has renewed the stored response.
            ResponseStep::Replace(_) => _ = response.read_body(|_| true).await,
            ResponseStep::Deliver => {}
        }
    });
}
