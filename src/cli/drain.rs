//! `moorline drain`: backends take no new session and are emptied of those they have.

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
    backends::{named, table},
    client::{Access, ApiAnswer},
    deadline, process,
    show::{self, counted},
    target::Whom,
};
use crate::api::{BackendCondition, BackendState, Backends, DrainRequest, DrainState, Pools};

/// Between two looks at a drain that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Between two lines of progress where nobody sees them change.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Arguments of `drain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A drained backend keeps its sessions and gets no new ones. Without a deadline no connection is closed: \
the drain ends when the last session has ended. With a deadline, connections are closed evenly over the \
time before it, each between two messages, so that clients reconnect one by one; the rest is cut at the \
deadline. `moorline undrain` ends a drain at any time.

Examples:
  moorline drain chat/blue-2
  moorline drain chat/blue-2 --within 5m --wait && systemctl restart blue-2
  moorline drain chat --by 14:05 --spread 2m
  moorline drain --all --within 10m")]
pub struct Args {
    /// Whom to drain.
    #[command(flatten)]
    pub whom: Whom,
    /// Drain deadline, as a length of time: 90s, 5m, "1h 30m"
    #[arg(long, value_name = "TIME", value_parser = deadline::length)]
    pub within: Option<Duration>,
    /// Drain deadline, as a time of the local clock; tomorrow's if today's has passed
    #[arg(long, value_name = "HH:MM", value_parser = deadline::time, conflicts_with = "within")]
    pub by: Option<Time>,
    /// Time before the deadline over which connections are closed evenly [default: half]
    #[arg(long, value_name = "TIME", value_parser = deadline::length)]
    pub spread: Option<Duration>,
    /// Return when the backends are empty
    #[arg(long)]
    pub wait: bool,
    /// Where the process is.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Orders, waits where that is wanted, and prints.
    ///
    /// # Errors
    /// A sentence: why there is no answer, why it was refused, or why waiting was no use.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let within = match self.by {
            Some(time) => Some(deadline::until(time)?),
            None => self.within,
        };
        let target = self.whom.target();
        let order = DrainRequest {
            all: target.pool.is_none(),
            pool: target.pool,
            backend: target.backend,
            within: within.map(|within| within.as_secs_f64()),
            spread: self.spread.map(|spread| spread.as_secs_f64()),
        };
        let answer = self.access.ask(Method::POST, "/v1/drain", Some(&order)).await?;
        if self.wait {
            wait(&self.access, &answer).await?;
        } else {
            answer.print(&self.access, words);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn words(drained: &Backends) -> String {
    match drained.backends.len() {
        0 => "there is no backend to drain".to_owned(),
        _ => table(&drained.backends.iter().collect::<Vec<_>>()),
    }
}

/// Looks until all of them are empty, and tells how far they are.
async fn wait(access: &Access, drained: &ApiAnswer<Backends>) -> anyhow::Result<()> {
    let mut progress = Progress::new(access.json);
    let mut latest = drained.value.backends.clone();
    while let Some(left) = left(&latest)? {
        progress.tell(&left);
        sleep(LOOK_AGAIN).await;
        let pools = access.get::<Pools>("/v1/pools").await?.value.pools;
        let now: Vec<BackendState> = pools.into_iter().flat_map(|pool| pool.backends).collect();
        for known in &mut latest {
            let same = |now: &&BackendState| now.pool == known.pool && now.name == known.name;
            match now.iter().find(same) {
                Some(now) => known.clone_from(now),
                None => gone(known),
            }
        }
    }
    progress.end();
    if access.json {
        let text = serde_json::to_string(&Backends { backends: latest })?;
        show::document(&drained.process.signed(&text));
    } else {
        let names: Vec<String> = latest.iter().map(named).collect();
        process::print(&format!("empty: {}", names.join(", ")), &drained.process);
    }
    Ok(())
}

/// One that has left altogether is as empty as can be.
fn gone(backend: &mut BackendState) {
    backend.state = BackendCondition::Drained;
    (backend.sessions, backend.tunnels, backend.requests) = (0, 0, 0);
    backend.drain = None;
}

/// What is left of all of them together; `None`: nothing.
///
/// # Errors
/// One of them is not being drained any more.
fn left(backends: &[BackendState]) -> anyhow::Result<Option<DrainState>> {
    let mut sum: Option<DrainState> = None;
    for backend in backends {
        match (backend.state, backend.drain) {
            (BackendCondition::Drained, _) => {}
            (BackendCondition::Draining | BackendCondition::Leaving, Some(drain)) => {
                sum = Some(sum.map_or(drain, |sum| together(sum, drain)));
            }
            _ => bail!(
                "{} is no longer drained: another command or a reload ended the drain",
                named(backend)
            ),
        }
    }
    Ok(sum)
}

fn together(a: DrainState, b: DrainState) -> DrainState {
    DrainState {
        since: a.since.min(b.since),
        seconds_left: a.seconds_left.zip(b.seconds_left).map(|(a, b)| a.max(b)),
        seconds_to_closes: a.seconds_to_closes.zip(b.seconds_to_closes).map(|(a, b)| a.min(b)),
        sockets_left: a.sockets_left + b.sockets_left,
        sessions_left: a.sessions_left + b.sessions_left,
    }
}

/// Tells how far it is on standard error: one line that changes on a terminal, else now and then a
/// new one.
struct Progress {
    live: bool,
    silent: bool,
    told: Option<(Instant, u64, u64)>,
}

impl Progress {
    fn new(silent: bool) -> Self {
        Self { live: io::stderr().is_terminal(), silent, told: None }
    }

    fn tell(&mut self, left: &DrainState) {
        if self.silent {
            return;
        }
        let counts = (left.sockets_left, left.sessions_left);
        let mut err = io::stderr().lock();
        if self.live {
            let _ = write!(err, "\r\x1b[K{}", show::drain(left));
            let _ = err.flush();
        } else {
            let due = self.told.is_none_or(|(at, sockets, sessions)| {
                (sockets, sessions) != counts && at.elapsed() >= TELL_AGAIN
            });
            if !due {
                return;
            }
            let _ = writeln!(err, "{}", show::drain(left));
        }
        self.told = Some((Instant::now(), counts.0, counts.1));
    }

    fn end(&self) {
        if self.live && self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// What `undrain` prints.
pub(super) fn ended(backends: &Backends) -> String {
    let count = counted(backends.backends.len() as u64, "backend");
    match backends.backends.len() {
        0 => "no backend was draining by order".to_owned(),
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
            ramp: 1.0,
            sessions: left.unwrap_or(0),
            tunnels: left.unwrap_or(0),
            requests: 0,
            since: 0.0,
            reason: None,
            last_failure: None,
            goes_on_as: None,
            drain,
        }
    }

    #[test]
    fn what_is_left_is_added_up() {
        use BackendCondition::{Drained, Draining, Leaving};
        let two = [
            backend("a", Draining, Some(3)),
            backend("b", Leaving, Some(4)),
            backend("c", Drained, Some(0)),
        ];
        let sum = left(&two).unwrap().unwrap();
        assert_eq!((sum.sockets_left, sum.seconds_left), (7, Some(4.0)));
        assert_eq!(left(&two[2..]).unwrap(), None);
    }

    #[test]
    fn one_that_somebody_undrained_is_told() {
        let back = [backend("a", BackendCondition::Up, None)];
        assert!(left(&back).unwrap_err().to_string().contains("chat/a"));
    }
}
