//! Socket.IO nodes and an echo origin to aim at.

mod echo;
mod request;

use crate::scenario::options::NodeOptions;

/// x
pub(crate) fn serve(_options: &NodeOptions) -> Result<(), String> {
    Ok(())
}
