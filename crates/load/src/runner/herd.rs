//! Thundering herd: disconnects all clients at once, and lets them reconnect.

use std::time::Instant;

use tokio::time::sleep_until;

use super::RunContext;
use crate::{client::ClientCommand, scenario::Herd};

/// Disconnects all clients, the first time `herd.after` after `last_arrival`, the arrival of the last client.
pub(super) async fn run(run: &RunContext, herd: &Herd, last_arrival: Instant) {
    let mut at = last_arrival + herd.after;
    for wave in 1..=herd.times {
        sleep_until(at.into()).await;
        run.collector.mark(match herd.times {
            1 => "disconnecting all clients".to_owned(),
            times => format!("disconnecting all clients ({wave} of {times})"),
        });
        run.commands.send_replace(ClientCommand::Drop { wave, at, within: herd.within });
        at += herd.every;
    }
}
