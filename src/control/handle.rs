//! What an operator can ask of a running process and order it to do: the one door that the admin API
//! and the command line have to [`ControlTask`](super::ControlTask).
//!
//! Questions about the moment are answered from what the data path shares, without waiting for the
//! control task; orders go to that task and wait for its answer. Must not know HTTP.

use std::{fmt, path::PathBuf, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{ControlCommand, ControlRequest, reload::LOAD, sessions};
use crate::{
    api::{
        BackendState, BackendTarget, DrainTerms, ExplainRequest, Explanation, NewBackend, Plan,
        PlanRequest, ReloadRequest, SessionList, Status, UpgradeRequest, Upgraded, Whereabouts,
    },
    config::{Config, check},
    shared::SharedState,
};

/// Asks and orders; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    requests: mpsc::Sender<ControlRequest>,
    proxy: Arc<SharedState>,
    /// Where the configuration is read from; `None`: it came from flags.
    file: Option<PathBuf>,
    /// One configuration is checked at a time: its files may be slow.
    checking: Arc<Semaphore>,
}

/// Why an order was not carried out, or a question not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// There is no such pool, backend, session or file; the text names it.
    NotFound(String),
    /// It contradicts what is so: a second drain, a backend that is there already, a reload that
    /// would disconnect too many.
    Conflict(String),
    /// The order itself makes no sense.
    Invalid(String),
    /// It was tried and failed; nothing has changed.
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
    /// Of a running control task.
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

    /// The process and everything in it.
    ///
    /// # Errors
    /// As for every method here, [`CommandError::ShuttingDown`] where the control task is gone.
    pub async fn status(&self) -> Result<Status, CommandError> {
        self.order(ControlCommand::Status).await
    }

    /// At most `limit` sessions of these backends.
    ///
    /// # Errors
    /// There is no such pool or backend.
    pub fn sessions(&self, of: &BackendTarget, limit: usize) -> Result<SessionList, CommandError> {
        sessions::list(&self.proxy, of, limit)
    }

    /// Where a session id is known.
    pub fn whereabouts(&self, sid: &str) -> Whereabouts {
        sessions::find(&self.proxy, sid)
    }

    /// Closes a tunnel at a frame boundary, or lets a polling session go. A tunnel that is being closed
    /// already is cut.
    ///
    /// # Errors
    /// There is no such session.
    pub fn close(&self, id: &str) -> Result<(), CommandError> {
        sessions::close(&self.proxy, id)
    }

    /// Adds a backend to a pool, until restart.
    ///
    /// # Errors
    /// There is no such pool, it has such a backend, or the order makes no sense.
    pub async fn add(&self, pool: String, new: NewBackend) -> Result<BackendState, CommandError> {
        self.order(|answer| ControlCommand::Add(pool, new, answer)).await
    }

    /// Takes a backend that was added here out again; it is drained as one that leaves the file.
    ///
    /// # Errors
    /// There is no such backend, or it was not added here.
    pub async fn remove(
        &self,
        pool: String,
        backend: String,
    ) -> Result<BackendState, CommandError> {
        self.order(|answer| ControlCommand::Remove(pool, backend, answer)).await
    }

    /// Gives a backend another weight, until restart.
    ///
    /// # Errors
    /// There is no such backend, or no such weight.
    pub async fn set_weight(
        &self,
        pool: String,
        backend: String,
        weight: u32,
    ) -> Result<BackendState, CommandError> {
        self.order(|answer| ControlCommand::Weight(pool, backend, weight, answer)).await
    }

    /// Drains backends: what they are like then.
    ///
    /// # Errors
    /// There is nothing of that name, or it drains already.
    pub async fn drain(
        &self,
        what: BackendTarget,
        how: DrainTerms,
    ) -> Result<Vec<BackendState>, CommandError> {
        self.order(|answer| ControlCommand::Drain(what, how, answer)).await
    }

    /// Ends drains that were ordered here: what the backends are like then.
    ///
    /// # Errors
    /// There is nothing of that name, or it does not drain by an order of its own.
    pub async fn undrain(&self, what: BackendTarget) -> Result<Vec<BackendState>, CommandError> {
        self.order(|answer| ControlCommand::Undrain(what, answer)).await
    }

    /// Reads the file again and puts it in force: what that did.
    ///
    /// # Errors
    /// Every fault of the file, or more would be disconnected than was allowed; nothing has changed.
    pub async fn reload(&self, order: ReloadRequest) -> Result<Plan, CommandError> {
        self.order(|answer| ControlCommand::Reload(order, answer)).await
    }

    /// What putting a configuration in force would do.
    ///
    /// # Errors
    /// Every fault of the configuration.
    pub async fn plan(&self, order: PlanRequest) -> Result<Plan, CommandError> {
        let path = match (order.path.filter(|_| order.text.is_some()), &self.file) {
            (Some(path), _) => path.into(),
            (None, Some(file)) => file.clone(),
            (None, None) => {
                let wrong = "this process runs from flags, not from a file; name a file: \
                             `moorline plan FILE`";
                return Err(CommandError::Invalid(wrong.to_owned()));
            }
        };
        let file_config = self.check(order.text, path).await?;
        self.order(|answer| ControlCommand::Plan(Box::new(file_config), answer)).await
    }

    /// Reads and checks off the runtime, and away from the control task: a disk that hangs holds up no
    /// more than the next who asks.
    async fn check(&self, text: Option<String>, path: PathBuf) -> Result<Config, CommandError> {
        let Ok(turn) = Arc::clone(&self.checking).try_acquire_owned() else {
            return Err(CommandError::Conflict(
                "another plan is being checked; try again".to_owned(),
            ));
        };
        let checking = tokio::task::spawn_blocking(move || {
            let checked = match text {
                Some(text) => check::text(&text, &path),
                None => check::file(&path),
            };
            drop(turn);
            checked
        });
        match timeout(LOAD, checking).await {
            Ok(Ok(Ok(file_config))) => Ok(file_config),
            Ok(Ok(Err(faults))) => Err(CommandError::Failed(faults.to_string())),
            Ok(Err(error)) => Err(CommandError::Failed(error.to_string())),
            Err(_) => {
                Err(CommandError::Failed("reading the configuration takes too long".to_owned()))
            }
        }
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// As for [`status`](Self::status).
    pub async fn config(&self) -> Result<Box<Config>, CommandError> {
        self.order(ControlCommand::Config).await
    }

    /// Who would serve a request.
    ///
    /// # Errors
    /// The request makes no sense.
    pub async fn explain(&self, order: ExplainRequest) -> Result<Explanation, CommandError> {
        self.order(|answer| ControlCommand::Explain(order, answer)).await
    }

    /// Hands over to a new binary; answered once that one serves.
    ///
    /// # Errors
    /// Why the new one does not serve; this one does then.
    pub async fn upgrade(&self, order: UpgradeRequest) -> Result<Upgraded, CommandError> {
        self.order(|answer| ControlCommand::Upgrade(order, answer)).await
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> ControlCommand,
    ) -> Result<T, CommandError> {
        let (answer, outcome) = oneshot::channel();
        let request = ControlRequest::Command(order(answer));
        self.requests.send(request).await.map_err(|_| CommandError::ShuttingDown)?;
        outcome.await.map_err(|_| CommandError::ShuttingDown)?
    }
}
