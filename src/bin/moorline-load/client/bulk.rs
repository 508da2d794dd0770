//! Plain WebSocket that downloads as fast as it can.

use std::time::Instant;

use super::{Context, End, User};

/// Connects to `…/bulk` within [`Orders::attempt`] and counts what is received, until the other side closes
/// (`End::Said` after a close) or an order comes.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let _ = (context, user, due);
    unimplemented!()
}
