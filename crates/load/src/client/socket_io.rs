//! Socket.IO over Engine.IO: polling, WebSocket, and the way from one to the other.
//!
//! [`Conversation`] is the session; `polling` and `websocket` carry it.

mod conversation;
mod polling;
mod speech;
mod websocket;

use std::time::Instant;

use http::HeaderMap;

use self::conversation::Conversation;
use super::{Break, Context, End, User};
use crate::{
    net::{Reply, UpgradeError},
    scenario::{ClientKind, Protocol},
    stats::{ErrorKind, Failure},
    wire::{Malformed, engine_io::Refusal},
};

/// Names the node that made a reply.
const X_NODE: &str = "x-node";

/// Why a transport stopped.
#[derive(Debug)]
enum Stop {
    /// All is said and answered; so was goodbye.
    Said,
    /// An order came, and was obeyed.
    Ordered(Break),
    /// The server asked the client to come back.
    Moved(Failure),
    /// The session is lost, or never was.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

/// One Socket.IO connection.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let mut conversation = Conversation::new(context, user.number, due, user.said);
    let mut outbox = Vec::new();
    // Boxed: an idle WebSocket is not to carry what brought it here.
    let opened = match context.scenario.client {
        ClientKind::WebSocket => Box::pin(websocket::open(context, user, &mut conversation)).await,
        _ => Box::pin(polling::converse(context, user, &mut conversation, &mut outbox)).await,
    };
    let stop = match opened {
        Ok(socket) => {
            websocket::converse(socket, &mut conversation, &mut user.orders, outbox).await
        }
        Err(stop) => stop,
    };
    user.said = conversation.settled();
    context.recorder.unanswered(conversation.unanswered());
    let connected = conversation.is_connected();
    match stop {
        Stop::Said => End::Said,
        Stop::Ordered(by) => End::Ordered { by, connected },
        Stop::Moved(failure) if connected => End::Moved { failure },
        Stop::Failed(failure) | Stop::Moved(failure) => {
            let node = conversation.into_node();
            match connected {
                true => End::Lost { failure, node },
                false => End::Failed { failure, node },
            }
        }
    }
}

/// Path and query of a request, for a session where there is one.
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
    // The real client keeps polls, but not sockets, out of caches.
    if transport == "polling" {
        path.push_str(&format!("&t={:x}", fastrand::u32(..)));
    }
    if let Some(sid) = sid {
        path.push_str("&sid=");
        push_encoded(sid, &mut path);
    }
    path
}

/// Appends what stands for `text` in a query: servers may make up any session id.
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

/// Takes down which node a reply is from, where it tells.
fn note_node(headers: &HeaderMap, conversation: &mut Conversation<'_>) {
    if let Some(Ok(node)) = headers.get(X_NODE).map(|node| node.to_str()) {
        conversation.answered_by(node);
    }
}

/// What an unsuccessful reply means.
fn refused(reply: &Reply) -> Failure {
    match Refusal::parse(&reply.body) {
        Some(refusal) => {
            let kind = if refusal.code == 1 { ErrorKind::Code1 } else { ErrorKind::EngineIo };
            Failure::new(kind, format!("the server answered with {refusal}"))
        }
        None => Failure::new(ErrorKind::Status, reply.clause()),
    }
}

/// What an upgrade that failed means.
fn not_upgraded(error: UpgradeError, conversation: &mut Conversation<'_>) -> Failure {
    if let UpgradeError::Refused(reply) = &error {
        note_node(&reply.headers, conversation);
        let failure = refused(reply);
        if failure.kind != ErrorKind::Status {
            return failure;
        }
    }
    error.into()
}

fn ended(clause: &str) -> Failure {
    Failure::new(ErrorKind::Disconnect, clause)
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
        client::Order,
        cost::Meter,
        net::Connector,
        scenario::{Scenario, options::Options},
        stats::{Collector, Counters},
        wire::engine_io::Packet,
    };

    /// One client's context, with what was typed beside the target.
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
            orders: watch::channel(Order::Go).1,
            departed: Arc::default(),
            epoch: collector.epoch(),
        };
        (context, collector)
    }

    #[test]
    fn what_a_hurt_node_does_not_answer_is_no_error_and_is_counted() {
        for hurt in [false, true] {
            let (context, collector) = context(|typed| {
                typed.every = "1ms".parse().ok();
                typed.timeout = "1ms".parse().ok();
            });
            let mut conversation = Conversation::new(&context, 0, Instant::now(), 0);
            conversation.answered_by("node-0");
            if hurt {
                context.departed.insert("node-0");
            }
            let mut outbox = Vec::new();
            let open = r#"0{"sid":"x","upgrades":[],"pingInterval":60000,"pingTimeout":60000}"#;
            for packet in [open, r#"40{"sid":"y"}"#] {
                conversation.receive(Packet::from_text(packet).unwrap(), &mut outbox).unwrap();
            }
            let deadline = Instant::now() + Duration::from_secs(20);
            let overdue = |totals: &Counters| totals.unanswered + totals.errors > 2;
            while !overdue(&collector.record().totals) {
                assert!(Instant::now() < deadline, "nothing is overdue");
                conversation.turn(false, &mut outbox).unwrap();
                outbox.clear();
            }
            let Counters { unanswered, errors, .. } = collector.record().totals;
            assert_eq!((unanswered > 0, errors > 0), (hurt, !hurt), "hurt: {hurt}");
        }
    }

    #[test]
    fn an_answer_for_a_node_that_went_is_not_misrouted() {
        let (context, collector) = context(|_| ());
        let mut conversation = Conversation::new(&context, 0, Instant::now(), 0);
        for node in ["node-0", "node-0", "node-1"] {
            conversation.answered_by(node);
        }
        assert_eq!(collector.record().totals.misrouted, 1);
        context.departed.insert("node-0");
        conversation.answered_by("node-1");
        assert_eq!(collector.record().totals.misrouted, 1);
    }

    #[test]
    fn a_strange_session_id_is_encoded() {
        let mut encoded = String::new();
        push_encoded("nöt \"20\"&=~-_.", &mut encoded);
        assert_eq!(encoded, "n%C3%B6t%20%2220%22%26%3D~-_.");
    }
}
