//! One client before all others: can this target be used at all?

use std::{
    convert::Infallible,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use super::{Context, End, Order, User, session};
use crate::{
    cost::Meter,
    net::Connector,
    scenario::{ClientKind, Messages, Pace, Scenario},
    stats::{Collector, ErrorKind, Failure},
};

/// Between two looks at whether the client is connected.
const LOOK: Duration = Duration::from_millis(2);
/// How long a connected client waits for its node's name, which may come as an event.
const NAME: Duration = Duration::from_millis(500);

/// Connects as one client of the scenario does, says nothing that it need not, and leaves.
///
/// # Errors
///
/// A sentence for the user.
pub(crate) async fn probe(
    scenario: &Arc<Scenario>,
    connector: &Arc<Connector>,
) -> Result<(), String> {
    attempt(scenario, connector).await.map_err(|unusable| match unusable {
        Unusable::Failed(failure) => sentence(scenario, &failure),
        Unusable::Unnamed => format!(
            "{}: max-misrouted cannot be judged: the nodes do not tell their names; send the field X-Node \
             with each reply, or an event `node` with the name",
            scenario.target.url
        ),
    })
}

/// Why a target is of no use for a scenario.
enum Unusable {
    /// It was tried, and this came of it.
    Failed(Failure),
    /// Its nodes tell no names, and a limit needs them.
    Unnamed,
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn attempt(scenario: &Arc<Scenario>, connector: &Arc<Connector>) -> Result<(), Unusable> {
    let collector = Collector::new(Meter::default());
    let (orders, receiver) = watch::channel(Order::Go);
    let context = Context {
        scenario: Arc::new(quiet(scenario)),
        connector: Arc::clone(connector),
        recorder: collector.recorder(),
        orders: receiver,
        departed: Arc::default(),
        epoch: collector.epoch(),
    };
    let mut user = User::new(&context, 0);
    let alone = async {
        // A request is all that shows an HTTP server; the others have shown themselves by then.
        while scenario.client == ClientKind::Http || !context.recorder.is_anyone_connected() {
            sleep(LOOK).await;
        }
        if scenario.limits.max_misrouted.is_some() {
            let deadline = Instant::now() + NAME;
            while !is_named(&collector) && Instant::now() < deadline {
                sleep(LOOK).await;
            }
        }
        orders.send_replace(Order::Leave);
        future::pending::<Infallible>().await
    };
    let end = tokio::select! {
        end = session(&context, &mut user, Instant::now()) => end,
        never = alone => match never {},
    };
    match end {
        // Who is moved, and a request at the wrong node, is what a run is there to count.
        End::Moved { .. } => Ok(()),
        End::Failed { failure, .. } | End::Lost { failure, .. }
            if failure.kind == ErrorKind::Code1 =>
        {
            Ok(())
        }
        End::Failed { failure, .. } | End::Lost { failure, .. } => Err(failure.into()),
        End::Said | End::Ordered { .. }
            if scenario.limits.max_misrouted.is_some() && !is_named(&collector) =>
        {
            Err(Unusable::Unnamed)
        }
        // So is an upgrade that failed: the session goes on by polling.
        End::Said | End::Ordered { .. } if scenario.client == ClientKind::PollingUpgrade => Ok(()),
        End::Said | End::Ordered { .. } => {
            let record = collector.record();
            match ErrorKind::ALL.into_iter().zip(record.samples).find_map(|(k, s)| Some((k, s?))) {
                Some((kind, sample)) => Err(Failure::new(kind, sample).into()),
                None => Ok(()),
            }
        }
    }
}

/// Whether a node has told its name.
fn is_named(collector: &Collector) -> bool {
    collector.look().totals.named > 0
}

/// The scenario with as little to say as its kind of client allows.
fn quiet(scenario: &Scenario) -> Scenario {
    let (pace, count) = match scenario.client {
        ClientKind::Http => (Pace::Think(Duration::ZERO), Some(1)),
        _ => (Pace::Silent, None),
    };
    let messages = Messages { pace, count, repeat: false, ..scenario.messages.clone() };
    Scenario { messages, broadcast_every: None, reconnect: false, ..scenario.clone() }
}

fn sentence(scenario: &Scenario, failure: &Failure) -> String {
    let url = &scenario.target.url;
    let path = &scenario.target.path;
    let speaks_socket_io = scenario.client.speaks_socket_io();
    match failure.kind {
        ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Timeout => format!("{url}: {failure}"),
        ErrorKind::Protocol if speaks_socket_io => {
            format!("{url}: what answers at {path} is no Socket.IO server: {failure}")
        }
        _ if speaks_socket_io => {
            format!("{url}: no Socket.IO session can be opened at {path}: {failure}")
        }
        _ => format!("{url}: {path} cannot be used: {failure}"),
    }
}
