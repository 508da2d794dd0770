//! What brings a pool's backends while the process runs: names in the DNS, lists over HTTP.
//!
//! One task a pool asks its source again and again, and tells the control task what has changed.
//! Nothing that a source says is believed blindly: what cannot be a backend is left out, lists are
//! bounded, and an answer that fails or is empty leaves the last good one in force. Troubles are told
//! when they begin, not each time. Must not know what is done with an answer.

mod dns;
mod http;
mod list;
mod validation;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use self::validation::accepted;
use super::ControlRequest;
use crate::config::{Admin, BackendConfig, BackendSource, Dns, PoolConfig};

/// How long the start waits for first answers. What has not come by then follows.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest pause after a failure: a source that is back is found soon.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What a source says, taken as it is.
struct SourceAnswer {
    backends: Vec<BackendConfig>,
    /// What is amiss with it nevertheless.
    troubles: Vec<String>,
    /// When to ask again.
    holds: Duration,
}

/// A pool's backends as its source has them, or why there is no answer.
type SourceOutcome = Result<Vec<BackendConfig>, String>;

/// The tasks that ask.
pub(super) struct Discovery {
    /// Where operators are served: no backend is there.
    admin: Admin,
    /// Where what has changed is told; `None`: the control task does not run yet.
    requests: Option<mpsc::WeakSender<ControlRequest>>,
    tasks: HashMap<String, (BackendSource, JoinHandle<()>)>,
}

impl Discovery {
    /// Asks nobody yet.
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin, requests: None, tasks: HashMap::new() }
    }

    /// The first answers of the pools' sources, as far as they come within some seconds. `known` has
    /// what a pool's source had found before.
    pub(super) async fn first<'k>(
        &self,
        pools: &[PoolConfig],
        known: impl Fn(&str) -> &'k [BackendConfig],
    ) -> Vec<(String, SourceOutcome)> {
        let mut asked = JoinSet::new();
        for pool in pools {
            let Some(source) = &pool.source else { continue };
            let mut asker = asker(source, known(&pool.name));
            let (pool, admin) = (pool.name.clone(), self.admin.clone());
            asked.spawn(async move {
                let outcome = asker.ask().await.and_then(|answer| accepted(answer, &admin));
                (pool, outcome.map(|(backends, _)| backends))
            });
        }
        let mut outcomes = Vec::new();
        let all = async {
            while let Some(answered) = asked.join_next().await {
                outcomes.extend(answered);
            }
        };
        if timeout(PATIENCE, all).await.is_err() {
            tracing::warn!(
                "sources of backends do not answer in time; starting without their backends"
            );
        }
        outcomes
    }

    /// Tells what changes to the control task from now on.
    pub(super) fn tell(&mut self, requests: mpsc::WeakSender<ControlRequest>) {
        self.requests = Some(requests);
    }

    /// Asks for these pools from now on, and for no others. Where a source has changed, another task
    /// takes over, which remembers nothing of the one before. `known` is as for [`first`](Self::first).
    pub(super) fn follow<'k>(
        &mut self,
        pools: &[PoolConfig],
        known: impl Fn(&str) -> &'k [BackendConfig],
    ) {
        let Some(requests) = &self.requests else { return };
        let source = |name: &str| pools.iter().find(|pool| pool.name == name)?.source.as_ref();
        let mut replaced = HashSet::new();
        self.tasks.retain(|name, (running, task)| {
            let stays = source(name) == Some(running);
            if !stays {
                task.abort();
                replaced.insert(name.clone());
            }
            stays
        });
        for pool in pools {
            let Some(source) = &pool.source else { continue };
            if !self.tasks.contains_key(&pool.name) {
                let known = match replaced.contains(&pool.name) {
                    true => &[],
                    false => known(&pool.name),
                };
                let asker = asker(source, known);
                let watch = watch(pool.name.clone(), asker, self.admin.clone(), requests.clone());
                self.tasks.insert(pool.name.clone(), (source.clone(), tokio::spawn(watch)));
            }
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

/// A source with what it remembers from one question to the next.
enum SourceClient {
    Dns(dns::DnsSource),
    Http(Box<http::HttpList>),
}

/// One that remembers what is known already.
fn asker(source: &BackendSource, known: &[BackendConfig]) -> SourceClient {
    let names = |terms: &Dns, records| {
        SourceClient::Dns(dns::DnsSource::new(terms.clone(), records, known))
    };
    match source {
        BackendSource::Dns(terms) => names(terms, dns::RecordKind::Addresses),
        BackendSource::Srv(terms) => names(terms, dns::RecordKind::Services),
        BackendSource::Http(terms) => {
            SourceClient::Http(Box::new(http::HttpList::new(terms.clone())))
        }
    }
}

impl SourceClient {
    async fn ask(&mut self) -> Result<SourceAnswer, String> {
        match self {
            Self::Dns(names) => names.ask().await,
            Self::Http(list) => list.ask().await,
        }
    }

    /// How long to wait after a failure, the first time.
    fn retry(&self) -> Duration {
        match self {
            Self::Dns(names) => names.retry(),
            Self::Http(list) => list.retry(),
        }
    }
}

/// Asks until it is dropped, or nobody listens any more.
async fn watch(
    pool: String,
    mut asker: SourceClient,
    admin: Admin,
    requests: mpsc::WeakSender<ControlRequest>,
) {
    let mut said: Option<SourceOutcome> = None;
    let mut told = SourceLog::default();
    let mut retry = asker.retry();
    loop {
        let answer = asker.ask().await;
        let holds = answer.as_ref().ok().map(|answer| answer.holds);
        let outcome = answer.and_then(|answer| accepted(answer, &admin));
        told.tell(&pool, outcome.as_ref().map(|(_, trouble)| trouble.as_deref()));
        let pause = match (&outcome, holds) {
            (Ok(_), Some(holds)) => {
                retry = asker.retry();
                holds
            }
            _ => {
                let pause = retry;
                retry = (retry * 2).min(LONGEST_RETRY.max(pause));
                pause
            }
        };
        let outcome = outcome.map(|(backends, _)| backends);
        if said.as_ref() != Some(&outcome) {
            let Some(requests) = requests.upgrade() else { return };
            let request =
                ControlRequest::Discovered { pool: pool.clone(), outcome: outcome.clone() };
            if requests.send(request).await.is_err() {
                return;
            }
            said = Some(outcome);
        }
        sleep(later(pause)).await;
    }
}

/// Up to a tenth more, so that many proxies do not fall into step. Never less: a cache between would
/// give the same answer once more.
fn later(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.1 * fastrand::f64())
}

/// Which troubles the log has, so that each is told when it begins.
#[derive(Default)]
struct SourceLog {
    failing: bool,
    /// The source has answered before.
    answered: bool,
    trouble: Option<String>,
}

impl SourceLog {
    fn tell(&mut self, pool: &str, outcome: Result<Option<&str>, &String>) {
        match outcome {
            Ok(trouble) => {
                if self.failing {
                    tracing::info!(pool, "the pool's source answers again");
                }
                (self.failing, self.answered) = (false, true);
                if let Some(trouble) = trouble.filter(|new| self.trouble.as_deref() != Some(new)) {
                    tracing::warn!(pool, trouble, "part of the source's answer is not used");
                }
                self.trouble = trouble.map(str::to_owned);
            }
            Err(error) => {
                if !self.failing {
                    match self.answered {
                        true => tracing::warn!(
                            pool,
                            error,
                            "the pool's source fails; the backends of its last good answer stay"
                        ),
                        false => tracing::warn!(
                            pool,
                            error,
                            "the pool's source fails and has not answered yet, so the pool is empty; check \
                             the name or URL in `backends`"
                        ),
                    }
                }
                self.failing = true;
            }
        }
    }
}
