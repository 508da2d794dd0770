//! TCP and TLS.

use tokio::net::TcpStream;

use crate::{scenario::Scenario, stats::Failure};

/// Opens connections as a scenario wants them. One for all clients of a run.
#[derive(Debug)]
pub(crate) struct Connector {}

/// A connection to the target. `AsyncRead` and `AsyncWrite`.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Plain(TcpStream),
}

impl Connector {
    /// Reads the authorities that are to be trusted.
    ///
    /// # Errors
    ///
    /// A sentence for the user, where the file of authorities cannot be used.
    pub(crate) fn new(scenario: &Scenario) -> Result<Self, String> {
        Ok(Self {})
    }

    /// Connects, over TLS where the target asks for it. The caller sets the deadline.
    ///
    /// # Errors
    ///
    /// `Connect` or `Tls`.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        unimplemented!()
    }
}
