//! `moorline drain`: drains backends.

use std::{
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use http::Method;
use jiff::civil::Time;
use tokio::time::{Instant, sleep};

use super::{
    backends::{full_name, table},
    client::{Access, ApiAnswer},
    deadline, process,
    show::{self, counted},
    target::TargetArgs,
};
use crate::api::{BackendCondition, BackendState, Backends, DrainRequest, DrainState, Pools};

/// Interval at which `--wait` checks the progress of a drain.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum time between two lines of progress if standard error is not a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Arguments of `drain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A drained backend keeps its sessions and gets no new ones. Without a deadline no connection is closed: \
the drain ends when the last session has ended. With a deadline, connections are closed evenly over the \
time before it, each between two messages, so that clients reconnect one by one; connections that remain \
are cut at the deadline. `moorline undrain` ends a drain at any time.

Examples:
  moorline drain chat/blue-2
  moorline drain chat/blue-2 --within 5m --wait && systemctl restart blue-2
  moorline drain chat --by 14:05 --spread 2m
  moorline drain --all --within 10m")]
pub struct Args {
    /// Backends to drain.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Drain deadline, as a length of time: 90s, 5m, "1h 30m"
    #[arg(long, value_name = "TIME", value_parser = deadline::length)]
    pub within: Option<Duration>,
    /// Drain deadline, as a local time; tomorrow if the time has passed today
    #[arg(long, value_name = "HH:MM", value_parser = deadline::time, conflicts_with = "within")]
    pub by: Option<Time>,
    /// Time before the deadline over which connections are closed evenly [default: half of the time]
    #[arg(long, value_name = "TIME", value_parser = deadline::length)]
    pub spread: Option<Duration>,
    /// Return when the backends are empty
    #[arg(long)]
    pub wait: bool,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the command, waits with `--wait`, and prints the result.
    ///
    /// # Errors
    /// The process cannot be reached or rejects the command, or the drain was ended during the wait.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let within = match self.by {
            Some(time) => Some(deadline::until(time)?),
            None => self.within,
        };
        let target = self.target.into_target();
        let request = DrainRequest {
            all: target.pool.is_none(),
            pool: target.pool,
            backend: target.backend,
            within: within.map(|within| within.as_secs_f64()),
            spread: self.spread.map(|spread| spread.as_secs_f64()),
        };
        let reply = self.access.request(Method::POST, "/v1/drain", Some(&request)).await?;
        if self.wait {
            wait(&self.access, &reply).await?;
        } else {
            reply.print(&self.access, text);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(drained: &Backends) -> String {
    match drained.backends.len() {
        0 => "there are no backends to drain".to_owned(),
        _ => table(&drained.backends.iter().collect::<Vec<_>>()),
    }
}

/// Waits until all backends are empty, and reports the progress.
async fn wait(access: &Access, drained: &ApiAnswer<Backends>) -> anyhow::Result<()> {
    let mut progress = Progress::new(access.json);
    let mut latest = drained.value.backends.clone();
    while let Some(remaining) = remaining(&latest)? {
        progress.report(&remaining);
        sleep(POLL_INTERVAL).await;
        let pools = access.get::<Pools>("/v1/pools").await?.value.pools;
        let now: Vec<BackendState> = pools.into_iter().flat_map(|pool| pool.backends).collect();
        for known in &mut latest {
            let same = |now: &&BackendState| now.pool == known.pool && now.name == known.name;
            match now.iter().find(same) {
                Some(now) => known.clone_from(now),
                None => mark_drained(known),
            }
        }
    }
    progress.end();
    if access.json {
        let text = serde_json::to_string(&Backends { backends: latest })?;
        show::print_json(&drained.process.with_process(&text));
    } else {
        let names: Vec<String> = latest.iter().map(full_name).collect();
        process::print(&format!("empty: {}", names.join(", ")), &drained.process);
    }
    Ok(())
}

/// Marks a backend that is no longer listed as drained.
fn mark_drained(backend: &mut BackendState) {
    backend.state = BackendCondition::Drained;
    (backend.sessions, backend.tunnels, backend.requests) = (0, 0, 0);
    backend.drain = None;
}

/// Returns what all backends together still hold; `None`: all are empty.
///
/// # Errors
/// A backend is no longer drained.
fn remaining(backends: &[BackendState]) -> anyhow::Result<Option<DrainState>> {
    let mut sum: Option<DrainState> = None;
    for backend in backends {
        match (backend.state, backend.drain) {
            (BackendCondition::Drained, _) => {}
            (BackendCondition::Draining | BackendCondition::Leaving, Some(drain)) => {
                sum = Some(sum.map_or(drain, |sum| combined(sum, drain)));
            }
            _ => bail!(
                "{} is no longer drained: another command or a reload ended the drain",
                full_name(backend)
            ),
        }
    }
    Ok(sum)
}

fn combined(a: DrainState, b: DrainState) -> DrainState {
    DrainState {
        since: a.since.min(b.since),
        seconds_left: a.seconds_left.zip(b.seconds_left).map(|(a, b)| a.max(b)),
        seconds_to_closes: a.seconds_to_closes.zip(b.seconds_to_closes).map(|(a, b)| a.min(b)),
        sockets_left: a.sockets_left + b.sockets_left,
        sessions_left: a.sessions_left + b.sessions_left,
    }
}

/// Reports the progress on standard error: one line that is updated on a terminal, else a new line at
/// most once per [`PROGRESS_INTERVAL`].
struct Progress {
    terminal: bool,
    silent: bool,
    /// Time, tunnels and sessions of the last report.
    reported: Option<(Instant, u64, u64)>,
}

impl Progress {
    fn new(silent: bool) -> Self {
        Self { terminal: io::stderr().is_terminal(), silent, reported: None }
    }

    fn report(&mut self, left: &DrainState) {
        if self.silent {
            return;
        }
        let counts = (left.sockets_left, left.sessions_left);
        let mut err = io::stderr().lock();
        if self.terminal {
            let _ = write!(err, "\r\x1b[K{}", show::drain(left));
            let _ = err.flush();
        } else {
            let due = self.reported.is_none_or(|(at, sockets, sessions)| {
                (sockets, sessions) != counts && at.elapsed() >= PROGRESS_INTERVAL
            });
            if !due {
                return;
            }
            let _ = writeln!(err, "{}", show::drain(left));
        }
        self.reported = Some((Instant::now(), counts.0, counts.1));
    }

    fn end(&self) {
        if self.terminal && self.reported.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Formats the result of `undrain`.
pub(super) fn undrained_text(backends: &Backends) -> String {
    let count = counted(backends.backends.len() as u64, "backend");
    match backends.backends.len() {
        0 => "no backend was drained by a command".to_owned(),
        _ => format!(
            "{count} no longer drained\n\n{}",
            table(&backends.backends.iter().collect::<Vec<_>>())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BackendOrigin;

    fn backend(name: &str, state: BackendCondition, left: Option<u64>) -> BackendState {
        let drain = left.map(|left| DrainState {
            since: 0.0,
            seconds_left: Some(left as f64),
            seconds_to_closes: None,
            sockets_left: left,
            sessions_left: left,
        });
        BackendState {
            pool: "chat".to_owned(),
            name: name.to_owned(),
            address: name.to_owned(),
            origin: BackendOrigin::Configured,
            state,
            weight: 1,
            backup: false,
            ramp: 1.0,
            sessions: left.unwrap_or(0),
            tunnels: left.unwrap_or(0),
            requests: 0,
            since: 0.0,
            reason: None,
            last_failure: None,
            continues_as: None,
            drain,
        }
    }

    #[test]
    fn remaining_sessions_of_all_backends_are_summed() {
        use BackendCondition::{Drained, Draining, Leaving};
        let two = [
            backend("a", Draining, Some(3)),
            backend("b", Leaving, Some(4)),
            backend("c", Drained, Some(0)),
        ];
        let sum = remaining(&two).unwrap().unwrap();
        assert_eq!((sum.sockets_left, sum.seconds_left), (7, Some(4.0)));
        assert_eq!(remaining(&two[2..]).unwrap(), None);
    }

    #[test]
    fn a_wait_ends_with_an_error_if_the_drain_is_ended() {
        let undrained = [backend("a", BackendCondition::Up, None)];
        assert!(remaining(&undrained).unwrap_err().to_string().contains("chat/a"));
    }
}
