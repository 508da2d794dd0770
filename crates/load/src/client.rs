//! One virtual user, from its first connection to its last.
//!
//! Owns what happens on its connections: protocol, pace, heartbeats, reconnects. The phases of a run reach it
//! only as a [`ClientCommand`]; it reports to the [`Recorder`].

mod bulk;
mod connect;
mod cookies;
mod http;
mod lazy_timer;
mod node_states;
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

use self::{
    node_states::NodeState,
    pace::Grid,
    user::{Interruption, SessionEnd, User},
};
pub(crate) use self::{node_states::NodeStates, probe::probe};
use crate::{
    net::Connector,
    scenario::{ClientKind, Scenario},
    stats::{ErrorKind, Failure, Loss, Recorder},
};

/// What the clients of one thread share.
#[derive(Debug)]
pub(crate) struct Context {
    /// What the clients do.
    pub(crate) scenario: Arc<Scenario>,
    /// Opens their connections.
    pub(crate) connector: Arc<Connector>,
    /// Receives their reports.
    pub(crate) recorder: Arc<Recorder>,
    /// The current command to all clients.
    pub(crate) commands: watch::Receiver<ClientCommand>,
    /// Nodes that the run drains, has stopped, or has killed, hung or reset.
    pub(crate) node_states: Arc<NodeStates>,
    /// Zero of the clock in payloads.
    pub(crate) epoch: Instant,
}

/// A command of the run to all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCommand {
    /// Keep running.
    Run,
    /// Drop the connection without a proper close, and reconnect within `within` from `at`. A later wave is a
    /// new command.
    Drop {
        /// Number of the wave, from 1.
        wave: u32,
        /// When to drop.
        at: Instant,
        /// The reconnects are spread over this time.
        within: Duration,
    },
    /// Close properly and end.
    Stop,
}

/// Runs client `number` (from 0), due to arrive at `due`, until the run commands it to stop or all its messages
/// are sent. A client that neither reconnects nor repeats ends with its first loss.
pub(crate) async fn run_client(context: Arc<Context>, number: u32, due: Instant) {
    let mut lifecycle = Lifecycle { started: due, due, failures: 0 };
    let mut user = User::new(&context, number);
    loop {
        match user.wait(lifecycle.due).await {
            Some(Interruption::Stop) => return,
            Some(Interruption::Reconnect(at)) => lifecycle.due = lifecycle.due.max(at),
            None => {
                let end = run_session(&context, &mut user, lifecycle.due).await;
                let Some(next) = lifecycle.after_end(end, &context) else { return };
                if next == NextStep::Replace {
                    user = user.replacement(&context);
                }
            }
        }
    }
}

/// Runs one connection of any kind, from its first attempt, which was due at `due`, to its end.
async fn run_session(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    // Kinds of which thousands may be idle have small futures; the futures of the other kinds are boxed.
    match context.scenario.client {
        ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling => {
            socket_io::run(context, user, due).await
        }
        ClientKind::Ws => Box::pin(ws::run(context, user, due)).await,
        ClientKind::Bulk => Box::pin(bulk::run(context, user, due)).await,
        ClientKind::Http => Box::pin(http::run(context, user, due)).await,
        ClientKind::Connect => Box::pin(connect::run(context, user, due)).await,
    }
}

/// State of a client between two connections.
#[derive(Debug)]
struct Lifecycle {
    /// When the session was due.
    started: Instant,
    /// When the next connection is due.
    due: Instant,
    /// Failed attempts in a row.
    failures: u32,
}

/// What a client does after a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextStep {
    /// Reconnects to the same session.
    Reconnect,
    /// Ends; a new client takes its place.
    Replace,
}

impl Lifecycle {
    /// Reports how a connection ended and plans the next one; `None` if there is none.
    fn after_end(&mut self, end: SessionEnd, context: &Context) -> Option<NextStep> {
        let recorder = &context.recorder;
        match end {
            SessionEnd::Completed => {
                recorder.finished(self.started);
                return self.replace(Instant::now(), context);
            }
            SessionEnd::Interrupted { by: Interruption::Stop, connected } => {
                if connected {
                    recorder.finished(self.started);
                }
                return None;
            }
            SessionEnd::Interrupted { by: Interruption::Reconnect(at), connected } => {
                if connected {
                    let failure = Failure::new(ErrorKind::Disconnect, "dropped by the run");
                    recorder.lost(Loss::Dropped, &failure);
                }
                (self.due, self.failures) = (at, 0);
                return Some(NextStep::Reconnect);
            }
            // A session that was being opened counts as a session of its node.
            SessionEnd::Failed { failure, node } if context.is_down(node.as_deref()) => {
                context.report_loss(failure, node.as_deref());
            }
            SessionEnd::Failed { failure, .. } => recorder.failed(&failure),
            SessionEnd::Moved { failure } => {
                recorder.lost(Loss::Moved, &failure);
                self.failures = 0;
            }
            SessionEnd::Lost { failure, node } => {
                context.report_loss(failure, node.as_deref());
                self.failures = 0;
            }
        }
        let due = Instant::now() + reconnect_delay(self.failures);
        self.failures += 1;
        if !context.scenario.reconnect {
            return self.replace(due, context);
        }
        self.due = due;
        Some(NextStep::Reconnect)
    }

    fn replace(&mut self, due: Instant, context: &Context) -> Option<NextStep> {
        context.scenario.messages.repeat.then(|| {
            *self = Self { started: due, due, failures: 0 };
            NextStep::Replace
        })
    }
}

impl Context {
    /// The send times that clients with an even pace share.
    fn grid(&self) -> Grid {
        Grid::new(self.scenario.clients, self.scenario.messages.pace, self.epoch)
    }

    /// Whether the run itself has stopped, killed, hung or reset this node.
    fn is_down(&self, node: Option<&str>) -> bool {
        matches!(self.node_state(node), Some(NodeState::Stopped | NodeState::Faulty))
    }

    /// Whether the run has removed this node from the proxy's list but has not stopped it yet.
    fn is_draining(&self, node: Option<&str>) -> bool {
        self.node_state(node) == Some(NodeState::Draining)
    }

    fn node_state(&self, node: Option<&str>) -> Option<NodeState> {
        node.and_then(|node| self.node_states.get(node))
    }

    /// Reports a lost connection. A client that is still on a node when the deploy stops it counts as a
    /// disconnect, whatever the client saw: the proxy had the whole drain to move it.
    fn report_loss(&self, failure: Failure, node: Option<&str>) {
        match (self.node_state(node), node) {
            (Some(NodeState::Faulty), _) => self.recorder.lost(Loss::NodeDown, &failure),
            (Some(NodeState::Stopped), Some(node)) => {
                let detail =
                    format!("{node} was stopped with this client still connected ({failure})");
                let failure = Failure::new(ErrorKind::Disconnect, detail);
                self.recorder.lost(Loss::Undrained, &failure);
            }
            _ => self.recorder.lost(Loss::Unexpected, &failure),
        }
    }
}

/// Delay of `socket.io-client` before a reconnect: 1 s, doubled after each failed attempt, at most 5 s, with
/// a jitter of ±50 %.
fn reconnect_delay(failures: u32) -> Duration {
    let doubled = Duration::from_secs(1) * (1 << failures.min(4));
    doubled.mul_f64(0.5 + fastrand::f64()).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delays_match_socket_io_client() {
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
