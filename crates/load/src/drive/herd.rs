//! The herd: all clients drop at once, and return.

use std::time::Instant;

use tokio::time::sleep_until;

use super::Stage;
use crate::{client::Order, scenario::Herd};

/// Drops all clients, the first time `after` the last of them has `arrived`.
pub(super) async fn run(stage: &Stage, herd: &Herd, arrived: Instant) {
    let mut at = arrived + herd.after;
    for wave in 1..=herd.times {
        sleep_until(at.into()).await;
        stage.collector.mark(match herd.times {
            1 => "all drop".to_owned(),
            times => format!("all drop ({wave} of {times})"),
        });
        stage.orders.send_replace(Order::Drop { wave, at, within: herd.within });
        at += herd.every;
    }
}
