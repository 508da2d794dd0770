//! The `http` probe, and the HTTP that the other probes begin with.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{HOST, USER_AGENT},
    request,
    response::Parts,
};
use http_body_util::Full;

use super::ProbeError;
use crate::{
    http_client::{self, HttpConnection, UpgradedStream},
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    upstream::{Backend, BackendConnector},
};

/// Longest response body of a healthy backend, in bytes; a longer one fails the probe.
const MAX_BODY: usize = 1 << 20;

/// The backend that a probe connects to.
pub(super) struct ProbeTarget<'p> {
    pub(super) backend: &'p Backend,
    /// Opens connections to the backend.
    pub(super) connector: &'p BackendConnector,
    /// Timeout of each connect; the whole probe has the same timeout.
    pub(super) connect_timeout: Duration,
    /// Value of the `Host` field.
    pub(super) host: String,
}

/// Sends a `GET` for `path`; succeeds on a complete response with a status in this range.
pub(super) async fn probe(
    target: ProbeTarget<'_>,
    path: &str,
    (lowest, highest): (u16, u16),
) -> Result<(), ProbeError> {
    let request = target.request(path).header("connection", "close");
    let mut connection = target.open().await?;
    let actual = connection.exchange(request, Bytes::new()).await?.status().as_u16();
    if (lowest..=highest).contains(&actual) {
        return Ok(());
    }
    let help =
        "set `path` of `health` to a path that the backend answers, or use `probe = \"engine.io\"`";
    let help = (actual == 404).then(|| help.to_owned());
    Err(ProbeError::Status { expected: statuses(lowest, highest), actual, help })
}

/// Shows a range of statuses in its shortest form.
fn statuses(lowest: u16, highest: u16) -> String {
    match (lowest / 100, lowest % 100, highest % 100) {
        _ if lowest == highest => format!("{lowest}"),
        (class, 0, 99) if highest / 100 == class => format!("{class}xx"),
        _ => format!("{lowest} to {highest}"),
    }
}

impl ProbeTarget<'_> {
    /// Starts a `GET` request for `target`.
    pub(super) fn request(&self, target: &str) -> request::Builder {
        Request::get(target).header(HOST, &self.host).header(USER_AGENT, "moorline-health")
    }

    /// Opens a connection that is not made for a client.
    pub(super) async fn connect(&self) -> Result<BackendStream, ProbeError> {
        let dialed =
            self.connector.open(self.backend, &ConnectionOrigin::Local, self.connect_timeout);
        dialed.await.map_err(ProbeError::Connect)
    }

    /// Opens an HTTP connection.
    pub(super) async fn open(&self) -> Result<ProbeConnection, ProbeError> {
        Ok(ProbeConnection(HttpConnection::open(self.connect().await?).await?))
    }
}

/// An HTTP connection to the backend; dropping it closes it.
pub(super) struct ProbeConnection(HttpConnection);

impl ProbeConnection {
    /// Sends a request and reads the response.
    pub(super) async fn exchange(
        &mut self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, ProbeError> {
        Ok(self.0.exchange(request.body(Full::new(body))?, MAX_BODY).await?)
    }

    /// Sends a request for an upgrade. Returns the head of the response, and the stream behind a `101`.
    pub(super) async fn upgrade(
        &mut self,
        request: request::Builder,
    ) -> Result<(Parts, Option<UpgradedStream>), ProbeError> {
        let mut response = self.0.send(request.body(Full::default())?).await?;
        let stream = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Some(http_client::upgraded(&mut response).await?),
            _ => None,
        };
        Ok((response.into_parts().0, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::statuses;

    #[test]
    fn status_ranges_are_shown_in_short_form() {
        assert_eq!(statuses(200, 299), "2xx");
        assert_eq!(statuses(204, 204), "204");
        assert_eq!(statuses(200, 399), "200 to 399");
    }
}
