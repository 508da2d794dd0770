//! A session over polling, and its upgrade to WebSocket where the client is of that kind.
//!
//! As the real client does it: one GET is always pending, one POST at a time carries what is to be
//! said, and the probe of a WebSocket runs beside them. When the probe was answered, no GET follows
//! the one that is pending, which the server then ends; only then does the session move.

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
    Break, Context, Conversation, Stop, User, X_NODE, not_upgraded, note_node, path_and_query,
    refused, websocket,
};
use crate::{
    client::jar::Jar,
    net::{Dialer, Http, Kind, Message, Reply, UpgradeError, WebSocket},
    scenario::ClientKind,
    stats::{ErrorKind, Failure},
    wire::{
        Malformed,
        engine_io::{Frame, Handshake, Packet},
    },
};

/// Frames that may wait for a POST before nothing more is said.
const MOST_WAITING: usize = 64;
/// How long before a server may end an idle connection it is not used any more.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A request on its way.
type Exchange<'c> = Pin<Box<dyn Future<Output = Result<(Reply, Http), Failure>> + Send + 'c>>;
/// A WebSocket on its way to take over.
type Probe<'c> =
    Pin<Box<dyn Future<Output = Result<(WebSocket, HeaderMap), UpgradeError>> + Send + 'c>>;

/// One client's requests.
struct Requests<'c> {
    context: &'c Context,
    dialer: &'c Dialer,
    jar: &'c mut Jar,
    sid: Option<String>,
    /// Bytes that a POST may have.
    max_payload: usize,
    /// Connections that wait for their next request, and until when they may be used.
    idle: Vec<(Http, Option<Instant>)>,
    get: Option<Exchange<'c>>,
    post: Option<Exchange<'c>>,
    probe: Option<Probe<'c>>,
    /// The WebSocket that takes over as soon as no request is on its way.
    successor: Option<WebSocket>,
}

/// What came of waiting.
enum Event {
    Polled(Result<(Reply, Http), Failure>),
    Posted(Result<(Reply, Http), Failure>),
    Probed(Result<(WebSocket, HeaderMap), UpgradeError>),
    Ordered(Break),
    Time,
}

/// Talks until the session moves to the WebSocket that is returned, or stops. What is left in the
/// outbox is to be sent there.
pub(super) async fn converse(
    context: &Context,
    user: &mut User,
    conversation: &mut Conversation<'_>,
    outbox: &mut Vec<Frame>,
) -> Result<WebSocket, Stop> {
    let User { orders, dialer, jar, .. } = user;
    let mut requests = Requests::new(context, dialer, jar);
    let mut ordered = pin!(orders.next());
    let mut timer = pin!(sleep_until(conversation.wake().into()));
    loop {
        let next = conversation.turn(outbox.len() > MOST_WAITING, outbox)?;
        if let Some(socket) = requests.proceed(outbox) {
            return moved(socket, context, conversation).await;
        }
        if conversation.is_done() && outbox.is_empty() && requests.is_settled() {
            requests.goodbye(conversation).await;
            return Err(Stop::Said);
        }
        if let Some(wake) = next {
            timer.as_mut().reset(wake.into());
        }
        let event = tokio::select! {
            biased;
            reply = taken(&mut requests.get) => Event::Polled(reply),
            reply = taken(&mut requests.post) => Event::Posted(reply),
            probed = taken(&mut requests.probe) => Event::Probed(probed),
            by = &mut ordered => Event::Ordered(by),
            () = &mut timer, if next.is_some() => Event::Time,
            () = yield_now(), if next.is_none() => Event::Time,
        };
        match event {
            Event::Polled(reply) => requests.polled(reply?, conversation, outbox)?,
            Event::Posted(reply) => {
                requests.receive(reply?, conversation)?;
            }
            Event::Probed(probed) => requests.probed(probed, conversation),
            Event::Ordered(by) => {
                if by == Break::Leave {
                    requests.goodbye(conversation).await;
                }
                return Err(Stop::Ordered(by));
            }
            Event::Time => {}
        }
    }
}

/// Tells the server that the WebSocket takes over.
async fn moved(
    mut socket: WebSocket,
    context: &Context,
    conversation: &Conversation<'_>,
) -> Result<WebSocket, Stop> {
    let mut upgrade = vec![Frame::Text("5".to_owned())];
    websocket::send(&mut socket, &mut upgrade, conversation.protocol()).await?;
    context.recorder.upgraded();
    Ok(socket)
}

impl<'c> Requests<'c> {
    fn new(context: &'c Context, dialer: &'c Dialer, jar: &'c mut Jar) -> Self {
        Self {
            context,
            dialer,
            jar,
            sid: None,
            max_payload: usize::MAX,
            idle: Vec::new(),
            get: None,
            post: None,
            probe: None,
            successor: None,
        }
    }

    /// Sends what can be sent now; returns the WebSocket when it is its turn.
    fn proceed(&mut self, outbox: &mut Vec<Frame>) -> Option<WebSocket> {
        let idle = self.get.is_none() && self.post.is_none();
        if self.successor.is_some() {
            return self.successor.take_if(|_| idle);
        }
        if self.get.is_none() {
            self.get = Some(self.exchange(Method::GET, Bytes::new(), HeaderMap::new(), None));
        }
        if self.post.is_none() && !outbox.is_empty() {
            let fitting = Frame::fitting(outbox, self.max_payload);
            self.post = Some(self.post(&outbox[..fitting]));
            outbox.drain(..fitting);
        }
        None
    }

    /// Whether only the pending poll is on its way.
    fn is_settled(&self) -> bool {
        self.post.is_none() && self.probe.is_none() && self.successor.is_none()
    }

    fn post(&mut self, frames: &[Frame]) -> Exchange<'c> {
        let (body, binary) = Frame::payload(frames, self.context.scenario.protocol);
        let kind = if binary { "application/octet-stream" } else { "text/plain;charset=UTF-8" };
        let fields = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        let deadline = self.context.scenario.timeout;
        self.exchange(Method::POST, body.into(), fields.into_iter().collect(), Some(deadline))
    }

    /// A request on an idle connection or a new one. A poll has no deadline but the heartbeat's.
    fn exchange(
        &mut self,
        method: Method,
        body: Bytes,
        mut fields: HeaderMap,
        deadline: Option<Duration>,
    ) -> Exchange<'c> {
        let path = path_and_query(self.context, "polling", self.sid.as_deref());
        fields.extend(self.jar.fields());
        let now = Instant::now();
        self.idle.retain(|(_, until)| until.is_none_or(|until| now < until));
        let idle = self.idle.pop().map(|(http, _)| http);
        let dialer = self.dialer;
        let exchange = async move {
            let mut http = reopened(idle, dialer).await?;
            let reply = http.send(method, &path, &fields, body).await?;
            Ok((reply, http))
        };
        let Some(deadline) = deadline else { return Box::pin(exchange) };
        Box::pin(async move {
            timeout(deadline, exchange).await.unwrap_or_else(|_| {
                let clause = format!("no reply to a POST within {deadline:?}");
                Err(Failure::new(ErrorKind::Timeout, clause))
            })
        })
    }

    /// A reply came: its body, where it is a success.
    fn receive(
        &mut self,
        (reply, http): (Reply, Http),
        conversation: &mut Conversation<'_>,
    ) -> Result<Bytes, Stop> {
        note_node(&reply.headers, conversation);
        self.jar.keep(&reply.headers);
        if reply.status != StatusCode::OK {
            return Err(rejected(&reply, conversation));
        }
        self.idle.push((http, usable_until(&reply.headers, Instant::now())));
        Ok(reply.body)
    }

    fn polled(
        &mut self,
        reply: (Reply, Http),
        conversation: &mut Conversation<'_>,
        outbox: &mut Vec<Frame>,
    ) -> Result<(), Stop> {
        let body = self.receive(reply, conversation)?;
        let mut packets = Packet::from_payload(&body, conversation.protocol())?.into_iter();
        if self.sid.is_none() {
            let Some(Packet::Open(data)) = packets.next() else {
                return Err(Malformed("a handshake without an open packet").into());
            };
            let handshake = Handshake::parse(data)?;
            conversation.open(&handshake, outbox);
            self.begin(handshake);
        }
        for packet in packets {
            conversation.receive(packet, outbox)?;
        }
        Ok(())
    }

    /// The session is open: polls, and probes the better transport if it wants and may.
    fn begin(&mut self, handshake: Handshake) {
        let wants = self.context.scenario.client == ClientKind::PollingUpgrade;
        if wants && handshake.upgrades.iter().any(|transport| transport == "websocket") {
            let path = path_and_query(self.context, "websocket", Some(&handshake.sid));
            let (dialer, fields) = (self.dialer, self.jar.fields());
            let deadline = self.context.scenario.timeout;
            self.probe = Some(Box::pin(async move {
                timeout(deadline, probe(dialer, &path, &fields)).await.unwrap_or_else(|_| {
                    Err(unanswered(&format!("no answer to the upgrade within {deadline:?}")).into())
                })
            }));
        }
        self.max_payload = handshake.max_payload;
        self.sid = Some(handshake.sid);
    }

    /// Where the probe failed, the session goes on as it is, as the real client's does.
    fn probed(
        &mut self,
        probed: Result<(WebSocket, HeaderMap), UpgradeError>,
        conversation: &mut Conversation<'_>,
    ) {
        match probed {
            Ok((socket, headers)) => {
                note_node(&headers, conversation);
                self.jar.keep(&headers);
                self.successor = Some(socket);
            }
            Err(error) => {
                let failure = not_upgraded(error, conversation);
                conversation.report(&failure);
            }
        }
    }

    /// Leaves the namespace and closes the session. A server that takes no leave is left alone.
    async fn goodbye(&mut self, conversation: &Conversation<'_>) {
        if self.sid.is_none() {
            return;
        }
        let left = conversation.is_connected().then(|| conversation.goodbye());
        let closed = Frame::Text("1".to_owned());
        let said = async {
            if let Some(post) = self.post.take() {
                self.idle.push((post.await?.1, None));
            }
            // One after the other, as the real client does: servers close a session before they look
            // at what came with the close.
            for word in left.into_iter().chain([closed]) {
                let (_, http) = self.post(&[word]).await?;
                self.idle.push((http, None));
            }
            Ok::<_, Failure>(())
        };
        let _ = timeout(websocket::GOODBYE, said).await;
    }
}

/// What an unsuccessful reply means for the session. A code 1 that no node has signed is the proxy's own:
/// while the session's node drains, it asks the client to open a new session elsewhere.
fn rejected(reply: &Reply, conversation: &Conversation<'_>) -> Stop {
    let failure = refused(reply);
    let asked = failure.kind == ErrorKind::Code1 && !reply.headers.contains_key(X_NODE);
    match asked && conversation.drains() {
        true => Stop::Moved(failure),
        false => Stop::Failed(failure),
    }
}

/// Connects with the session's id and asks whether the way is good.
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
            Err(unanswered("the server answered 2probe with something else than 3probe").into())
        }
        Message::Close(closure) => Err(unanswered(&format!("{closure} amid the upgrade")).into()),
    }
}

fn unanswered(clause: &str) -> Failure {
    Failure::new(ErrorKind::UpgradeRefused, clause)
}

/// An idle connection that is still open, or a new one.
async fn reopened(idle: Option<Http>, dialer: &Dialer) -> Result<Http, Failure> {
    if let Some(mut http) = idle
        && http.is_open().await
    {
        return Ok(http);
    }
    dialer.http().await
}

/// Until when a server that says `Keep-Alive: timeout=5` surely keeps an idle connection.
fn usable_until(headers: &HeaderMap, now: Instant) -> Option<Instant> {
    let hint = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = hint.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    let kept = Duration::from_secs(seconds.parse().ok()?);
    Some(now + kept.saturating_sub(KEEP_ALIVE_MARGIN))
}

/// Waits for what is there, and takes it away when it is done; for ever where there is nothing.
async fn taken<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => pending().await,
    }
}
