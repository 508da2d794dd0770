//! Describes the scenario as data and as text.

use serde::{Deserialize, Serialize};

use super::formatting::{self, count, time};
use crate::scenario::{
    Answer, Arrival, Chaos, ChaosEvent, ClientKind, Deploy, Herd, Mode, NodeFault, Pace, Payload,
    Protocol, Scenario,
};

/// The scenario of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScenarioSummary {
    /// Description in full sentences.
    pub(crate) description: String,
    /// Target URL, as given.
    pub(crate) target: String,
    /// `polling-upgrade`, `websocket`, `polling`, `ws`, `bulk`, `http` or `connect`.
    pub(crate) client: String,
    /// Engine.IO protocol, 3 or 4; `null` for clients without Socket.IO.
    pub(crate) eio: Option<u8>,
    /// Number of clients.
    pub(crate) clients: u32,
    /// Time from the first arrival to the last, in seconds.
    pub(crate) ramp_s: f64,
    /// Time from the last arrival to the command to disconnect, in seconds.
    pub(crate) hold_s: f64,
    /// Interval between the messages of a client, in seconds, independent of the answers.
    pub(crate) every_s: Option<f64>,
    /// Time from an answer to the next message of a client, in seconds.
    pub(crate) think_s: Option<f64>,
    /// Messages after which a client ends; `null`: at the end of the run.
    pub(crate) count: Option<u64>,
    /// Whether a new client replaces a client that has ended.
    pub(crate) repeat: bool,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// `text`, `json` or `binary`.
    pub(crate) payload: String,
    /// `ack`, `echo` or `none`.
    pub(crate) answer: String,
    /// Interval of broadcasts to all clients, in seconds.
    pub(crate) broadcast_every_s: Option<f64>,
    /// `steady`, `controlled`, `herd`, `deploy` or `chaos`.
    pub(crate) mode: String,
    /// Whether clients stored cookies.
    pub(crate) cookies: bool,
    /// Whether clients reconnected after a loss.
    pub(crate) reconnect: bool,
    /// Whether TLS sessions were resumed; `null` without TLS.
    pub(crate) resume: Option<bool>,
    /// Threads that ran the clients.
    pub(crate) threads: usize,
}

impl ScenarioSummary {
    /// Describes a scenario.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let messages = &scenario.messages;
        let uses_engine_io = matches!(
            scenario.client,
            ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling
        );
        let eio = match scenario.protocol {
            Protocol::V3 => 3,
            Protocol::V4 => 4,
        };
        let (every, think) = match messages.pace {
            Pace::Silent => (None, None),
            Pace::Every(time) => (Some(time.as_secs_f64()), None),
            Pace::Think(time) => (None, Some(time.as_secs_f64())),
        };
        Self {
            description: describe(scenario),
            target: scenario.target.url.clone(),
            client: scenario.client.name().into(),
            eio: uses_engine_io.then_some(eio),
            clients: scenario.clients,
            ramp_s: ramp_seconds(scenario),
            hold_s: scenario.hold.as_secs_f64(),
            every_s: every,
            think_s: think,
            count: messages.count,
            repeat: messages.repeat,
            size: messages.size,
            payload: payload_name(messages.payload).into(),
            answer: answer_name(messages.answer).into(),
            broadcast_every_s: scenario.broadcast_every.map(|every| every.as_secs_f64()),
            mode: mode_name(&scenario.mode).into(),
            cookies: scenario.cookies,
            reconnect: scenario.reconnect,
            resume: scenario.target.tls.then_some(scenario.tls.resume),
            threads: scenario.threads,
        }
    }
}

fn ramp_seconds(scenario: &Scenario) -> f64 {
    match scenario.arrival {
        Arrival::Ramp(time) => time.as_secs_f64(),
        Arrival::Rate(rate) => f64::from(scenario.clients) / rate,
    }
}

/// Returns sentences in the order in which things happen.
fn describe(scenario: &Scenario) -> String {
    let mut sentences = vec![arrival_sentence(scenario)];
    sentences.extend(message_sentence(scenario));
    sentences.extend(
        scenario
            .broadcast_every
            .map(|every| format!("One client broadcasts to all every {}.", time(every))),
    );
    sentences.extend(mode_sentence(&scenario.mode));
    sentences.join(" ")
}

fn arrival_sentence(scenario: &Scenario) -> String {
    let eio = match scenario.protocol {
        Protocol::V3 => "Engine.IO 3",
        Protocol::V4 => "Engine.IO 4",
    };
    let (one, many) = match scenario.client {
        ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling => {
            ("Socket.IO client", "Socket.IO clients")
        }
        ClientKind::Ws => ("WebSocket client", "WebSocket clients"),
        ClientKind::Bulk => ("WebSocket download", "WebSocket downloads"),
        ClientKind::Http => ("HTTP client", "HTTP clients"),
        ClientKind::Connect => ("connection", "connections"),
    };
    let transport = match scenario.client {
        ClientKind::PollingUpgrade => format!(" (polling, then an upgrade; {eio})"),
        ClientKind::WebSocket => format!(" (WebSocket only; {eio})"),
        ClientKind::Polling if scenario.single_connection => {
            format!(" (polling only, over one connection each; {eio})")
        }
        ClientKind::Polling => format!(" (polling only; {eio})"),
        _ => String::new(),
    };
    let clients = formatting::counted(u64::from(scenario.clients), one, many);
    let (connects, stays) = match scenario.clients {
        1 => ("connects", "stays"),
        _ => ("connect", "stay"),
    };
    let pace = match scenario.arrival {
        Arrival::Ramp(ramp) if ramp.is_zero() => "all at once".to_owned(),
        Arrival::Ramp(ramp) => format!("evenly within {}", time(ramp)),
        Arrival::Rate(rate) => format!("{} per second", formatting::number(rate)),
    };
    let target = &scenario.target.url;
    let until = match scenario.mode {
        Mode::Controlled => "until the controlling program ends the run".to_owned(),
        _ => format!("for {} after the last arrival", time(scenario.hold)),
    };
    format!("{clients}{transport} {connects} to {target}, {pace}, and {stays} connected {until}.")
}

fn message_sentence(scenario: &Scenario) -> Option<String> {
    let messages = &scenario.messages;
    let what = match scenario.client {
        ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling => {
            let payload = payload_description(messages.payload);
            let size = formatting::bytes(messages.size as u64);
            let answer = match messages.answer {
                Answer::Ack => " that the server acknowledges",
                Answer::Echo => " that the server echoes",
                Answer::Nothing => "",
            };
            format!("emits “{}” with {size} of {payload}{answer}", messages.event)
        }
        ClientKind::Ws => {
            let payload = payload_description(messages.payload);
            format!(
                "sends {} of {payload} that the server echoes",
                formatting::bytes(messages.size as u64)
            )
        }
        ClientKind::Http => match scenario.read_rate {
            None => "sends a request".to_owned(),
            Some(rate) => {
                let rate = formatting::bytes(rate as u64);
                format!("sends a request, of whose reply it reads {rate} per second,")
            }
        },
        ClientKind::Bulk | ClientKind::Connect => return None,
    };
    let when = match messages.pace {
        Pace::Silent => return Some("They send no messages.".to_owned()),
        Pace::Every(every) => format!("every {}", time(every)),
        Pace::Think(think) if think.is_zero() => "again right after each answer".to_owned(),
        Pace::Think(think) => format!("again {} after each answer", time(think)),
    };
    let until = match (messages.count, messages.repeat) {
        (None, _) => String::new(),
        (Some(most), false) => {
            let stays = if messages.stay { ", and then stays connected" } else { "" };
            format!(", {} in total{stays}", formatting::counted(most, "time", "times"))
        }
        (Some(most), true) => {
            let times = formatting::counted(most, "time", "times");
            format!(", {times}; then a new client replaces it")
        }
    };
    Some(format!("Each {what} {when}{until}."))
}

fn mode_sentence(mode: &Mode) -> Option<String> {
    match mode {
        Mode::Steady => None,
        Mode::Controlled => Some("Another program controls the nodes.".to_owned()),
        Mode::Herd(herd) => Some(herd_sentence(herd)),
        Mode::Deploy(deploy) => Some(deploy_sentence(deploy)),
        Mode::Chaos(chaos) => Some(chaos_sentence(chaos)),
    }
}

fn herd_sentence(herd: &Herd) -> String {
    let after = time(herd.after);
    let back = match herd.within.is_zero() {
        true => "reconnect at once".to_owned(),
        false => format!("reconnect within {}", time(herd.within)),
    };
    let again = match herd.times {
        1 => String::new(),
        times => format!(", {times} times with {} between them", time(herd.every)),
    };
    format!("{after} after the last arrival, all clients drop their connections and {back}{again}.")
}

fn deploy_sentence(deploy: &Deploy) -> String {
    format!(
        "{} after the last arrival, the {} nodes are replaced one by one: each is removed from the backend \
         list, drains for {}, and is stopped; the next one follows {} later.",
        time(deploy.after),
        count(u64::from(deploy.fleet.nodes)),
        time(deploy.drain),
        time(deploy.pause),
    )
}

fn chaos_sentence(chaos: &Chaos) -> String {
    let events: Vec<_> = chaos.events.iter().map(event_clause).collect();
    let nodes = formatting::counted(u64::from(chaos.fleet.nodes), "node", "nodes");
    format!("{nodes}, with times from the last arrival: {}.", formatting::list(&events))
}

fn event_clause(event: &ChaosEvent) -> String {
    let (node, at) = (event.node, time(event.at));
    match event.fault {
        NodeFault::Kill { back_after: None } => format!("node {node} is killed at {at}"),
        NodeFault::Kill { back_after: Some(back) } => {
            format!("node {node} is killed at {at} and started again {} later", time(back))
        }
        NodeFault::Hang(how_long) => format!("node {node} hangs at {at} for {}", time(how_long)),
        NodeFault::Reset => format!("node {node} resets its connections at {at}"),
    }
}

fn payload_name(payload: Payload) -> &'static str {
    match payload {
        Payload::Text => "text",
        Payload::Json => "json",
        Payload::Binary => "binary",
    }
}

fn payload_description(payload: Payload) -> &'static str {
    match payload {
        Payload::Text => "text",
        Payload::Json => "JSON",
        Payload::Binary => "binary data",
    }
}

fn answer_name(answer: Answer) -> &'static str {
    match answer {
        Answer::Ack => "ack",
        Answer::Echo => "echo",
        Answer::Nothing => "none",
    }
}

fn mode_name(mode: &Mode) -> &'static str {
    match mode {
        Mode::Steady => "steady",
        Mode::Controlled => "controlled",
        Mode::Herd(_) => "herd",
        Mode::Deploy(_) => "deploy",
        Mode::Chaos(_) => "chaos",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::example, scenario::Fleet};
    use std::time::Duration;

    fn description(change: impl FnOnce(&mut Scenario)) -> String {
        let mut scenario = example::scenario();
        scenario.mode = Mode::Steady;
        change(&mut scenario);
        ScenarioSummary::new(&scenario).description
    }

    #[test]
    fn description_has_a_sentence_on_arrivals_and_one_on_messages() {
        let plain = description(|scenario| {
            scenario.client = ClientKind::Ws;
            scenario.clients = 1;
            scenario.arrival = Arrival::Rate(0.5);
            scenario.messages.pace = Pace::Think(Duration::ZERO);
            scenario.messages.count = Some(1);
        });
        let expected = "1 WebSocket client connects to https://chat.example:8443, 0.5 per second, and \
                        stays connected for 50 s after the last arrival. Each sends 64 B of text that \
                        the server echoes again right after each answer, 1 time in total.";
        assert_eq!(plain, expected);
        let ack = description(|_| ());
        let expected =
            "Each emits “echo” with 64 B of text that the server acknowledges every 10 s.";
        assert!(ack.ends_with(expected), "{ack}");
        let silent = description(|scenario| scenario.messages.pace = Pace::Silent);
        assert!(silent.ends_with(" after the last arrival. They send no messages."), "{silent}");
        let bulk = description(|scenario| scenario.client = ClientKind::Bulk);
        assert!(bulk.starts_with("6,000 WebSocket downloads connect") && !bulk.contains("Each"));
    }

    #[test]
    fn controlled_run_has_no_length() {
        let text = description(|scenario| scenario.mode = Mode::Controlled);
        assert!(
            text.contains(", and stay connected until the controlling program ends the run."),
            "{text}"
        );
        assert!(text.ends_with("Another program controls the nodes."), "{text}");
    }

    #[test]
    fn events_are_described_in_order() {
        let herd = description(|scenario| {
            scenario.mode = Mode::Herd(Herd {
                after: Duration::from_secs(10),
                times: 2,
                every: Duration::from_secs(30),
                within: Duration::ZERO,
            });
        });
        let expected = "10 s after the last arrival, all clients drop their connections and reconnect at \
                        once, 2 times with 30 s between them.";
        assert!(herd.ends_with(expected), "{herd}");
        let event = |at, node, fault| ChaosEvent { at: Duration::from_secs(at), node, fault };
        let chaos = description(|scenario| {
            let fleet = Fleet { nodes: 3, backends_file: "backends".into() };
            let back_after = Some(Duration::from_secs(3));
            let events = vec![
                event(5, 1, NodeFault::Kill { back_after }),
                event(10, 2, NodeFault::Hang(Duration::from_secs(5))),
                event(20, 0, NodeFault::Reset),
            ];
            scenario.mode = Mode::Chaos(Chaos { fleet, events });
        });
        let expected = "3 nodes, with times from the last arrival: node 1 is killed at 5 s and started \
                        again 3 s later, node 2 hangs at 10 s for 5 s and node 0 resets its \
                        connections at 20 s.";
        assert!(chaos.ends_with(expected), "{chaos}");
    }
}
