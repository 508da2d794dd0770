//! Socket.IO over Engine.IO: polling, WebSocket, and the way from one to the other.

use std::time::Instant;

use super::{Context, End, User};

/// One Socket.IO connection.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let _ = (context, user, due);
    unimplemented!()
}
