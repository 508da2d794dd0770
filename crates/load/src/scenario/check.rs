//! Validates options and turns them into a [`Scenario`].

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use http::{HeaderName, HeaderValue};

use super::{
    Answer, Arrival, Chaos, ChaosEvent, ClientKind, Deploy, Fleet, Herd, Limits, Messages, Mode,
    NodeFault, Outputs, Pace, Payload, Protocol, Scenario, Target, Tls, capacity,
    options::{ChaosOptions, DeployOptions, HerdOptions, Options},
    values::{DurationArg, RateArg},
};

/// Maximum clients per process: far more than its descriptors allow.
const MAX_CLIENTS: u32 = 1_000_000;
/// Maximum size of a payload.
const MAX_PAYLOAD: usize = 64 << 20;
/// Maximum threads.
const MAX_THREADS: usize = 256;
/// Maximum nodes that a run starts.
const MAX_NODES: u16 = 100;
/// Default time from the end of all events to the end of the run.
const HOLD_AFTER_EVENTS: Duration = Duration::from_secs(10);

impl Scenario {
    /// Validates the options, and resolves the host of the target.
    ///
    /// # Errors
    ///
    /// The first invalid option, or the target.
    pub(crate) fn check(options: Options) -> anyhow::Result<Self> {
        let client = options.client.unwrap_or(ClientKind::PollingUpgrade);
        let url = options.url.as_deref();
        let url = url.context("no target: give a URL, for example http://127.0.0.1:8080")?;
        let clients = in_range("clients", options.clients.unwrap_or(100), 1, MAX_CLIENTS)?;
        let messages = messages(&options, client)?;
        let mode = mode_of(&options)?;
        let events_take = mode.length();
        ensure!(
            mode != Mode::Controlled || options.hold.is_none(),
            "hold has no effect: a controlled run ends with its standard input; remove hold"
        );
        let hold = options.hold.map_or(default_hold(&mode), |hold| hold.0);
        ensure!(
            hold >= events_take,
            "invalid hold {}: the events take {}; use at least this",
            humantime::format_duration(hold),
            humantime::format_duration(events_take)
        );
        let threads =
            options.threads.unwrap_or_else(|| default_threads(clients, client, messages.pace));
        let sources = options.sources.map(|n| in_range("sources", n, 1, 1 << 20)).transpose()?;
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
                Some(other) => bail!("invalid value {other} for eio: use 3 or 4"),
            },
            cookies: options.cookies,
            headers: options.headers.iter().map(|field| header(field)).collect::<Result<_, _>>()?,
            clients,
            arrival: match (options.rate, options.ramp) {
                (Some(_), Some(_)) => bail!("rate and ramp exclude each other: give one of them"),
                (_, Some(ramp)) => Arrival::Ramp(ramp.0),
                (rate, None) => Arrival::Rate(rate.unwrap_or(RateArg(100.0)).0),
            },
            hold,
            messages,
            broadcast_every: nonzero("broadcast-every", options.broadcast_every)?,
            reconnect: !options.no_reconnect,
            timeout: nonzero("timeout", options.timeout)?.unwrap_or(Duration::from_secs(20)),
            single_connection: single_connection(&options, client)?,
            read_rate: read_rate(&options, client)?,
            sources: 1,
            threads: in_range("threads", threads, 1, MAX_THREADS)?,
            mode,
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
        check_limits(&scenario)?;
        capacity::provide(&mut scenario, sources)?;
        Ok(scenario)
    }
}

impl Scenario {
    /// Whether clients send messages to which they expect an answer.
    pub(crate) fn expects_answers(&self) -> bool {
        self.messages.pace != Pace::Silent && self.messages.answer != Answer::Nothing
    }
}

impl Mode {
    /// Time from the last arrival to the end of all events.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Steady | Self::Controlled => Duration::ZERO,
            Self::Herd(herd) => herd.after + herd.every * (herd.times - 1) + herd.within,
            Self::Deploy(deploy) => {
                let each = deploy.drain + deploy.pause;
                deploy.after + each * u32::from(deploy.fleet.nodes)
            }
            Self::Chaos(chaos) => {
                let over = chaos.events.iter().map(|event| {
                    event.at
                        + match event.fault {
                            NodeFault::Hang(how_long) => how_long,
                            NodeFault::Kill { back_after } => back_after.unwrap_or_default(),
                            NodeFault::Reset => Duration::ZERO,
                        }
                });
                over.max().unwrap_or_default()
            }
        }
    }
}

/// Rejects limits that no run of this scenario could exceed: they would always hold.
fn check_limits(scenario: &Scenario) -> anyhow::Result<()> {
    let Scenario { limits, client, .. } = scenario;
    let kind = client.name();
    ensure!(
        limits.max_p99.is_none() || scenario.expects_answers(),
        "max-p99 cannot be checked: the clients send no message that is answered"
    );
    ensure!(
        limits.max_code1.is_none() || client.speaks_socket_io(),
        "max-code1 cannot be checked: {kind} clients do not use Engine.IO"
    );
    ensure!(
        limits.max_misrouted.is_none() || client.speaks_socket_io(),
        "max-misrouted cannot be checked: {kind} clients have no session id"
    );
    ensure!(
        limits.max_disconnects.is_none() || *client != ClientKind::Connect,
        "max-disconnects cannot be checked: connect clients disconnect at once"
    );
    Ok(())
}

fn default_hold(mode: &Mode) -> Duration {
    match mode {
        Mode::Steady => Duration::from_secs(30),
        Mode::Controlled => Duration::ZERO,
        Mode::Herd(_) | Mode::Deploy(_) | Mode::Chaos(_) => mode.length() + HOLD_AFTER_EVENTS,
    }
}

fn messages(options: &Options, client: ClientKind) -> anyhow::Result<Messages> {
    let pace = match (options.every, options.think, options.silent) {
        (None, None, true) => Pace::Silent,
        (Some(_), None, false) => Pace::Every(nonzero("every", options.every)?.unwrap_or_default()),
        (None, Some(think), false) => Pace::Think(think.0),
        (None, None, false) => match client {
            ClientKind::Http => Pace::Every(Duration::from_secs(1)),
            ClientKind::Bulk | ClientKind::Connect => Pace::Silent,
            _ => Pace::Every(Duration::from_secs(10)),
        },
        _ => bail!("every, think and silent exclude each other: give one of them"),
    };
    ensure!(
        options.messages != Some(0),
        "invalid value 0 for messages: use silent for clients that send nothing"
    );
    ensure!(
        !options.repeat || options.messages.is_some() || client == ClientKind::Connect,
        "repeat needs messages, the number of messages after which a client is replaced"
    );
    ensure!(
        !options.stay || (options.messages.is_some() && !options.repeat),
        "stay needs messages, after the last of which the client stays, and excludes repeat"
    );
    ensure!(
        !options.stay || !matches!(client, ClientKind::Bulk | ClientKind::Connect),
        "stay has no effect: {} clients send no messages",
        client.name()
    );
    ensure!(
        pace != Pace::Silent || options.messages.is_none(),
        "messages needs clients that send: give every or think"
    );
    let size = options.size.map_or(64, |size| size.0);
    Ok(Messages {
        pace,
        count: options.messages,
        repeat: options.repeat,
        stay: options.stay,
        size: in_range("size", size, 0, MAX_PAYLOAD)?,
        payload: options.payload.unwrap_or(Payload::Text),
        event: options.event.clone().unwrap_or_else(|| "echo".to_owned()),
        answer: options.answer.unwrap_or(Answer::Ack),
    })
}

fn single_connection(options: &Options, client: ClientKind) -> anyhow::Result<bool> {
    ensure!(
        !options.single_connection || (client == ClientKind::Polling && options.silent),
        "single-connection needs silent polling clients: give client polling and silent"
    );
    Ok(options.single_connection)
}

fn read_rate(options: &Options, client: ClientKind) -> anyhow::Result<Option<usize>> {
    let Some(rate) = options.read_rate else { return Ok(None) };
    ensure!(client == ClientKind::Http, "read-rate needs HTTP clients: give client http");
    in_range("read-rate", rate.0, 1, MAX_PAYLOAD).map(Some)
}

fn mode_of(options: &Options) -> anyhow::Result<Mode> {
    match (&options.herd, &options.deploy, &options.chaos) {
        (None, None, None) if options.controlled => Ok(Mode::Controlled),
        (None, None, None) => Ok(Mode::Steady),
        _ if options.controlled => {
            bail!("the scenario file of a controlled run cannot have a table herd, deploy or chaos")
        }
        (Some(given), None, None) => herd(given).map(Mode::Herd),
        (None, Some(given), None) => deploy(given).map(Mode::Deploy),
        (None, None, Some(given)) => chaos(given).map(Mode::Chaos),
        _ => bail!("herd, deploy and chaos exclude each other: use one of them"),
    }
}

fn herd(given: &HerdOptions) -> anyhow::Result<Herd> {
    Ok(Herd {
        after: or_default_seconds(given.after, 5),
        times: in_range("times", given.times.unwrap_or(1), 1, 1000)?,
        every: nonzero("drop-every", given.drop_every)?.unwrap_or(Duration::from_secs(30)),
        within: or_default_seconds(given.within, 0),
    })
}

fn deploy(given: &DeployOptions) -> anyhow::Result<Deploy> {
    Ok(Deploy {
        fleet: fleet(given.nodes, given.backends_file.as_ref())?,
        after: or_default_seconds(given.after, 5),
        drain: or_default_seconds(given.drain, 10),
        pause: or_default_seconds(given.pause, 5),
        socket: given.socket.clone(),
    })
}

fn chaos(given: &ChaosOptions) -> anyhow::Result<Chaos> {
    let fleet = fleet(given.nodes, given.backends_file.as_ref())?;
    let events = given.events.iter().map(|given| given.parse());
    let mut events = events.collect::<Result<Vec<ChaosEvent>, _>>()?;
    ensure!(!events.is_empty(), "no events: give some, for example --do '5s kill 1'");
    if let Some(event) = events.iter().find(|event| event.node >= fleet.nodes) {
        bail!("invalid node {}: there are {} nodes, numbered from 0", event.node, fleet.nodes);
    }
    events.sort_by_key(|event| event.at);
    Ok(Chaos { fleet, events })
}

fn fleet(nodes: Option<u16>, backends_file: Option<&PathBuf>) -> anyhow::Result<Fleet> {
    let backends_file = backends_file.cloned().context(
        "no backends-file: give the file from which the proxy in front reads its backends",
    )?;
    Ok(Fleet { nodes: in_range("nodes", nodes.unwrap_or(3), 1, MAX_NODES)?, backends_file })
}

fn header(given: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let wrong = || anyhow!("invalid header {given:?}: write it as 'Name: value'");
    let (name, value) = given.split_once(':').ok_or_else(wrong)?;
    Ok((name.trim().parse().map_err(|_| wrong())?, value.trim().parse().map_err(|_| wrong())?))
}

/// Returns a duration that must not be zero.
fn nonzero(key: &str, given: Option<DurationArg>) -> anyhow::Result<Option<Duration>> {
    match given {
        Some(DurationArg(Duration::ZERO)) => {
            bail!("invalid duration 0 for {key}: use a longer one")
        }
        given => Ok(given.map(|span| span.0)),
    }
}

fn or_default_seconds(given: Option<DurationArg>, seconds: u64) -> Duration {
    given.map_or(Duration::from_secs(seconds), |span| span.0)
}

fn in_range<N: PartialOrd + std::fmt::Display>(
    key: &str,
    given: N,
    least: N,
    most: N,
) -> anyhow::Result<N> {
    ensure!(
        least <= given && given <= most,
        "invalid value {given} for {key}: use a number from {least} to {most}"
    );
    Ok(given)
}

/// One thread for the load that one core carries easily: clients on one thread share wake-ups, which saves
/// CPU time. All cores for clients that send as fast as they can.
fn default_threads(clients: u32, client: ClientKind, pace: Pace) -> usize {
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
mod tests;
