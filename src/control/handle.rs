//! Commands and queries of operators: the interface of the admin API and the command line to
//! [`ControlTask`](super::ControlTask).
//!
//! Queries about sessions are answered from shared state, without waiting for the control task. Commands go
//! to that task and wait for its reply. Must not know HTTP.

use std::{fmt, path::PathBuf, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    ControlCommand, ControlRequest, reload::LOAD_TIMEOUT, resolve::ResolvedNames, sessions,
};
use crate::{
    api::{
        BackendState, BackendTarget, CacheState, DrainTerms, ExplainRequest, Explanation,
        NewBackend, Plan, PlanRequest, PurgeRequest, Purged, ReloadRequest, Revoked, SessionList,
        Status, UpgradeRequest, Upgraded, Whereabouts,
    },
    config::{Address, CacheStoreConfig, Config, check},
    gateway::PurgeTarget,
    shared::SharedState,
};

/// Sends commands and queries to a running process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    requests: mpsc::Sender<ControlRequest>,
    proxy: Arc<SharedState>,
    /// The configuration file; `None`: the process runs from flags.
    file: Option<PathBuf>,
    /// Only one configuration is checked at a time, because its files may be slow to read.
    checking: Arc<Semaphore>,
}

/// Why a command or query failed. A failed command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The pool, backend, session or file does not exist; the text names it.
    NotFound(String),
    /// The command contradicts the state: a second drain, a backend that exists, a reload that would
    /// disconnect too many sessions.
    Conflict(String),
    /// The command itself is invalid.
    Invalid(String),
    /// The command was tried and failed.
    Failed(String),
    /// The process is shutting down.
    ShuttingDown,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Invalid(text)
            | Self::Failed(text) => f.write_str(text),
            Self::ShuttingDown => f.write_str("the process is shutting down"),
        }
    }
}

impl std::error::Error for CommandError {}

impl ControlHandle {
    /// Returns a handle for a running control task.
    pub(crate) fn new(
        requests: mpsc::Sender<ControlRequest>,
        proxy: Arc<SharedState>,
        file: Option<PathBuf>,
    ) -> Self {
        Self { requests, proxy, file, checking: Arc::new(Semaphore::new(1)) }
    }

    /// The configuration file; `None`: the process runs from flags.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// Returns the state of the process.
    ///
    /// # Errors
    /// As for every async method, [`CommandError::ShuttingDown`] if the control task has ended.
    pub async fn status(&self) -> Result<Status, CommandError> {
        self.send(ControlCommand::Status).await
    }

    /// Lists at most `limit` sessions of these backends.
    ///
    /// # Errors
    /// The pool or backend does not exist.
    pub fn sessions(
        &self,
        target: &BackendTarget,
        limit: usize,
    ) -> Result<SessionList, CommandError> {
        sessions::list(&self.proxy, target, limit)
    }

    /// Returns the backends where a session id is known.
    pub fn whereabouts(&self, sid: &str) -> Whereabouts {
        sessions::find(&self.proxy, sid)
    }

    /// Closes a tunnel at a frame boundary, or evicts a polling session. A tunnel that is already being
    /// closed is cut.
    ///
    /// # Errors
    /// The session does not exist.
    pub fn close(&self, id: &str) -> Result<(), CommandError> {
        sessions::close(&self.proxy, id)
    }

    /// What stored responses use.
    pub fn cache(&self) -> CacheState {
        let store = self.proxy.cache.load();
        let (used, urls) = store.usage();
        let (disk_used, disk_urls) = store.disk_usage().unwrap_or_default();
        let CacheStoreConfig { memory, disk } = store.config();
        let (memory, disk) = (*memory, disk.as_ref().map_or(0, |disk| disk.max));
        CacheState { memory, used, urls, disk, disk_used, disk_urls }
    }

    /// Removes stored responses.
    ///
    /// # Errors
    /// The request names nothing, or several things.
    pub async fn purge_cache(&self, request: PurgeRequest) -> Result<Purged, CommandError> {
        let target = purge_target(request)?;
        let store = self.proxy.cache.load_full();
        // Looks at every stored response.
        let purged = spawn_blocking(move || store.purge(&target)).await;
        match purged {
            Ok(urls) => Ok(Purged { urls }),
            Err(error) => Err(CommandError::Failed(error.to_string())),
        }
    }

    /// Ends all sessions of a subject, and refuses its tokens that were issued until now.
    ///
    /// # Errors
    /// The subject is empty.
    pub fn revoke(&self, subject: &str) -> Result<Revoked, CommandError> {
        sessions::revoke(&self.proxy, subject)
    }

    /// Adds a backend to a pool, until restart.
    ///
    /// # Errors
    /// The pool does not exist, it already has the backend, or the new backend is invalid.
    pub async fn add(&self, pool: String, new: NewBackend) -> Result<BackendState, CommandError> {
        let address = new.address.parse::<Address>().ok();
        let names = ResolvedNames::look_up(address).await;
        self.send(|reply| ControlCommand::Add(pool, new, names, reply)).await
    }

    /// Removes a backend that was added by command. It drains like a backend that the file no longer has.
    ///
    /// # Errors
    /// The backend does not exist, or was not added by command.
    pub async fn remove(
        &self,
        pool: String,
        backend: String,
    ) -> Result<BackendState, CommandError> {
        self.send(|reply| ControlCommand::Remove(pool, backend, reply)).await
    }

    /// Sets the weight of a backend, until restart.
    ///
    /// # Errors
    /// The backend does not exist, or the weight is out of range.
    pub async fn set_weight(
        &self,
        pool: String,
        backend: String,
        weight: u32,
    ) -> Result<BackendState, CommandError> {
        self.send(|reply| ControlCommand::Weight(pool, backend, weight, reply)).await
    }

    /// Starts a drain. Returns the state of its backends.
    ///
    /// # Errors
    /// The target does not exist, or is already draining.
    pub async fn drain(
        &self,
        target: BackendTarget,
        terms: DrainTerms,
    ) -> Result<Vec<BackendState>, CommandError> {
        self.send(|reply| ControlCommand::Drain(target, terms, reply)).await
    }

    /// Ends drains that commands have started. Returns the backends that no longer drain.
    ///
    /// # Errors
    /// The target does not exist, or no command has started a drain of it.
    pub async fn undrain(&self, target: BackendTarget) -> Result<Vec<BackendState>, CommandError> {
        self.send(|reply| ControlCommand::Undrain(target, reply)).await
    }

    /// Reloads the file. Returns what has changed.
    ///
    /// # Errors
    /// The file has faults (the text lists all), or the reload would disconnect too many sessions.
    pub async fn reload(&self, request: ReloadRequest) -> Result<Plan, CommandError> {
        self.send(|reply| ControlCommand::Reload(request, reply)).await
    }

    /// Plans a configuration: returns what a reload would change.
    ///
    /// # Errors
    /// The configuration has faults; the text lists all.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, CommandError> {
        let path = match (request.path.filter(|_| request.text.is_some()), &self.file) {
            (Some(path), _) => path.into(),
            (None, Some(file)) => file.clone(),
            (None, None) => {
                let wrong = "this process runs from flags, not from a file; name a file: \
                             `moorline plan FILE`";
                return Err(CommandError::Invalid(wrong.to_owned()));
            }
        };
        let file_config = self.load_and_check(request.text, path).await?;
        self.send(|reply| ControlCommand::Plan(Box::new(file_config), reply)).await
    }

    /// Loads and checks a configuration outside the runtime and the control task, so that a slow disk delays
    /// only other plans.
    async fn load_and_check(
        &self,
        text: Option<String>,
        path: PathBuf,
    ) -> Result<Config, CommandError> {
        let Ok(permit) = Arc::clone(&self.checking).try_acquire_owned() else {
            return Err(CommandError::Conflict(
                "another plan is being checked; try again".to_owned(),
            ));
        };
        let checking = tokio::task::spawn_blocking(move || {
            let checked = match text {
                Some(text) => check::text(&text, &path),
                None => check::file(&path),
            };
            drop(permit);
            checked
        });
        match timeout(LOAD_TIMEOUT, checking).await {
            Ok(Ok(Ok(file_config))) => Ok(file_config),
            Ok(Ok(Err(faults))) => Err(CommandError::Failed(faults.to_string())),
            Ok(Err(error)) => Err(CommandError::Failed(error.to_string())),
            Err(_) => {
                Err(CommandError::Failed("reading the configuration takes too long".to_owned()))
            }
        }
    }

    /// Returns the effective configuration.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn config(&self) -> Result<Box<Config>, CommandError> {
        self.send(ControlCommand::Config).await
    }

    /// Explains which backend a request would go to.
    ///
    /// # Errors
    /// The request is invalid.
    pub async fn explain(&self, request: ExplainRequest) -> Result<Explanation, CommandError> {
        self.send(|reply| ControlCommand::Explain(request, reply)).await
    }

    /// Hands over to a new binary. Returns when the new process serves.
    ///
    /// # Errors
    /// The new process does not serve; this one continues to serve.
    pub async fn upgrade(&self, request: UpgradeRequest) -> Result<Upgraded, CommandError> {
        self.send(|reply| ControlCommand::Upgrade(request, reply)).await
    }

    async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> ControlCommand,
    ) -> Result<T, CommandError> {
        let (reply, outcome) = oneshot::channel();
        let request = ControlRequest::Command(command(reply));
        self.requests.send(request).await.map_err(|_| CommandError::ShuttingDown)?;
        outcome.await.map_err(|_| CommandError::ShuttingDown)?
    }
}

/// The one thing that a request names.
fn purge_target(request: PurgeRequest) -> Result<PurgeTarget, CommandError> {
    match request {
        PurgeRequest { url: Some(url), prefix: None, tag: None, all: false } => {
            Ok(PurgeTarget::Url(url))
        }
        PurgeRequest { url: None, prefix: Some(prefix), tag: None, all: false } => {
            Ok(PurgeTarget::Prefix(prefix))
        }
        PurgeRequest { url: None, prefix: None, tag: Some(tag), all: false } => {
            Ok(PurgeTarget::Tag(tag))
        }
        PurgeRequest { url: None, prefix: None, tag: None, all: true } => Ok(PurgeTarget::All),
        _ => {
            let text = "set one of `url`, `prefix`, `tag` and `\"all\": true`";
            Err(CommandError::Invalid(text.to_owned()))
        }
    }
}
