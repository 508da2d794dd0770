//! Types of the admin API.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// The admin API and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admin {
    /// Address of `/metrics`, `/live` and `/ready`, without authentication; `None`: not served.
    pub metrics: Option<SocketAddr>,
    /// The unix socket of the API, mode 0600.
    pub socket: AdminSocket,
    /// The API over TCP, with a token; `None`: not served.
    pub remote: Option<AdminRemote>,
}

/// The unix socket of the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSocket {
    /// `moorline.sock` in the runtime folder of the unit or the user, unless another process has it.
    #[default]
    Default,
    /// At this path.
    At(PathBuf),
    /// Disabled.
    Off,
}

/// The admin API over TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminRemote {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Bearer token that every request needs, at least 16 bytes.
    pub token: String,
}

impl fmt::Debug for AdminRemote {
    /// Shows the address, never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminRemote").field("address", &self.address).finish_non_exhaustive()
    }
}
