//! From what was typed to a [`Scenario`] that can be run.

use std::{path::PathBuf, thread, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{
    Answer, Arrival, Chaos, ChaosEvent, ClientKind, Course, Deploy, Fleet, Harm, Herd, Limits,
    Messages, Outputs, Pace, Payload, Protocol, Scenario, Target, Tls, capacity,
    options::{ChaosOptions, DeployOptions, HerdOptions, Options},
    values::{Rate, Span},
};

/// Most clients of one process: far above what its descriptors allow.
const MOST_CLIENTS: u32 = 1_000_000;
/// Largest payload.
const LARGEST: usize = 64 << 20;
/// Most threads.
const MOST_THREADS: usize = 256;
/// Most nodes that are started.
const MOST_NODES: u16 = 100;
/// From the end of what a course does to the end of the run, unless something else was asked for.
const AFTERMATH: Duration = Duration::from_secs(10);

impl Scenario {
    /// Checks what was typed, and looks the target's host up.
    ///
    /// # Errors
    ///
    /// The first fault, as one sentence.
    pub(crate) fn check(options: Options) -> Result<Self, String> {
        let client = options.client.unwrap_or(ClientKind::PollingUpgrade);
        let url = options.url.as_deref();
        let url = url.ok_or("no target; give a URL, for example http://127.0.0.1:8080")?;
        let clients = number("clients", options.clients.unwrap_or(100), 1, MOST_CLIENTS)?;
        let messages = messages(&options, client)?;
        let course = course(&options)?;
        let takes = course.length();
        if course == Course::Led && options.hold.is_some() {
            return Err("hold is given, and a run that is led ends with its input".into());
        }
        let hold = options.hold.map_or(usual_hold(&course), |hold| hold.0);
        if hold < takes {
            return Err(format!(
                "hold is {}, and what is to happen takes {}",
                humantime::format_duration(hold),
                humantime::format_duration(takes)
            ));
        }
        let threads =
            options.threads.unwrap_or_else(|| usual_threads(clients, client, messages.pace));
        let sources = options.sources.map(|n| number("sources", n, 1, 1 << 20)).transpose()?;
        let mut scenario = Self {
            target: Target::read(url, client)?,
            tls: Tls {
                insecure: options.insecure,
                ca: options.ca.clone(),
                resume: !options.no_resume,
            },
            client,
            protocol: match options.eio {
                None | Some(4) => Protocol::V4,
                Some(3) => Protocol::V3,
                Some(other) => return Err(format!("invalid value {other} for eio: use 3 or 4")),
            },
            cookies: options.cookies,
            headers: options.headers.iter().map(|field| header(field)).collect::<Result<_, _>>()?,
            clients,
            arrival: match (options.rate, options.ramp) {
                (Some(_), Some(_)) => return Err("rate and ramp exclude each other".into()),
                (_, Some(ramp)) => Arrival::Ramp(ramp.0),
                (rate, None) => Arrival::Rate(rate.unwrap_or(Rate(100.0)).0),
            },
            hold,
            messages,
            broadcast_every: every("broadcast-every", options.broadcast_every)?,
            reconnect: !options.no_reconnect,
            timeout: every("timeout", options.timeout)?.unwrap_or(Duration::from_secs(20)),
            sources: 1,
            threads: number("threads", threads, 1, MOST_THREADS)?,
            course,
            cost_of: options.cost_of,
            limits: Limits {
                max_p99: options.max_p99.map(|limit| limit.0),
                max_errors: options.max_errors,
                max_code1: options.max_code1,
                max_disconnects: options.max_disconnects,
                max_misrouted: options.max_misrouted,
            },
            outputs: Outputs { json: options.json, html: options.html, quiet: options.quiet },
        };
        judgeable(&scenario)?;
        capacity::provide(&mut scenario, sources)?;
        Ok(scenario)
    }
}

impl Scenario {
    /// Whether clients send messages that are to be answered.
    pub(crate) fn expects_answers(&self) -> bool {
        self.messages.pace != Pace::Silent && self.messages.answer != Answer::Nothing
    }
}

impl Course {
    /// From the last arrival to the end of all that is to happen.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Steady | Self::Led => Duration::ZERO,
            Self::Herd(herd) => herd.after + herd.every * (herd.times - 1) + herd.within,
            Self::Deploy(deploy) => {
                let each = deploy.drain + deploy.pause;
                deploy.after + each * u32::from(deploy.fleet.nodes)
            }
            Self::Chaos(chaos) => {
                let over = chaos.events.iter().map(|event| {
                    event.at
                        + match event.harm {
                            Harm::Hang(how_long) => how_long,
                            Harm::Kill { back_after } => back_after.unwrap_or_default(),
                            Harm::Reset => Duration::ZERO,
                        }
                });
                over.max().unwrap_or_default()
            }
        }
    }
}

/// Refuses limits that no run of this scenario could break: they would always hold.
fn judgeable(scenario: &Scenario) -> Result<(), String> {
    let Scenario { limits, client, .. } = scenario;
    let kind = client.name();
    if limits.max_p99.is_some() && !scenario.expects_answers() {
        return Err("max-p99 cannot be judged: the clients send nothing that is answered".into());
    }
    if limits.max_code1.is_some() && !client.speaks_socket_io() {
        return Err(format!("max-code1 cannot be judged: {kind} clients do not speak Engine.IO"));
    }
    if limits.max_misrouted.is_some() && !client.speaks_socket_io() {
        return Err(format!("max-misrouted cannot be judged: {kind} clients have no session id"));
    }
    if limits.max_disconnects.is_some() && *client == ClientKind::Connect {
        return Err("max-disconnects cannot be judged: connect clients leave at once".into());
    }
    Ok(())
}

fn usual_hold(course: &Course) -> Duration {
    match course {
        Course::Steady => Duration::from_secs(30),
        Course::Led => Duration::ZERO,
        Course::Herd(_) | Course::Deploy(_) | Course::Chaos(_) => course.length() + AFTERMATH,
    }
}

fn messages(options: &Options, client: ClientKind) -> Result<Messages, String> {
    let pace = match (options.every, options.think, options.silent) {
        (None, None, true) => Pace::Silent,
        (Some(_), None, false) => Pace::Every(every("every", options.every)?.unwrap_or_default()),
        (None, Some(think), false) => Pace::Think(think.0),
        (None, None, false) => match client {
            ClientKind::Http => Pace::Every(Duration::from_secs(1)),
            ClientKind::Bulk | ClientKind::Connect => Pace::Silent,
            _ => Pace::Every(Duration::from_secs(10)),
        },
        _ => return Err("every, think and silent exclude each other".into()),
    };
    if options.messages == Some(0) {
        return Err("messages is 0: say silent for clients that send nothing".into());
    }
    if options.repeat && options.messages.is_none() && client != ClientKind::Connect {
        return Err("repeat needs messages: when else would a client leave?".into());
    }
    if pace == Pace::Silent && options.messages.is_some() {
        return Err("messages are wanted of clients that are silent".into());
    }
    let size = options.size.map_or(64, |size| size.0);
    Ok(Messages {
        pace,
        count: options.messages,
        repeat: options.repeat,
        size: number("size", size, 0, LARGEST)?,
        payload: options.payload.unwrap_or(Payload::Text),
        event: options.event.clone().unwrap_or_else(|| "echo".to_owned()),
        answer: options.answer.unwrap_or(Answer::Ack),
    })
}

fn course(options: &Options) -> Result<Course, String> {
    match (&options.herd, &options.deploy, &options.chaos) {
        (None, None, None) if options.led => Ok(Course::Led),
        (None, None, None) => Ok(Course::Steady),
        _ if options.led => Err("a run that is led has no course of its own in its file".into()),
        (Some(typed), None, None) => herd(typed).map(Course::Herd),
        (None, Some(typed), None) => deploy(typed).map(Course::Deploy),
        (None, None, Some(typed)) => chaos(typed).map(Course::Chaos),
        _ => Err("herd, deploy and chaos are runs of their own: name one of them".into()),
    }
}

fn herd(typed: &HerdOptions) -> Result<Herd, String> {
    Ok(Herd {
        after: or_seconds(typed.after, 5),
        times: number("times", typed.times.unwrap_or(1), 1, 1000)?,
        every: every("drop-every", typed.drop_every)?.unwrap_or(Duration::from_secs(30)),
        within: or_seconds(typed.within, 0),
    })
}

fn deploy(typed: &DeployOptions) -> Result<Deploy, String> {
    Ok(Deploy {
        fleet: fleet(typed.nodes, typed.backends_file.as_ref())?,
        after: or_seconds(typed.after, 5),
        drain: or_seconds(typed.drain, 10),
        pause: or_seconds(typed.pause, 5),
        socket: typed.socket.clone(),
    })
}

fn chaos(typed: &ChaosOptions) -> Result<Chaos, String> {
    let fleet = fleet(typed.nodes, typed.backends_file.as_ref())?;
    let events = typed.events.iter().map(|typed| typed.parse());
    let mut events = events.collect::<Result<Vec<ChaosEvent>, String>>()?;
    if events.is_empty() {
        return Err("no events; give some, for example --do '5s kill 1'".into());
    }
    if let Some(event) = events.iter().find(|event| event.node >= fleet.nodes) {
        return Err(format!(
            "node {} is to be hurt, and there are {}, counted from 0",
            event.node, fleet.nodes
        ));
    }
    events.sort_by_key(|event| event.at);
    Ok(Chaos { fleet, events })
}

fn fleet(nodes: Option<u16>, backends_file: Option<&PathBuf>) -> Result<Fleet, String> {
    let backends_file = backends_file
        .cloned()
        .ok_or("no backends-file: name the file that the proxy in front reads its backends from")?;
    Ok(Fleet { nodes: number("nodes", nodes.unwrap_or(3), 1, MOST_NODES)?, backends_file })
}

fn header(typed: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("{typed:?} is no header field, such as 'Authorization: Bearer x'");
    let (name, value) = typed.split_once(':').ok_or_else(wrong)?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value.trim().parse().map_err(|_| wrong())?))
}

/// A duration that may not be zero.
fn every(key: &str, typed: Option<Span>) -> Result<Option<Duration>, String> {
    match typed {
        Some(Span(Duration::ZERO)) => Err(format!("{key} is 0, and must be longer")),
        typed => Ok(typed.map(|span| span.0)),
    }
}

fn or_seconds(typed: Option<Span>, seconds: u64) -> Duration {
    typed.map_or(Duration::from_secs(seconds), |span| span.0)
}

fn number<N: PartialOrd + std::fmt::Display>(
    key: &str,
    typed: N,
    least: N,
    most: N,
) -> Result<N, String> {
    if typed < least || typed > most {
        return Err(format!(
            "invalid value {typed} for {key}: use a number from {least} to {most}"
        ));
    }
    Ok(typed)
}

/// One thread for what one core does with ease: clients that share a thread share its wake-ups, and cost
/// less for it. All cores for those that go as fast as they can.
fn usual_threads(clients: u32, client: ClientKind, pace: Pace) -> usize {
    const CLIENTS: f64 = 8_000.0;
    const MESSAGES_A_SECOND: f64 = 10_000.0;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let clients = f64::from(clients);
    match (client, pace) {
        (ClientKind::Bulk | ClientKind::Connect, _) | (_, Pace::Think(_)) => cores,
        (_, Pace::Silent) => cores.min((clients / CLIENTS).ceil() as usize),
        (_, Pace::Every(interval)) => {
            let cores_kept_busy =
                clients / CLIENTS + clients / interval.as_secs_f64() / MESSAGES_A_SECOND;
            cores.min(cores_kept_busy.ceil() as usize)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file with these keys, and a target, comes to.
    fn check(keys: &str) -> Result<Scenario, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("url = 'http://127.0.0.1:1'\n{keys}")).unwrap();
        Scenario::check(super::super::file::read(file.path()).unwrap())
    }

    #[test]
    fn the_defaults_are_a_hundred_real_clients() {
        let scenario = check("").unwrap();
        assert_eq!(scenario.client, ClientKind::PollingUpgrade);
        assert_eq!(scenario.protocol, Protocol::V4);
        assert_eq!((scenario.clients, scenario.arrival), (100, Arrival::Rate(100.0)));
        assert_eq!(scenario.messages.pace, Pace::Every(Duration::from_secs(10)));
        assert_eq!(scenario.messages.answer, Answer::Ack);
        assert_eq!(scenario.hold, Duration::from_secs(30));
        assert!(scenario.reconnect && scenario.tls.resume && !scenario.cookies);
        assert_eq!(scenario.course, Course::Steady);
    }

    #[test]
    fn a_course_takes_as_long_as_it_must() {
        let deploy = check("[deploy]\nbackends-file = 'list'\nnodes = 2\ndrain = '3s'").unwrap();
        assert_eq!(deploy.hold, Duration::from_secs(5 + 2 * (3 + 5) + 10));
        let fault = check("hold = '5s'\n[herd]\ntimes = 2").unwrap_err();
        assert_eq!(fault, "hold is 5s, and what is to happen takes 35s");
    }

    #[test]
    fn the_timetable_is_sorted_and_within_the_fleet() {
        let typed = "[chaos]\nbackends-file = 'list'\ndo = ['9s reset 2', '1s kill 0 back 2s']";
        let Course::Chaos(chaos) = check(typed).unwrap().course else { panic!("chaos") };
        assert_eq!(chaos.events[0].harm, Harm::Kill { back_after: Some(Duration::from_secs(2)) });
        let fault = check("[chaos]\nbackends-file = 'list'\ndo = ['1s reset 3']").unwrap_err();
        assert_eq!(fault, "node 3 is to be hurt, and there are 3, counted from 0");
    }

    #[test]
    fn a_run_that_is_led_ends_with_its_input() {
        let url = Some("http://127.0.0.1:1".to_owned());
        let led = Options { url, led: true, ..Options::default() };
        let scenario = Scenario::check(led.clone()).unwrap();
        assert_eq!((scenario.course, scenario.hold), (Course::Led, Duration::ZERO));
        let held = Options { hold: "1s".parse().ok(), ..led.clone() };
        let fault = Scenario::check(held).map(|_| ()).unwrap_err();
        assert_eq!(fault, "hold is given, and a run that is led ends with its input");
        let herded = Options { herd: Some(HerdOptions::default()), ..led };
        let fault = Scenario::check(herded).map(|_| ()).unwrap_err();
        assert_eq!(fault, "a run that is led has no course of its own in its file");
    }

    #[test]
    fn each_fault_is_a_sentence() {
        for (keys, fault) in [
            ("clients = 0", "invalid value 0 for clients: use a number from 1 to 1000000"),
            ("eio = 5", "invalid value 5 for eio: use 3 or 4"),
            ("rate = 1\nramp = '1s'", "rate and ramp exclude each other"),
            ("every = '1s'\nthink = '1s'", "every, think and silent exclude each other"),
            ("every = '0s'", "every is 0, and must be longer"),
            ("messages = 0", "messages is 0: say silent for clients that send nothing"),
            ("repeat = true", "repeat needs messages: when else would a client leave?"),
            ("messages = 1\nsilent = true", "messages are wanted of clients that are silent"),
            ("header = ['x']", "\"x\" is no header field, such as 'Authorization: Bearer x'"),
            (
                "[deploy]",
                "no backends-file: name the file that the proxy in front reads its backends from",
            ),
            (
                "[chaos]\nbackends-file = 'list'",
                "no events; give some, for example --do '5s kill 1'",
            ),
            (
                "max-p99 = '1s'\nsilent = true",
                "max-p99 cannot be judged: the clients send nothing that is answered",
            ),
            (
                "max-p99 = '1s'\nanswer = 'none'",
                "max-p99 cannot be judged: the clients send nothing that is answered",
            ),
            (
                "max-p99 = '1s'\nclient = 'bulk'",
                "max-p99 cannot be judged: the clients send nothing that is answered",
            ),
            (
                "max-code1 = 0\nclient = 'ws'",
                "max-code1 cannot be judged: ws clients do not speak Engine.IO",
            ),
            (
                "max-misrouted = 0\nclient = 'http'",
                "max-misrouted cannot be judged: http clients have no session id",
            ),
            (
                "max-disconnects = 0\nclient = 'connect'",
                "max-disconnects cannot be judged: connect clients leave at once",
            ),
            ("[herd]\n[chaos]", "herd, deploy and chaos are runs of their own: name one of them"),
        ] {
            assert_eq!(check(keys).map(|_| ()), Err(fault.to_owned()), "{keys}");
        }
        let fault = Scenario::check(Options::default()).map(|_| ()).unwrap_err();
        assert!(fault.starts_with("no target"), "{fault}");
    }
}
