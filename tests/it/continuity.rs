//! Nobody is dropped: everything that a fleet goes through in a day, under the traffic of 300 clients of
//! `moorline-load` and of 30 of npm, over TLS and without cookies.
//!
//! Each party has nodes and a pool of its own, so that a stage meets both at once. What a session is
//! lost by that need not have been is anything but this:
//!
//! - the node that carried it was removed and drained, killed or reset by the stage itself;
//! - we ended it with a Close (1012) at a frame boundary and its client came back by itself, in a stage
//!   that is there to move clients: a replaced node's, or a rebalance. Elsewhere that is a loss as well.
//!
//! Clients know by `down NODE`, before it happens, whose loss is expected. All else that they meet is a
//! fault: a lost session, a code-1 reply, a refused upgrade, a status, bytes that are no frame or not
//! what was sent, an answer of another node. After each stage everybody must be there and be answered
//! twice more before it is booked.

mod authority;
mod changes;
mod fleets;
mod harm;
mod node;
mod outage;
mod party;
mod site;
mod table;

use self::{
    site::Site,
    table::{Spares, Table},
};

#[tokio::test]
async fn nobody_is_dropped() {
    let mut site = Site::start().await;
    let (s, t) = (&mut site, &mut Table::default());
    t.stage(s, "100 equivalent reloads", Spares::Everybody, changes::equivalent_reloads).await;
    t.stage(s, "20 edits elsewhere in the file", Spares::Everybody, changes::edits_elsewhere).await;
    t.stage(s, "A certificate renewed", Spares::Everybody, changes::certificate_renewal).await;
    let moved = Spares::OthersThanMoved;
    t.stage(s, "All nodes replaced, one by one", moved, fleets::rolling_replacement).await;
    t.stage(s, "From 3 nodes to 6, with rebalance", moved, fleets::scale_out).await;
    t.stage(s, "5 binary upgrades", Spares::Everybody, changes::binary_upgrades).await;
    let hurt = Spares::OthersThanHurt;
    t.stage(s, "A node killed", hurt, harm::kill).await;
    for (probe, text, sees) in harm::PROBES {
        let title = format!("A node hung for 10 s, `{probe}` probe");
        let hang = async |s: &mut Site| harm::hang(s, text, sees).await;
        t.stage(s, &title, Spares::Everybody, hang).await;
    }
    t.stage(s, "A node that resets its connections", hurt, harm::reset).await;
    std::mem::take(t).finish();
    site.finish().await;
}
