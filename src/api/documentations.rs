//! Published API descriptions.

use serde::{Deserialize, Serialize};

/// The names of the published API descriptions.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Documentations {
    /// `all`, `any` for routes of every host, and hosts.
    pub documents: Vec<String>,
}
