//! One simulated user, from its first connection to its last.
//!
//! Owns what happens on its connections: protocol, pace, heartbeats, reconnection. The course of the
//! run reaches it as an [`Order`] only; what happens to it leaves through the [`Recorder`].

mod alarm;
mod bulk;
mod connect;
mod departed;
mod http;
mod jar;
mod pace;
mod payload;
mod probe;
mod socket_io;
mod user;
mod ws;

#[cfg(test)]
mod plain_tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

pub(crate) use self::{departed::Departed, probe::probe};
use self::{
    departed::Departure,
    pace::Grid,
    user::{Break, End, User},
};
use crate::{
    net::Connector,
    scenario::{ClientKind, Scenario},
    stats::{ErrorKind, Failure, Loss, Recorder},
};

/// What clients of one thread share.
#[derive(Debug)]
pub(crate) struct Context {
    /// What they are to do.
    pub(crate) scenario: Arc<Scenario>,
    /// How they connect.
    pub(crate) connector: Arc<Connector>,
    /// Where they report to.
    pub(crate) recorder: Arc<Recorder>,
    /// What the course of the run wants of them now.
    pub(crate) orders: watch::Receiver<Order>,
    /// Nodes that the run drains, has stopped or has hurt.
    pub(crate) departed: Arc<Departed>,
    /// Zero of the clock that payloads carry.
    pub(crate) epoch: Instant,
}

/// What the course of a run wants of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Carry on.
    Go,
    /// Drop the connection, without a goodbye, and come back at a time within `within` from `at`.
    /// A later wave is a new order.
    Drop {
        /// Counts from 1.
        wave: u32,
        /// When.
        at: Instant,
        /// Over how long the returns are spread.
        within: Duration,
    },
    /// Say goodbye and end.
    Leave,
}

/// Lives as client `number` (from 0), which was due to arrive at `due`, until the course says leave or
/// its messages are sent; where it neither reconnects nor repeats, until its first loss.
pub(crate) async fn live(context: Arc<Context>, number: u32, due: Instant) {
    let mut life = Life { started: due, due, failures: 0 };
    let mut user = User::new(&context, number);
    loop {
        match user.wait(life.due).await {
            Some(Break::Leave) => return,
            Some(Break::Return(at)) => life.due = life.due.max(at),
            None => {
                let end = session(&context, &mut user, life.due).await;
                let Some(next) = life.after(end, &context) else { return };
                if next == Next::Anew {
                    user = user.anew(&context);
                }
            }
        }
    }
}

/// One connection of whatever kind, from its first attempt, which was due at `due`, to its end.
async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    // The kinds that come by the thousand and idle are small; the others stay out of their futures.
    match context.scenario.client {
        ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling => {
            socket_io::session(context, user, due).await
        }
        ClientKind::Ws => Box::pin(ws::session(context, user, due)).await,
        ClientKind::Bulk => Box::pin(bulk::session(context, user, due)).await,
        ClientKind::Http => Box::pin(http::session(context, user, due)).await,
        ClientKind::Connect => Box::pin(connect::session(context, user, due)).await,
    }
}

/// Where a client stands between two connections.
#[derive(Debug)]
struct Life {
    /// When its session was due.
    started: Instant,
    /// When its next connection is.
    due: Instant,
    /// Attempts that failed in a row.
    failures: u32,
}

/// How a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It comes back to its session.
    Return,
    /// A new client takes its place.
    Anew,
}

impl Life {
    /// Reports an end and plans what follows; `None`: nothing.
    fn after(&mut self, end: End, context: &Context) -> Option<Next> {
        let recorder = &context.recorder;
        match end {
            End::Said => {
                recorder.finished(self.started);
                return self.anew(Instant::now(), context);
            }
            End::Ordered { by: Break::Leave, connected } => {
                if connected {
                    recorder.finished(self.started);
                }
                return None;
            }
            End::Ordered { by: Break::Return(at), connected } => {
                if connected {
                    let failure = Failure::new(ErrorKind::Disconnect, "dropped as ordered");
                    recorder.lost(Loss::Ordered, &failure);
                }
                (self.due, self.failures) = (at, 0);
                return Some(Next::Return);
            }
            // A session that was being opened on the node counts as one of its sessions.
            End::Failed { failure, node } if context.gone(node.as_deref()) => {
                context.lost(failure, node.as_deref());
            }
            End::Failed { failure, .. } => recorder.failed(&failure),
            End::Moved { failure } => {
                recorder.lost(Loss::Moved, &failure);
                self.failures = 0;
            }
            End::Lost { failure, node } => {
                context.lost(failure, node.as_deref());
                self.failures = 0;
            }
        }
        let due = Instant::now() + reconnect_delay(self.failures);
        self.failures += 1;
        if !context.scenario.reconnect {
            return self.anew(due, context);
        }
        self.due = due;
        Some(Next::Return)
    }

    fn anew(&mut self, due: Instant, context: &Context) -> Option<Next> {
        context.scenario.messages.repeat.then(|| {
            *self = Self { started: due, due, failures: 0 };
            Next::Anew
        })
    }
}

impl Context {
    /// The moments at which clients of an even pace speak.
    fn grid(&self) -> Grid {
        Grid::new(self.scenario.clients, self.scenario.messages.pace, self.epoch)
    }

    /// Whether the run itself has stopped or hurt this node.
    fn gone(&self, node: Option<&str>) -> bool {
        matches!(self.departure(node), Some(Departure::Stopped | Departure::Hurt))
    }

    /// Whether the run has taken this node out of the proxy's list, and has not stopped it yet.
    fn drains(&self, node: Option<&str>) -> bool {
        self.departure(node) == Some(Departure::Draining)
    }

    fn departure(&self, node: Option<&str>) -> Option<Departure> {
        node.and_then(|node| self.departed.get(node))
    }

    /// Reports a lost connection. What is left on a node when a deploy stops it was lost by the proxy,
    /// which had the time of the drain to move it: whatever the client saw of that, it is a disconnect.
    fn lost(&self, failure: Failure, node: Option<&str>) {
        match (self.departure(node), node) {
            (Some(Departure::Hurt), _) => self.recorder.lost(Loss::NodeGone, &failure),
            (Some(Departure::Stopped), Some(node)) => {
                let detail = format!("{node} was stopped with the client still on it ({failure})");
                let failure = Failure::new(ErrorKind::Disconnect, detail);
                self.recorder.lost(Loss::Undrained, &failure);
            }
            _ => self.recorder.lost(Loss::Unwanted, &failure),
        }
    }
}

/// What `socket.io-client` waits before an attempt after so many that failed: 1 s doubled each time up
/// to 5 s, more or less by up to half.
fn reconnect_delay(failures: u32) -> Duration {
    let doubled = Duration::from_secs(1) * (1 << failures.min(4));
    doubled.mul_f64(0.5 + fastrand::f64()).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_delayed_like_those_of_the_real_client() {
        for (failures, from, to) in
            [(0, 0.5, 1.5), (1, 1.0, 3.0), (2, 2.0, 5.0), (3, 4.0, 5.0), (40, 5.0, 5.0)]
        {
            for _ in 0..100 {
                let delay = reconnect_delay(failures).as_secs_f64();
                assert!((from..=to).contains(&delay), "{delay} after {failures} failures");
            }
        }
    }
}
