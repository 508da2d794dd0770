//! Plain HTTP/1.1 requests over a kept-alive connection.

use std::time::Instant;

use super::{Context, End, User};

/// Connects within [`Orders::attempt`] and sends a GET for each message that a [`Talk`](super::pace::Talk) says
/// is due, one at a time; any status but a success is `Status`. Keeps cookies with [`User::keep_cookies`].
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let _ = (context, user, due);
    unimplemented!()
}
