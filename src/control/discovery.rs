//! Discovery of backends while the process runs: DNS names and lists over HTTP.
//!
//! One task per pool queries the source and sends changed answers to the control task. Answers are
//! validated: addresses that cannot be a backend are removed and the length is limited. If a query fails
//! or the answer is empty, the last good answer stays in use. A problem is logged when it begins, not at
//! each query. Must not know how the control task uses an answer.

mod dns;
pub(super) mod error;
mod http;
mod limits;
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

use self::{error::SourceError, validation::validate};
use super::{ControlRequest, resolve::ResolvedNames};
use crate::config::{Admin, BackendConfig, BackendSource, Dns, PoolConfig};

/// How long the start waits for the first answers. Later answers are applied when they arrive.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest pause after a failure. A longer `min_ttl` or `interval` of the source overrides it.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// A source's answer before validation.
struct SourceAnswer {
    backends: Vec<BackendConfig>,
    /// Parts of the answer that are not used, and why.
    warnings: Vec<String>,
    /// Time until the next query.
    ttl: Duration,
}

/// A pool's backends according to its source, or why there is no answer.
pub(super) type SourceOutcome = Result<Vec<BackendConfig>, SourceError>;

/// The tasks that query the sources.
pub(super) struct Discovery {
    /// The admin addresses, which must not become backends.
    admin: Admin,
    /// The channel for changed answers; `None`: the control task does not run yet.
    requests: Option<mpsc::WeakSender<ControlRequest>>,
    tasks: HashMap<String, (BackendSource, JoinHandle<()>)>,
}

impl Discovery {
    /// Starts no query yet.
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin, requests: None, tasks: HashMap::new() }
    }

    /// Returns the first answers of the pools' sources, if they arrive within [`START_TIMEOUT`].
    /// `known` returns the backends of a pool's previous answer.
    pub(super) async fn first<'k>(
        &self,
        pools: &[PoolConfig],
        known: impl Fn(&str) -> &'k [BackendConfig],
    ) -> Vec<(String, SourceOutcome)> {
        let mut queries = JoinSet::new();
        for pool in pools {
            let Some(source) = &pool.source else { continue };
            let mut client = SourceClient::new(source, known(&pool.name));
            let (pool, admin) = (pool.name.clone(), self.admin.clone());
            queries.spawn(async move {
                let outcome = client.query().await.and_then(|answer| validate(answer, &admin));
                (pool, outcome.map(|(backends, _)| backends))
            });
        }
        let mut outcomes = Vec::new();
        let all = async {
            while let Some(answered) = queries.join_next().await {
                outcomes.extend(answered);
            }
        };
        if timeout(START_TIMEOUT, all).await.is_err() {
            tracing::warn!(
                "a source of backends did not answer in time; starting without its backends"
            );
        }
        outcomes
    }

    /// Sets the channel that changed answers are sent to.
    pub(super) fn report_to(&mut self, requests: mpsc::WeakSender<ControlRequest>) {
        self.requests = Some(requests);
    }

    /// Queries the sources of these pools from now on, and of no others. If a pool's source has changed,
    /// its task starts again without the previous answer. `known` is as for [`first`](Self::first).
    pub(super) fn follow<'k>(
        &mut self,
        pools: &[PoolConfig],
        known: impl Fn(&str) -> &'k [BackendConfig],
    ) {
        let Some(requests) = &self.requests else { return };
        let source = |name: &str| pools.iter().find(|pool| pool.name == name)?.source.as_ref();
        let mut replaced = HashSet::new();
        self.tasks.retain(|name, (running, task)| {
            let same = source(name) == Some(running);
            if !same {
                task.abort();
                replaced.insert(name.clone());
            }
            same
        });
        for pool in pools {
            let Some(source) = &pool.source else { continue };
            if !self.tasks.contains_key(&pool.name) {
                let known = match replaced.contains(&pool.name) {
                    true => &[],
                    false => known(&pool.name),
                };
                let client = SourceClient::new(source, known);
                let task = run(pool.name.clone(), client, self.admin.clone(), requests.clone());
                self.tasks.insert(pool.name.clone(), (source.clone(), tokio::spawn(task)));
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

/// A source, with its state between queries.
enum SourceClient {
    Dns(dns::DnsSource),
    Http(Box<http::HttpList>),
}

impl SourceClient {
    /// `known` has the backends of the previous answer.
    fn new(source: &BackendSource, known: &[BackendConfig]) -> Self {
        let dns =
            |config: &Dns, records| Self::Dns(dns::DnsSource::new(config.clone(), records, known));
        match source {
            BackendSource::Dns(config) => dns(config, dns::RecordKind::Addresses),
            BackendSource::Srv(config) => dns(config, dns::RecordKind::Services),
            BackendSource::Http(config) => {
                Self::Http(Box::new(http::HttpList::new(config.clone())))
            }
        }
    }

    async fn query(&mut self) -> Result<SourceAnswer, SourceError> {
        match self {
            Self::Dns(source) => source.query().await,
            Self::Http(list) => list.query().await,
        }
    }

    /// Pause after the first failure.
    fn retry(&self) -> Duration {
        match self {
            Self::Dns(source) => source.retry(),
            Self::Http(list) => list.retry(),
        }
    }
}

/// Queries a source until the task is aborted or the control task has ended.
async fn run(
    pool: String,
    mut client: SourceClient,
    admin: Admin,
    requests: mpsc::WeakSender<ControlRequest>,
) {
    let mut sent: Option<SourceOutcome> = None;
    let mut log = SourceLog::default();
    let mut retry = client.retry();
    loop {
        let answer = client.query().await;
        let ttl = answer.as_ref().ok().map(|answer| answer.ttl);
        let outcome = answer.and_then(|answer| validate(answer, &admin));
        log.record(&pool, outcome.as_ref().map(|(_, warning)| warning.as_deref()));
        let pause = match (&outcome, ttl) {
            (Ok(_), Some(ttl)) => {
                retry = client.retry();
                ttl
            }
            _ => {
                let pause = retry;
                retry = (retry * 2).min(LONGEST_RETRY.max(pause));
                pause
            }
        };
        let outcome = outcome.map(|(backends, _)| backends);
        if sent.as_ref() != Some(&outcome) {
            let backends = outcome.iter().flatten().map(|backend| backend.address.clone());
            let names = ResolvedNames::look_up(backends).await;
            let Some(requests) = requests.upgrade() else { return };
            let request =
                ControlRequest::Discovered { pool: pool.clone(), outcome: outcome.clone(), names };
            if requests.send(request).await.is_err() {
                return;
            }
            sent = Some(outcome);
        }
        sleep(jittered(pause)).await;
    }
}

/// Adds up to 10 %, so that many proxies do not synchronize. A shorter pause would get the same answer
/// from a DNS cache again.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.1 * fastrand::f64())
}

/// Logs a source's problems when they begin and end.
#[derive(Default)]
struct SourceLog {
    failing: bool,
    /// Whether the source has answered before.
    answered: bool,
    /// The last warning in the log.
    warning: Option<String>,
}

impl SourceLog {
    fn record(&mut self, pool: &str, outcome: Result<Option<&str>, &SourceError>) {
        match outcome {
            Ok(warning) => {
                if self.failing {
                    tracing::info!(pool, "the pool's source answers again");
                }
                (self.failing, self.answered) = (false, true);
                if let Some(reason) = warning.filter(|new| self.warning.as_deref() != Some(new)) {
                    tracing::warn!(pool, reason, "part of the source's answer is not used");
                }
                self.warning = warning.map(str::to_owned);
            }
            Err(error) => {
                if !self.failing {
                    match self.answered {
                        true => tracing::warn!(
                            pool,
                            %error,
                            "the pool's source fails; keeping the backends of its last good answer"
                        ),
                        false => tracing::warn!(
                            pool,
                            %error,
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
