//! A connection and its TLS handshake; no request.

use std::time::Instant;

use super::{Context, End, User};

/// Connects within [`Orders::attempt`], reports `connected` and says goodbye at once: `End::Said`.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let _ = (context, user, due);
    unimplemented!()
}
