//! Continuity: typical changes of a deployment, under the traffic of 300 clients of `moorline-load` and 30
//! of npm, over TLS and without cookies.
//!
//! Each group of clients has its own nodes and pool, and a stage changes both groups at once. A session may
//! be lost for these reasons only:
//!
//! - The stage removed and drained, killed or reset the session's node.
//! - The stage moves clients (it replaces nodes or rebalances), the proxy sent a Close (1012) at a frame
//!   boundary, and the client came back by itself.
//!
//! The command `down NODE` announces an expected loss to the clients. Everything else that a client meets
//! is a failure: a lost session, a code-1 reply, a refused upgrade, an error status, a broken frame,
//! other bytes than were sent, an answer of another node. After each stage, every client must be
//! connected and get two more answers before the result is recorded.

mod authority;
mod changes;
mod failures;
mod group;
mod node;
mod outage;
mod scaling;
mod site;
mod table;

use self::{
    site::Site,
    table::{AllowedLoss, Table},
};

#[tokio::test]
async fn no_session_is_lost_without_need() {
    let mut site = Site::start().await;
    let (s, t) = (&mut site, &mut Table::default());
    t.stage(s, "100 equivalent reloads", AllowedLoss::None, changes::equivalent_reloads).await;
    t.stage(s, "20 edits of other parts of the file", AllowedLoss::None, changes::unrelated_edits)
        .await;
    t.stage(s, "A certificate renewed", AllowedLoss::None, changes::certificate_renewal).await;
    let moved = AllowedLoss::OfMovedClients;
    t.stage(s, "All nodes replaced, one by one", moved, scaling::rolling_replacement).await;
    t.stage(s, "From 3 nodes to 6, with rebalance", moved, scaling::scale_out).await;
    t.stage(s, "5 binary upgrades", AllowedLoss::None, changes::binary_upgrades).await;
    let failed = AllowedLoss::OfFailedNode;
    t.stage(s, "A node killed", failed, failures::kill).await;
    for (probe, text, detects) in failures::PROBES {
        let title = format!("A node hung for 10 s, `{probe}` probe");
        let hang = async |s: &mut Site| failures::hang(s, text, detects).await;
        t.stage(s, &title, AllowedLoss::None, hang).await;
    }
    t.stage(s, "A node that resets its connections", failed, failures::reset).await;
    std::mem::take(t).finish();
    site.finish().await;
}
