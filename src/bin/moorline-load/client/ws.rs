//! Plain WebSocket to an echo.

use std::time::Instant;

use super::{Context, End, User};

/// Connects to the target's path and query within [`Orders::attempt`], holds a [`Seat`](crate::stats::Seat) while
/// connected, says what a [`Talk`](super::pace::Talk) says is due, made by a [`Maker`](super::payload::Maker)
/// (text frames for texts and JSON, binary frames for bytes), and checks that each echo is what was sent
/// (`WrongEcho` where not). Answers pings; ends on orders.
/// Adds [`Talk::settled`](super::pace::Talk::settled) to `user.said` at its end.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let _ = (context, user, due);
    unimplemented!()
}
