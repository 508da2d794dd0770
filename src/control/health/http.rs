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

use crate::{
    net::{proxy_protocol::ConnectionOrigin, stream::BackendStream},
    upstream::{Backend, BackendConnector},
};

/// Largest response header of a probe.
const MAX_HEADER: usize = 16 * 1024;

/// Longest body of an answer that is still healthy: more is no health endpoint's, and is not read.
const MAX_BODY: usize = 1 << 20;

/// Whom to ask, and by what name.
pub(super) struct ProbeTarget<'p> {
    pub(super) backend: &'p Backend,
    /// How it is reached.
    pub(super) connector: &'p BackendConnector,
    /// Deadline of each connect; the whole probe has the same.
    pub(super) within: Duration,
    pub(super) host: String,
}

/// `GET`s a path and wants a whole answer with one of these statuses.
pub(super) async fn probe(
    target: ProbeTarget<'_>,
    path: &str,
    (lowest, highest): (u16, u16),
) -> Result<(), String> {
    let request = target.request(path).header("connection", "close");
    let mut link = target.link().await?;
    let response = link.ask(request, Bytes::new()).await?;
    let code = response.status().as_u16();
    whole(response).await?;
    match code {
        code if (lowest..=highest).contains(&code) => Ok(()),
        404 => Err(format!(
            "expected {}, got 404: set `path` of `health` to a path that the backend answers, or use \
             `probe = \"engine.io\"`",
            statuses(lowest, highest)
        )),
        code => Err(format!("expected {}, got {code}", statuses(lowest, highest))),
    }
}

/// A range of statuses, as short as it can be said.
fn statuses(lowest: u16, highest: u16) -> String {
    match (lowest / 100, lowest % 100, highest % 100) {
        _ if lowest == highest => format!("{lowest}"),
        (class, 0, 99) if highest / 100 == class => format!("{class}xx"),
        _ => format!("{lowest} to {highest}"),
    }
}

impl ProbeTarget<'_> {
    /// The beginning of a request.
    pub(super) fn request(&self, target: &str) -> request::Builder {
        Request::get(target).header(HOST, &self.host).header(USER_AGENT, "moorline-health")
    }

    /// Opens a connection, for nobody but ourselves.
    pub(super) async fn connect(&self) -> Result<BackendStream, String> {
        let opened = self.connector.open(self.backend, &ConnectionOrigin::Local, self.within).await;
        opened.map_err(|error| error.to_string())
    }

    /// A new connection to ask on.
    pub(super) async fn link(&self) -> Result<ProbeConnection, String> {
        let stream = self.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            // What fails here fails the request too.
            let _ = connection.with_upgrades().await;
        });
        Ok(ProbeConnection { sender, _driver: AbortOnDropHandle::new(driver) })
    }
}

/// One connection, which is closed where it is dropped.
pub(super) struct ProbeConnection {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl ProbeConnection {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn ask(
        &mut self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, String> {
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        self.sender.ready().await.map_err(|error| error.to_string())?;
        self.sender.send_request(request).await.map_err(|error| error.to_string())
    }
}

/// The whole body of an answer.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| format!("the answer's body: {error}"))
}

#[cfg(test)]
mod tests {
    use super::statuses;

    #[test]
    fn ranges_of_statuses_are_short() {
        assert_eq!(statuses(200, 299), "2xx");
        assert_eq!(statuses(204, 204), "204");
        assert_eq!(statuses(200, 399), "200 to 399");
    }
}
