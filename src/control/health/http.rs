//! The `http` probe, and the HTTP that the other probes begin with.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Request, Response,
    header::{HOST, USER_AGENT},
    request,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::ProbeError;
use crate::{
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    upstream::{Backend, BackendConnector},
};

/// Largest response header of a probe.
const MAX_HEADER: usize = 16 * 1024;

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
    let response = connection.send(request, Bytes::new()).await?;
    let actual = response.status().as_u16();
    collect(response).await?;
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
        let stream = self.connect().await?;
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEADER).handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // An error here fails the request too.
            let _ = connection.with_upgrades().await;
        });
        Ok(ProbeConnection { sender, _driver: AbortOnDropHandle::new(driver) })
    }
}

/// An HTTP connection to the backend; dropping it closes it.
pub(super) struct ProbeConnection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl ProbeConnection {
    /// Sends a request and waits for the response head.
    pub(super) async fn send(
        &mut self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, ProbeError> {
        let request = request.body(Full::new(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}

/// Reads the response body to its end.
pub(super) async fn collect(response: Response<Incoming>) -> Result<Bytes, ProbeError> {
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    body.map(|body| body.to_bytes()).map_err(ProbeError::Body)
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
