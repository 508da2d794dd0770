//! Types of the admin API `/v1`, shared by the server and the command line. `openapi.json` describes
//! them.
//!
//! Pure data. Durations are seconds with fractions; instants are Unix time in seconds. A session id is
//! a secret: requests may contain one, replies never do. Replies name sessions by [`Id`].

mod cache;
mod changes;
mod documentations;
mod drains;
mod explain;
mod pools;
mod revocations;
mod sessions;
mod status;

use serde::{Deserialize, Serialize};

pub use self::{
    cache::{CacheState, PurgeRequest, Purged},
    changes::{
        Change, ChangeKind, ChangedThing, Plan, PlanRequest, ReloadRequest, UpgradeRequest,
        Upgraded,
    },
    documentations::Documentations,
    drains::{BackendTarget, DrainRequest, DrainTerms, Undrain},
    explain::{ExplainRequest, Explanation},
    pools::{
        BackendCondition, BackendOrigin, BackendState, Backends, CheckFailureInfo, NewBackend,
        NewWeight, PoolState, Pools,
    },
    revocations::{RevokeRequest, Revoked},
    sessions::{Closed, FindRequest, SessionKind, SessionList, SessionState, Whereabouts},
    status::{
        CertificateState, DrainState, ListenerState, Predecessor, ProcessState, ReloadState, Status,
    },
};

/// Description of the API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// Id of a tunnel or session in this process, valid for its lifetime. Meaningless in another process.
pub type Id = String;

/// An error reply.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ApiError {
    /// The reason in one sentence, or all errors of a configuration.
    pub error: String,
}
