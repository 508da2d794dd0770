//! What an operator can ask of a running process and order it to do: the one door that the admin API
//! and the command line have to [`Control`](super::Control).
//!
//! Questions about the moment are answered from what the data path shares, without waiting for the
//! control task; orders go to that task and wait for its answer. Must not know HTTP.

use std::fmt;

use crate::admin::api::{
    BackendState, DrainOrder, ExplainOrder, Explanation, NewBackend, Plan, PlanOrder, ReloadOrder,
    Sessions, Status, Target, UpgradeOrder, Upgraded, Whereabouts,
};

/// Asks and orders; cheap to clone.
#[derive(Clone, Debug)]
pub struct Operator {}

/// Why an order was not carried out, or a question not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no such pool, backend, session or file; the text names it.
    NotFound(String),
    /// It contradicts what is so: a second drain, a backend that is there already, a reload that
    /// would disconnect too many.
    Conflict(String),
    /// The order itself makes no sense.
    Invalid(String),
    /// It was tried and failed; nothing has changed.
    Failed(String),
    /// The process is stopping.
    Stopping,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Invalid(text)
            | Self::Failed(text) => f.write_str(text),
            Self::Stopping => f.write_str("the process is stopping"),
        }
    }
}

impl std::error::Error for Denied {}

impl Operator {
    /// The process and everything in it.
    pub async fn status(&self) -> Result<Status, Denied> {
        Err(Denied::Stopping)
    }

    /// At most `limit` sessions of these backends.
    pub async fn sessions(&self, _of: Target, _limit: usize) -> Result<Sessions, Denied> {
        Err(Denied::Stopping)
    }

    /// Where a session id is known.
    pub async fn whereabouts(&self, _sid: &str) -> Result<Whereabouts, Denied> {
        Err(Denied::Stopping)
    }

    /// Closes a tunnel at a frame boundary, or lets a polling session go.
    pub async fn close(&self, _id: &str) -> Result<(), Denied> {
        Err(Denied::Stopping)
    }

    /// Adds a backend to a pool, until restart.
    pub async fn add(&self, _pool: String, _new: NewBackend) -> Result<BackendState, Denied> {
        Err(Denied::Stopping)
    }

    /// Takes a backend that was added here out again; it is drained as one that leaves the file.
    pub async fn remove(&self, _pool: String, _backend: String) -> Result<BackendState, Denied> {
        Err(Denied::Stopping)
    }

    /// Gives a backend another weight, until restart.
    pub async fn set_weight(
        &self,
        _pool: String,
        _backend: String,
        _weight: u32,
    ) -> Result<BackendState, Denied> {
        Err(Denied::Stopping)
    }

    /// Drains backends: those that are in the drain now.
    pub async fn drain(
        &self,
        _what: Target,
        _how: DrainOrder,
    ) -> Result<Vec<BackendState>, Denied> {
        Err(Denied::Stopping)
    }

    /// Ends the drains that were ordered here.
    pub async fn undrain(&self, _what: Target) -> Result<Vec<BackendState>, Denied> {
        Err(Denied::Stopping)
    }

    /// Reads the file again and puts it in force: what that did.
    pub async fn reload(&self, _order: ReloadOrder) -> Result<Plan, Denied> {
        Err(Denied::Stopping)
    }

    /// What putting a configuration in force would do.
    pub async fn plan(&self, _order: PlanOrder) -> Result<Plan, Denied> {
        Err(Denied::Stopping)
    }

    /// The effective configuration, without secrets, as JSON.
    pub async fn config(&self) -> Result<serde_json::Value, Denied> {
        Err(Denied::Stopping)
    }

    /// Who would serve a request.
    pub async fn explain(&self, _order: ExplainOrder) -> Result<Explanation, Denied> {
        Err(Denied::Stopping)
    }

    /// Hands over to a new binary; answered once that one serves.
    pub async fn upgrade(&self, _order: UpgradeOrder) -> Result<Upgraded, Denied> {
        Err(Denied::Stopping)
    }
}
