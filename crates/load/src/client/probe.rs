//! Connects one client before all others, to check that the target is usable.

use std::{
    convert::Infallible,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use tokio::{sync::watch, time::sleep};

use super::{ClientCommand, Context, SessionEnd, User, run_session};
use crate::{
    cost::Meter,
    net::Connector,
    scenario::{ClientKind, Messages, Pace, Scenario},
    stats::{Collector, ErrorKind, Failure},
};

/// Interval at which the state of the client is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);
/// Maximum time until a connected client knows the name of its node, which may come as an event.
const NAME_TIMEOUT: Duration = Duration::from_millis(500);

/// Connects like a client of the scenario, sends as little as possible, and disconnects.
///
/// # Errors
///
/// The target is not usable for this scenario.
pub(crate) async fn probe(
    scenario: &Arc<Scenario>,
    connector: &Arc<Connector>,
) -> anyhow::Result<()> {
    attempt(scenario, connector).await.map_err(|unusable| match unusable {
        Unusable::Failed(failure) => anyhow!(message(scenario, &failure)),
        Unusable::Unnamed => anyhow!(
            "{}: max-misrouted cannot be checked: the nodes do not send their names; send the header X-Node \
             with each reply, or an event `node` with the name",
            scenario.target.url
        ),
    })
}

/// Why a target is not usable for a scenario.
enum Unusable {
    /// The attempt failed.
    Failed(Failure),
    /// The nodes do not send their names, but a limit requires them.
    Unnamed,
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn attempt(scenario: &Arc<Scenario>, connector: &Arc<Connector>) -> Result<(), Unusable> {
    let collector = Collector::new(Meter::default());
    let (commands, receiver) = watch::channel(ClientCommand::Run);
    let context = Context {
        scenario: Arc::new(silent(scenario)),
        connector: Arc::clone(connector),
        recorder: collector.recorder(),
        commands: receiver,
        node_states: Arc::default(),
        epoch: collector.epoch(),
    };
    let mut user = User::new(&context, 0);
    let stop_when_ready = async {
        // An HTTP client must wait for a reply to its request; for the other kinds, a connection is enough.
        while scenario.client == ClientKind::Http || !context.recorder.has_connected_clients() {
            sleep(CHECK_INTERVAL).await;
        }
        if scenario.limits.max_misrouted.is_some() {
            let deadline = Instant::now() + NAME_TIMEOUT;
            while !is_named(&collector) && Instant::now() < deadline {
                sleep(CHECK_INTERVAL).await;
            }
        }
        commands.send_replace(ClientCommand::Stop);
        future::pending::<Infallible>().await
    };
    let end = tokio::select! {
        end = run_session(&context, &mut user, Instant::now()) => end,
        never = stop_when_ready => match never {},
    };
    match end {
        // A move, or a request at the wrong node, is a result of the run and not a reason against it.
        SessionEnd::Moved { .. } => Ok(()),
        SessionEnd::Failed { failure, .. } | SessionEnd::Lost { failure, .. }
            if failure.kind == ErrorKind::Code1 =>
        {
            Ok(())
        }
        SessionEnd::Failed { failure, .. } | SessionEnd::Lost { failure, .. } => {
            Err(failure.into())
        }
        SessionEnd::Completed | SessionEnd::Interrupted { .. }
            if scenario.limits.max_misrouted.is_some() && !is_named(&collector) =>
        {
            Err(Unusable::Unnamed)
        }
        // After a failed upgrade, the session continues by polling.
        SessionEnd::Completed | SessionEnd::Interrupted { .. }
            if scenario.client == ClientKind::PollingUpgrade =>
        {
            Ok(())
        }
        SessionEnd::Completed | SessionEnd::Interrupted { .. } => {
            let record = collector.record();
            match ErrorKind::ALL.into_iter().zip(record.samples).find_map(|(k, s)| Some((k, s?))) {
                Some((kind, sample)) => Err(Failure::new(kind, sample).into()),
                None => Ok(()),
            }
        }
    }
}

/// Whether a node has sent its name.
fn is_named(collector: &Collector) -> bool {
    collector.status().totals.named > 0
}

/// Returns the scenario with as few messages as its kind of client allows.
fn silent(scenario: &Scenario) -> Scenario {
    let (pace, count) = match scenario.client {
        ClientKind::Http => (Pace::Think(Duration::ZERO), Some(1)),
        _ => (Pace::Silent, None),
    };
    let messages =
        Messages { pace, count, repeat: false, stay: false, ..scenario.messages.clone() };
    Scenario { messages, broadcast_every: None, reconnect: false, ..scenario.clone() }
}

fn message(scenario: &Scenario, failure: &Failure) -> String {
    let url = &scenario.target.url;
    let path = &scenario.target.path;
    let speaks_socket_io = scenario.client.speaks_socket_io();
    match failure.kind {
        ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Timeout => format!("{url}: {failure}"),
        ErrorKind::Protocol if speaks_socket_io => {
            format!("{url}: no Socket.IO server at {path}: {failure}")
        }
        _ if speaks_socket_io => {
            format!("{url}: cannot open a Socket.IO session at {path}: {failure}")
        }
        _ => format!("{url}: cannot use {path}: {failure}"),
    }
}
