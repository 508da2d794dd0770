//! A session over polling and, for clients that upgrade, its upgrade to WebSocket.
//!
//! Works as the real client: one GET is always pending, one POST at a time carries the outbox, and the probe
//! of a WebSocket runs in parallel. After the answer to the probe no new GET follows; when the server has
//! answered the pending one, the session moves to the WebSocket.
//!
//! Only a client with a single connection differs: its POSTs are sent between two polls.

use std::{
    future::{Future, pending},
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::{
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{
    Context, Interruption, Session, TransportEnd, User, X_NODE, failure_of_reply,
    failure_of_upgrade, note_node, path_and_query, websocket,
};
use crate::{
    client::cookies::CookieJar,
    net::{Dialer, Http, Kind, Message, Reply, UpgradeError, WebSocket},
    scenario::ClientKind,
    stats::{ErrorKind, Failure},
    wire::{
        Malformed,
        engine_io::{Frame, Handshake, Packet},
    },
};

/// Maximum frames that wait for a POST; above this, the client sends no more.
const MAX_WAITING_FRAMES: usize = 64;
/// How long before the server's keep-alive timeout an idle connection is not used any more.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A pending request.
type Exchange<'c> = Pin<Box<dyn Future<Output = Result<(Reply, Http), Failure>> + Send + 'c>>;
/// A pending upgrade to WebSocket.
type Probe<'c> =
    Pin<Box<dyn Future<Output = Result<(WebSocket, HeaderMap), UpgradeError>> + Send + 'c>>;

/// The requests of one client.
struct Requests<'c> {
    context: &'c Context,
    dialer: &'c Dialer,
    cookies: &'c mut CookieJar,
    sid: Option<String>,
    /// Maximum bytes of a POST.
    max_payload: usize,
    /// Idle connections, and until when they may be used.
    idle: Vec<(Http, Option<Instant>)>,
    get: Option<Exchange<'c>>,
    post: Option<Exchange<'c>>,
    probe: Option<Probe<'c>>,
    /// The WebSocket to which the session moves as soon as no request is pending.
    websocket: Option<WebSocket>,
}

/// What a client waits for.
enum Event {
    Polled(Result<(Reply, Http), Failure>),
    Posted(Result<(Reply, Http), Failure>),
    Probed(Result<(WebSocket, HeaderMap), UpgradeError>),
    Interrupted(Interruption),
    Time,
}

/// Runs the session until it moves to the returned WebSocket, or ends. The caller sends the rest of the
/// outbox there.
pub(super) async fn run(
    context: &Context,
    user: &mut User,
    session: &mut Session<'_>,
    outbox: &mut Vec<Frame>,
) -> Result<WebSocket, TransportEnd> {
    let User { commands, dialer, cookies, .. } = user;
    let mut requests = Requests::new(context, dialer, cookies);
    let mut command = pin!(commands.next());
    let mut timer = pin!(sleep_until(session.next_wakeup().into()));
    loop {
        let next = session.run_due(outbox.len() > MAX_WAITING_FRAMES, outbox)?;
        if let Some(socket) = requests.send_pending(outbox) {
            return complete_upgrade(socket, context, session).await;
        }
        if session.is_done() && outbox.is_empty() && requests.is_settled() {
            requests.close(session).await;
            return Err(TransportEnd::Completed);
        }
        if let Some(wake) = next {
            timer.as_mut().reset(wake.into());
        }
        let event = tokio::select! {
            biased;
            reply = take_when_ready(&mut requests.get) => Event::Polled(reply),
            reply = take_when_ready(&mut requests.post) => Event::Posted(reply),
            probed = take_when_ready(&mut requests.probe) => Event::Probed(probed),
            by = &mut command => Event::Interrupted(by),
            () = &mut timer, if next.is_some() => Event::Time,
            () = yield_now(), if next.is_none() => Event::Time,
        };
        match event {
            Event::Polled(reply) => requests.polled(reply?, session, outbox)?,
            Event::Posted(reply) => {
                requests.receive(reply?, session)?;
            }
            Event::Probed(probed) => requests.probed(probed, session),
            Event::Interrupted(by) => {
                if by == Interruption::Stop {
                    requests.close(session).await;
                }
                return Err(TransportEnd::Interrupted(by));
            }
            Event::Time => {}
        }
    }
}

/// Confirms to the server that the session moves to the WebSocket.
async fn complete_upgrade(
    mut socket: WebSocket,
    context: &Context,
    session: &Session<'_>,
) -> Result<WebSocket, TransportEnd> {
    let mut upgrade = vec![Frame::Text("5".to_owned())];
    websocket::send(&mut socket, &mut upgrade, session.protocol()).await?;
    context.recorder.upgraded();
    Ok(socket)
}

impl<'c> Requests<'c> {
    fn new(context: &'c Context, dialer: &'c Dialer, cookies: &'c mut CookieJar) -> Self {
        Self {
            context,
            dialer,
            cookies,
            sid: None,
            max_payload: usize::MAX,
            idle: Vec::new(),
            get: None,
            post: None,
            probe: None,
            websocket: None,
        }
    }

    /// Starts the requests that can be sent now. Returns the WebSocket when the session can move to it.
    fn send_pending(&mut self, outbox: &mut Vec<Frame>) -> Option<WebSocket> {
        let idle = self.get.is_none() && self.post.is_none();
        if self.websocket.is_some() {
            return self.websocket.take_if(|_| idle);
        }
        if self.context.scenario.single_connection {
            if idle && outbox.is_empty() {
                self.get = Some(self.exchange(Method::GET, Bytes::new(), HeaderMap::new(), None));
            } else if idle {
                self.post = Some(self.post_fitting(outbox));
            }
            return None;
        }
        if self.get.is_none() {
            self.get = Some(self.exchange(Method::GET, Bytes::new(), HeaderMap::new(), None));
        }
        if self.post.is_none() && !outbox.is_empty() {
            self.post = Some(self.post_fitting(outbox));
        }
        None
    }

    /// Sends as many frames of the outbox as fit in a POST.
    fn post_fitting(&mut self, outbox: &mut Vec<Frame>) -> Exchange<'c> {
        let fitting = Frame::fitting(outbox, self.max_payload);
        let exchange = self.post(&outbox[..fitting]);
        outbox.drain(..fitting);
        exchange
    }

    /// Whether no request except the poll is pending.
    fn is_settled(&self) -> bool {
        self.post.is_none() && self.probe.is_none() && self.websocket.is_none()
    }

    fn post(&mut self, frames: &[Frame]) -> Exchange<'c> {
        let (body, binary) = Frame::payload(frames, self.context.scenario.protocol);
        let kind = if binary { "application/octet-stream" } else { "text/plain;charset=UTF-8" };
        let fields = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        let deadline = self.context.scenario.timeout;
        self.exchange(Method::POST, body.into(), fields.into_iter().collect(), Some(deadline))
    }

    /// Sends a request on an idle or a new connection. A poll has no deadline except that of the heartbeat.
    fn exchange(
        &mut self,
        method: Method,
        body: Bytes,
        mut fields: HeaderMap,
        deadline: Option<Duration>,
    ) -> Exchange<'c> {
        let path = path_and_query(self.context, "polling", self.sid.as_deref());
        fields.extend(self.cookies.headers());
        let now = Instant::now();
        self.idle.retain(|(_, until)| until.is_none_or(|until| now < until));
        let idle = self.idle.pop().map(|(http, _)| http);
        let dialer = self.dialer;
        let exchange = async move {
            let mut http = reuse_or_connect(idle, dialer).await?;
            let reply = http.send(method, &path, &fields, body).await?;
            Ok((reply, http))
        };
        let Some(deadline) = deadline else { return Box::pin(exchange) };
        Box::pin(async move {
            timeout(deadline, exchange).await.unwrap_or_else(|_| {
                let detail = format!("no reply to a POST within {deadline:?}");
                Err(Failure::new(ErrorKind::Timeout, detail))
            })
        })
    }

    /// Handles a reply, and returns the body of a successful one.
    fn receive(
        &mut self,
        (reply, http): (Reply, Http),
        session: &mut Session<'_>,
    ) -> Result<Bytes, TransportEnd> {
        note_node(&reply.headers, session);
        self.cookies.store(&reply.headers);
        if reply.status != StatusCode::OK {
            return Err(end_for_error_reply(&reply, session));
        }
        self.idle.push((http, usable_until(&reply.headers, Instant::now())));
        Ok(reply.body)
    }

    fn polled(
        &mut self,
        reply: (Reply, Http),
        session: &mut Session<'_>,
        outbox: &mut Vec<Frame>,
    ) -> Result<(), TransportEnd> {
        let body = self.receive(reply, session)?;
        let mut packets = Packet::from_payload(&body, session.protocol())?.into_iter();
        if self.sid.is_none() {
            let Some(Packet::Open(data)) = packets.next() else {
                return Err(Malformed("a handshake without an open packet").into());
            };
            let handshake = Handshake::parse(data)?;
            session.open(&handshake, outbox);
            self.start_session(handshake);
        }
        for packet in packets {
            session.receive(packet, outbox)?;
        }
        Ok(())
    }

    /// Starts the session, and the probe of a WebSocket if the client and the server support it.
    fn start_session(&mut self, handshake: Handshake) {
        let wants = self.context.scenario.client == ClientKind::PollingUpgrade;
        if wants && handshake.upgrades.iter().any(|transport| transport == "websocket") {
            let path = path_and_query(self.context, "websocket", Some(&handshake.sid));
            let (dialer, fields) = (self.dialer, self.cookies.headers());
            let deadline = self.context.scenario.timeout;
            self.probe = Some(Box::pin(async move {
                timeout(deadline, probe(dialer, &path, &fields)).await.unwrap_or_else(|_| {
                    Err(upgrade_failure(&format!("no answer to the upgrade within {deadline:?}"))
                        .into())
                })
            }));
        }
        self.max_payload = handshake.max_payload;
        self.sid = Some(handshake.sid);
    }

    /// After a failed probe, the session continues by polling, as in the real client.
    fn probed(
        &mut self,
        probed: Result<(WebSocket, HeaderMap), UpgradeError>,
        session: &mut Session<'_>,
    ) {
        match probed {
            Ok((socket, headers)) => {
                note_node(&headers, session);
                self.cookies.store(&headers);
                self.websocket = Some(socket);
            }
            Err(error) => {
                let failure = failure_of_upgrade(error, session);
                session.report(&failure);
            }
        }
    }

    /// Disconnects from the namespace and closes the session. Gives up after a timeout. A client with a single
    /// connection only closes that: its poll is pending.
    async fn close(&mut self, session: &Session<'_>) {
        if self.sid.is_none() || self.context.scenario.single_connection {
            return;
        }
        let left = session.is_connected().then(|| session.disconnect_packet());
        let closed = Frame::Text("1".to_owned());
        let said = async {
            if let Some(post) = self.post.take() {
                self.idle.push((post.await?.1, None));
            }
            // Two requests, as in the real client: some servers close the session before they read what came
            // with the close.
            for word in left.into_iter().chain([closed]) {
                let (_, http) = self.post(&[word]).await?;
                self.idle.push((http, None));
            }
            Ok::<_, Failure>(())
        };
        let _ = timeout(websocket::CLOSE_TIMEOUT, said).await;
    }
}

/// Returns how an error reply ends the session. A code 1 without a node name comes from the proxy: while the
/// session's node drains, the proxy asks the client to open a new session on another node.
fn end_for_error_reply(reply: &Reply, session: &Session<'_>) -> TransportEnd {
    let failure = failure_of_reply(reply);
    let asked = failure.kind == ErrorKind::Code1 && !reply.headers.contains_key(X_NODE);
    match asked && session.is_draining() {
        true => TransportEnd::Moved(failure),
        false => TransportEnd::Failed(failure),
    }
}

/// Opens a WebSocket for the session and checks it with a probe.
async fn probe(
    dialer: &Dialer,
    path: &str,
    fields: &HeaderMap,
) -> Result<(WebSocket, HeaderMap), UpgradeError> {
    let (mut socket, headers) = dialer.websocket(path, fields).await?;
    socket.send(Kind::Text, b"2probe").await?;
    match socket.next().await? {
        Message::Text(text) if text == "3probe" => Ok((socket, headers)),
        Message::Text(_) | Message::Binary(_) => {
            Err(upgrade_failure("the server did not answer 2probe with 3probe").into())
        }
        Message::Close(close_frame) => {
            Err(upgrade_failure(&format!("{close_frame} during the upgrade")).into())
        }
    }
}

fn upgrade_failure(detail: &str) -> Failure {
    Failure::new(ErrorKind::UpgradeRefused, detail)
}

/// Returns an idle connection that is still open, or a new one.
async fn reuse_or_connect(idle: Option<Http>, dialer: &Dialer) -> Result<Http, Failure> {
    if let Some(mut http) = idle
        && http.is_open().await
    {
        return Ok(http);
    }
    dialer.http().await
}

/// Returns until when an idle connection is safe to use, if the server sends `Keep-Alive: timeout=5`.
fn usable_until(headers: &HeaderMap, now: Instant) -> Option<Instant> {
    let hint = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = hint.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    let kept = Duration::from_secs(seconds.parse().ok()?);
    Some(now + kept.saturating_sub(KEEP_ALIVE_MARGIN))
}

/// Waits for the future in `slot` and removes it; waits forever if there is none.
async fn take_when_ready<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
