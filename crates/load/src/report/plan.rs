//! The scenario as data and in words.

use serde::{Deserialize, Serialize};

use super::words::{self, count, time};
use crate::scenario::{
    Answer, Arrival, Chaos, ChaosEvent, ClientKind, Course, Deploy, Harm, Herd, Pace, Payload,
    Protocol, Scenario,
};

/// What the run was to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// For people: a few whole sentences.
    pub(crate) words: String,
    /// Where clients connected, as typed.
    pub(crate) target: String,
    /// `polling-upgrade`, `websocket`, `polling`, `ws`, `bulk`, `http` or `connect`.
    pub(crate) client: String,
    /// Engine.IO protocol, 3 or 4; `null` for kinds that do not speak it.
    pub(crate) eio: Option<u8>,
    /// How many clients.
    pub(crate) clients: u32,
    /// From the first arrival to the last, in seconds.
    pub(crate) ramp_s: f64,
    /// From the last arrival to the order to leave, in seconds.
    pub(crate) hold_s: f64,
    /// Time between the messages of a client, in seconds, whatever the answers do.
    pub(crate) every_s: Option<f64>,
    /// Time from an answer to the next message of a client, in seconds.
    pub(crate) think_s: Option<f64>,
    /// Messages of a client until it leaves; `null`: until the run ends.
    pub(crate) count: Option<u64>,
    /// Whether a new client takes the place of one that left.
    pub(crate) repeat: bool,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// `text`, `json` or `binary`.
    pub(crate) payload: String,
    /// `ack`, `echo` or `none`.
    pub(crate) answer: String,
    /// How often all clients were spoken to, in seconds.
    pub(crate) broadcast_every_s: Option<f64>,
    /// `steady`, `herd`, `deploy` or `chaos`.
    pub(crate) course: String,
    /// Whether clients kept cookies.
    pub(crate) cookies: bool,
    /// Whether lost clients came back.
    pub(crate) reconnect: bool,
    /// Whether TLS sessions were resumed; `null` without TLS.
    pub(crate) resume: Option<bool>,
    /// Threads that drove the clients.
    pub(crate) threads: usize,
}

impl Plan {
    /// Of a checked scenario.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let messages = &scenario.messages;
        let speaks_engine_io = matches!(
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
            words: describe(scenario),
            target: scenario.target.url.clone(),
            client: scenario.client.name().into(),
            eio: speaks_engine_io.then_some(eio),
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
            course: course_name(&scenario.course).into(),
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

/// Whole sentences, in the order in which things happen.
fn describe(scenario: &Scenario) -> String {
    let mut sentences = vec![arrivals(scenario)];
    sentences.extend(talk(scenario));
    sentences.extend(
        scenario
            .broadcast_every
            .map(|every| format!("One client speaks to all of them every {}.", time(every))),
    );
    sentences.extend(course(&scenario.course));
    sentences.join(" ")
}

fn arrivals(scenario: &Scenario) -> String {
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
    let manner = match scenario.client {
        ClientKind::PollingUpgrade => format!(" (polling, then an upgrade; {eio})"),
        ClientKind::WebSocket => format!(" (WebSocket only; {eio})"),
        ClientKind::Polling => format!(" (polling only; {eio})"),
        _ => String::new(),
    };
    let clients = words::counted(u64::from(scenario.clients), one, many);
    let (comes, stays) = match scenario.clients {
        1 => ("comes", "stays"),
        _ => ("come", "stay"),
    };
    let pace = match scenario.arrival {
        Arrival::Ramp(ramp) if ramp.is_zero() => "all at once".to_owned(),
        Arrival::Ramp(ramp) => format!("evenly within {}", time(ramp)),
        Arrival::Rate(rate) => format!("{} a second", words::number(rate)),
    };
    let target = &scenario.target.url;
    let until = match scenario.course {
        Course::Led => "until they are told to leave".to_owned(),
        _ => format!("for {} after the last", time(scenario.hold)),
    };
    format!("{clients}{manner} {comes} to {target}, {pace}, and {stays} {until}.")
}

fn talk(scenario: &Scenario) -> Option<String> {
    let messages = &scenario.messages;
    let what = match scenario.client {
        ClientKind::PollingUpgrade | ClientKind::WebSocket | ClientKind::Polling => {
            let payload = payload_words(messages.payload);
            let size = words::bytes(messages.size as u64);
            let answer = match messages.answer {
                Answer::Ack => ", to be acknowledged",
                Answer::Echo => ", to be echoed",
                Answer::Nothing => "",
            };
            format!("emits “{}” with {size} of {payload}{answer},", messages.event)
        }
        ClientKind::Ws => {
            let payload = payload_words(messages.payload);
            format!("sends {} of {payload} to be echoed,", words::bytes(messages.size as u64))
        }
        ClientKind::Http => "sends a request".to_owned(),
        ClientKind::Bulk | ClientKind::Connect => return None,
    };
    let when = match messages.pace {
        Pace::Silent => return Some("They say nothing.".to_owned()),
        Pace::Every(every) => format!("every {}", time(every)),
        Pace::Think(think) if think.is_zero() => "again at once after each answer".to_owned(),
        Pace::Think(think) => format!("again {} after each answer", time(think)),
    };
    let until = match (messages.count, messages.repeat) {
        (None, _) => String::new(),
        (Some(most), false) => format!(", {} in all", words::counted(most, "time", "times")),
        (Some(most), true) => {
            let times = words::counted(most, "time", "times");
            format!(", {times}, and then begins anew")
        }
    };
    Some(format!("Each {what} {when}{until}."))
}

fn course(course: &Course) -> Option<String> {
    match course {
        Course::Steady => None,
        Course::Led => Some("What happens meanwhile is up to another program.".to_owned()),
        Course::Herd(herd) => Some(herd_words(herd)),
        Course::Deploy(deploy) => Some(deploy_words(deploy)),
        Course::Chaos(chaos) => Some(chaos_words(chaos)),
    }
}

fn herd_words(herd: &Herd) -> String {
    let after = time(herd.after);
    let back = match herd.within.is_zero() {
        true => "return at once".to_owned(),
        false => format!("return within {}", time(herd.within)),
    };
    let again = match herd.times {
        1 => String::new(),
        times => format!(", {times} times, one every {}", time(herd.every)),
    };
    format!("{after} after the last arrival all of them drop their connection and {back}{again}.")
}

fn deploy_words(deploy: &Deploy) -> String {
    format!(
        "{} after the last arrival the {} nodes are replaced one by one: each is taken from the \
         list, given {} to drain, and ended; {} later comes the next.",
        time(deploy.after),
        count(u64::from(deploy.fleet.nodes)),
        time(deploy.drain),
        time(deploy.pause),
    )
}

fn chaos_words(chaos: &Chaos) -> String {
    let events: Vec<_> = chaos.events.iter().map(event_words).collect();
    let nodes = words::counted(u64::from(chaos.fleet.nodes), "node", "nodes");
    format!("Of {nodes}, counted from the last arrival, {}.", words::list(&events))
}

fn event_words(event: &ChaosEvent) -> String {
    let what = match event.harm {
        Harm::Kill { back_after: None } => "is killed".to_owned(),
        Harm::Kill { back_after: Some(back) } => format!("is killed and back after {}", time(back)),
        Harm::Hang(how_long) => format!("hangs for {}", time(how_long)),
        Harm::Reset => "resets its connections".to_owned(),
    };
    format!("at {} node {} {what}", time(event.at), event.node)
}

fn payload_name(payload: Payload) -> &'static str {
    match payload {
        Payload::Text => "text",
        Payload::Json => "json",
        Payload::Binary => "binary",
    }
}

fn payload_words(payload: Payload) -> &'static str {
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

fn course_name(course: &Course) -> &'static str {
    match course {
        Course::Steady => "steady",
        Course::Led => "led",
        Course::Herd(_) => "herd",
        Course::Deploy(_) => "deploy",
        Course::Chaos(_) => "chaos",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::example, scenario::Fleet};
    use std::time::Duration;

    fn words(change: impl FnOnce(&mut Scenario)) -> String {
        let mut scenario = example::scenario();
        scenario.course = Course::Steady;
        change(&mut scenario);
        Plan::new(&scenario).words
    }

    #[test]
    fn one_sentence_for_who_comes_and_one_for_what_they_say() {
        let plain = words(|scenario| {
            scenario.client = ClientKind::Ws;
            scenario.clients = 1;
            scenario.arrival = Arrival::Rate(0.5);
            scenario.messages.pace = Pace::Think(Duration::ZERO);
            scenario.messages.count = Some(1);
        });
        let expected = "1 WebSocket client comes to https://chat.example:8443, 0.5 a second, and \
                        stays for 50 s after the last. Each sends 64 B of text to be echoed, again \
                        at once after each answer, 1 time in all.";
        assert_eq!(plain, expected);
        let silent = words(|scenario| scenario.messages.pace = Pace::Silent);
        assert!(silent.ends_with(" after the last. They say nothing."), "{silent}");
        let bulk = words(|scenario| scenario.client = ClientKind::Bulk);
        assert!(bulk.starts_with("6,000 WebSocket downloads come") && !bulk.contains("Each"));
    }

    #[test]
    fn a_run_that_is_led_has_no_length() {
        let led = words(|scenario| scenario.course = Course::Led);
        assert!(led.contains(", and stay until they are told to leave."), "{led}");
        assert!(led.ends_with("up to another program."), "{led}");
    }

    #[test]
    fn courses_are_told_in_the_order_of_events() {
        let herd = words(|scenario| {
            scenario.course = Course::Herd(Herd {
                after: Duration::from_secs(10),
                times: 2,
                every: Duration::from_secs(30),
                within: Duration::ZERO,
            });
        });
        let expected = "10 s after the last arrival all of them drop their connection and return \
                        at once, 2 times, one every 30 s.";
        assert!(herd.ends_with(expected), "{herd}");
        let event = |at, node, harm| ChaosEvent { at: Duration::from_secs(at), node, harm };
        let chaos = words(|scenario| {
            let fleet = Fleet { nodes: 3, backends_file: "backends".into() };
            let back_after = Some(Duration::from_secs(3));
            let events = vec![
                event(5, 1, Harm::Kill { back_after }),
                event(10, 2, Harm::Hang(Duration::from_secs(5))),
                event(20, 0, Harm::Reset),
            ];
            scenario.course = Course::Chaos(Chaos { fleet, events });
        });
        let expected = "Of 3 nodes, counted from the last arrival, at 5 s node 1 is killed and back \
                        after 3 s, at 10 s node 2 hangs for 5 s and at 20 s node 0 resets its \
                        connections.";
        assert!(chaos.ends_with(expected), "{chaos}");
    }
}
