//! Socket.IO over Engine.IO: polling, WebSocket, and the upgrade from one to the other.
//!
//! [`Session`] is independent of the transport; `polling` and `websocket` are the transports.

mod event_codec;
mod polling;
mod session;
mod websocket;

use std::time::Instant;

use http::HeaderMap;

use self::session::Session;
use super::{Context, Interruption, SessionEnd, User};
use crate::{
    net::{Reply, UpgradeError},
    scenario::{ClientKind, Protocol},
    stats::{ErrorKind, Failure},
    wire::{Malformed, engine_io::EngineIoError},
};

/// Header with the name of the node that sent a reply.
const X_NODE: &str = "x-node";

/// Why a transport stopped.
#[derive(Debug)]
enum TransportEnd {
    /// All messages are settled and the session is closed.
    Completed,
    /// A command disconnected the connection.
    Interrupted(Interruption),
    /// The server asked the client to reconnect.
    Moved(Failure),
    /// The session failed, or could not be opened.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for TransportEnd {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

/// Runs one Socket.IO connection.
pub(crate) async fn run(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    let mut session = Session::new(context, user.number, due, user.settled);
    let mut outbox = Vec::new();
    // Boxed, so that the future of an idle WebSocket does not include the state of connecting.
    let opened = match context.scenario.client {
        ClientKind::WebSocket => Box::pin(websocket::open(context, user, &mut session)).await,
        _ => Box::pin(polling::run(context, user, &mut session, &mut outbox)).await,
    };
    let end = match opened {
        Ok(socket) => websocket::run(socket, &mut session, &mut user.commands, outbox).await,
        Err(end) => end,
    };
    user.settled = session.settled();
    context.recorder.unanswered(session.unanswered());
    let connected = session.is_connected();
    match end {
        TransportEnd::Completed => SessionEnd::Completed,
        TransportEnd::Interrupted(by) => SessionEnd::Interrupted { by, connected },
        TransportEnd::Moved(failure) if connected => SessionEnd::Moved { failure },
        TransportEnd::Failed(failure) | TransportEnd::Moved(failure) => {
            let node = session.into_node();
            match connected {
                true => SessionEnd::Lost { failure, node },
                false => SessionEnd::Failed { failure, node },
            }
        }
    }
}

/// Returns path and query of a request, with the session id if there is one.
fn path_and_query(context: &Context, transport: &str, sid: Option<&str>) -> String {
    let target = &context.scenario.target;
    let version = match context.scenario.protocol {
        Protocol::V3 => 3,
        Protocol::V4 => 4,
    };
    let mut path = target.path.clone();
    path.push('?');
    if !target.query.is_empty() {
        path.push_str(&target.query);
        path.push('&');
    }
    path.push_str(&format!("EIO={version}&transport={transport}"));
    // Like the real client, adds a cache buster to polling requests only.
    if transport == "polling" {
        path.push_str(&format!("&t={:x}", fastrand::u32(..)));
    }
    if let Some(sid) = sid {
        path.push_str("&sid=");
        push_encoded(sid, &mut path);
    }
    path
}

/// Appends `text` percent-encoded: servers choose the format of session ids.
fn push_encoded(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(char::from(byte));
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Records the node that sent a reply, if it is named.
fn note_node(headers: &HeaderMap, session: &mut Session<'_>) {
    if let Some(Ok(node)) = headers.get(X_NODE).map(|node| node.to_str()) {
        session.note_node(node);
    }
}

/// Returns the failure to report for an error reply.
fn failure_of_reply(reply: &Reply) -> Failure {
    match EngineIoError::parse(&reply.body) {
        Some(error) => {
            let kind = if error.code == 1 { ErrorKind::Code1 } else { ErrorKind::EngineIo };
            Failure::new(kind, format!("the server answered with {error}"))
        }
        None => Failure::new(ErrorKind::Status, reply.description()),
    }
}

/// Returns the failure to report for a failed upgrade.
fn failure_of_upgrade(error: UpgradeError, session: &mut Session<'_>) -> Failure {
    if let UpgradeError::Rejected(reply) = &error {
        note_node(&reply.headers, session);
        let failure = failure_of_reply(reply);
        if failure.kind != ErrorKind::Status {
            return failure;
        }
    }
    error.into()
}

fn disconnected(detail: &str) -> Failure {
    Failure::new(ErrorKind::Disconnect, detail)
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::new(ErrorKind::Protocol, format!("the server sent {malformed}"))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::watch;

    use super::*;
    use crate::{
        client::ClientCommand,
        cost::Meter,
        net::Connector,
        scenario::{Scenario, options::Options},
        stats::{Collector, Counters},
        wire::engine_io::Packet,
    };

    /// A context for one client, with changed options.
    fn context(change: impl FnOnce(&mut Options)) -> (Context, Collector) {
        let url = Some("http://127.0.0.1:1".to_owned());
        let mut options = Options { url, ..Options::default() };
        change(&mut options);
        let scenario = Scenario::check(options).unwrap();
        let collector = Collector::new(Meter::default());
        let context = Context {
            connector: Arc::new(Connector::new(&scenario).unwrap()),
            scenario: Arc::new(scenario),
            recorder: collector.recorder(),
            commands: watch::channel(ClientCommand::Run).1,
            node_states: Arc::default(),
            epoch: collector.epoch(),
        };
        (context, collector)
    }

    #[test]
    fn messages_that_a_faulty_node_does_not_answer_are_unanswered_but_not_errors() {
        for faulty in [false, true] {
            let (context, collector) = context(|options| {
                options.every = "1ms".parse().ok();
                options.timeout = "1ms".parse().ok();
            });
            let mut session = Session::new(&context, 0, Instant::now(), 0);
            session.note_node("node-0");
            if faulty {
                context.node_states.mark_faulty("node-0");
            }
            let mut outbox = Vec::new();
            let open = r#"0{"sid":"x","upgrades":[],"pingInterval":60000,"pingTimeout":60000}"#;
            for packet in [open, r#"40{"sid":"y"}"#] {
                session.receive(Packet::from_text(packet).unwrap(), &mut outbox).unwrap();
            }
            let deadline = Instant::now() + Duration::from_secs(20);
            let overdue = |totals: &Counters| totals.unanswered + totals.errors > 2;
            while !overdue(&collector.record().totals) {
                assert!(Instant::now() < deadline, "nothing is overdue");
                session.run_due(false, &mut outbox).unwrap();
                outbox.clear();
            }
            let Counters { unanswered, errors, .. } = collector.record().totals;
            assert_eq!((unanswered > 0, errors > 0), (faulty, !faulty), "faulty: {faulty}");
        }
    }

    #[test]
    fn answer_instead_of_a_faulty_node_is_not_misrouted() {
        let (context, collector) = context(|_| ());
        let mut session = Session::new(&context, 0, Instant::now(), 0);
        for node in ["node-0", "node-0", "node-1"] {
            session.note_node(node);
        }
        assert_eq!(collector.record().totals.misrouted, 1);
        context.node_states.mark_faulty("node-0");
        session.note_node("node-1");
        assert_eq!(collector.record().totals.misrouted, 1);
    }

    #[test]
    fn session_id_is_percent_encoded() {
        let mut encoded = String::new();
        push_encoded("nöt \"20\"&=~-_.", &mut encoded);
        assert_eq!(encoded, "n%C3%B6t%20%2220%22%26%3D~-_.");
    }
}
