//! One request, from its head to its reply: validate, route, choose a backend, send, answer.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    time::Instant,
};

use http::{Method, StatusCode};
use moorline_http::{BodyLength, FieldId, RequestHead};

use super::{
    affinity::Destination,
    arrival::{Arrival, RequestState, RequestTraits, Stopped, arrive},
    attempt::{AttemptOutcome, RequestAttempt},
    client::ClientSide,
    connection::{self, Answered, ConnectionInfo, Flow},
    cookie,
    deliver::Delivery,
    inspect::inspect,
    local_reply::{DeferredReply, ReplySource},
    opened_request::answered,
    reply::{self, OwnReply},
    session_detect::{self, OpenDetection},
    streamed::StreamedDelivery,
    tunnel_start, waiting, websocket,
};
use crate::{
    error::{FailureKind, Phase, ProxyError},
    gateway::{BodyCopy, InvalidRequest, LocalReply, ResponseBodyChange, ResponseStep},
    shared::SharedState,
    upstream::Backend,
};

/// A request that is being served.
pub(super) type Handling<'a> = Pin<Box<dyn Future<Output = Flow> + Send + 'a>>;

/// Serves one request. Turns every failure into a reply.
///
/// The future is on the heap: a connection that waits for requests must not hold the state of one.
pub(super) fn handle<'a>(
    proxy: &'a SharedState,
    info: &'a ConnectionInfo,
    client: &'a mut ClientSide,
    request: RequestHead,
) -> Handling<'a> {
    let traits = RequestTraits::of(&request);
    client.begin(&request, traits.half_close(&request));
    let is_head = request.method == Method::HEAD;
    let keeps = traits.keeps && info.keeps_connections();
    match arrive(proxy, info, request, traits) {
        Ok(arrival) => start(arrival, client),
        // A refused request may have a body.
        Err(stopped) => match *stopped {
            Stopped::Refused(refused) => refused.answer(client, (is_head, keeps)),
            Stopped::Paused(paused) => Box::pin(waiting::serve(paused, client, (is_head, keeps))),
        },
    }
}

/// Serves a request that has its destination, or answers it with a stale response that another task renews.
pub(super) fn start<'a>(mut arrival: Arrival<'a>, client: &'a mut ClientSide) -> Handling<'a> {
    let stale = arrival.state.response.as_mut().and_then(|filters| filters.take_stale());
    match stale {
        None if arrival.outgoing.changes_body() => Box::pin(serve_changed(arrival, client)),
        None => Box::pin(serve(arrival, client)),
        Some(reply) => Box::pin(async move {
            let step = arrival.answer_with(reply);
            arrival.conclude(client, step).await
        }),
    }
}

/// The step after an outcome that is not the delivery of a response.
enum Step {
    /// Read the beginning of a handshake's response, which may open a session.
    Detect(Box<AttemptOutcome>, OpenDetection),
    /// Change the body of a response as a whole.
    Change(Box<(AttemptOutcome, ResponseBodyChange, Option<Box<BodyCopy>>)>),
    /// Deliver a response whose body is changed piece by piece.
    Stream(Box<StreamedDelivery>),
    /// Start the tunnel.
    Tunnel(Box<AttemptOutcome>),
    /// Deliver a stored response piece by piece.
    Stored(Box<LocalReply>, Answered),
    /// Answer with a reply of the proxy.
    Reply(Box<OwnReply>, Answered),
    /// Nothing more.
    Done(Flow),
}

/// Sends the request to its destination and answers it. The arrival is much of what a held poll costs.
fn serve<'a>(
    mut arrival: Arrival<'a>,
    client: &'a mut ClientSide,
) -> impl Future<Output = Flow> + Send {
    async move {
        let destination = mem::replace(&mut arrival.destination, Destination::Balanced);
        let outcome = arrival.attempt(client).run(destination).await;
        // Each wait holds only what it needs.
        let step = 'step: {
            let mut delivery = match arrival.react(client, outcome) {
                Ok(delivery) => delivery,
                Err(step) => break 'step step,
            };
            let outgoing = &mut arrival.outgoing;
            return poll_fn(|cx| delivery.poll(cx, client, outgoing)).await;
        };
        Box::pin(arrival.conclude(client, step)).await
    }
}

/// Changes the body of the request, and serves it then.
async fn serve_changed(mut arrival: Arrival<'_>, client: &mut ClientSide) -> Flow {
    arrival.state.scope.enter(Phase::RequestBody);
    let pause = arrival.state.timeouts().body_idle;
    let memory = &arrival.state.proxy.body_memory;
    match Box::pin(arrival.outgoing.change_body(client, pause, memory)).await {
        Ok(()) => serve(arrival, client).await,
        Err(invalid) => {
            let InvalidRequest { error, report } = *invalid;
            arrival.state.reply_context.describe(report);
            let step = arrival.fail(client, &error);
            arrival.conclude(client, step).await
        }
    }
}

impl<'p> Arrival<'p> {
    fn attempt<'a>(&'a mut self, client: &'a mut ClientSide) -> RequestAttempt<'a, 'p> {
        let Self { state, outgoing, from, .. } = self;
        RequestAttempt { state, outgoing, client, from, fresh: false, bound: false }
    }

    /// Decides what follows from the outcome of sending: usually a delivery.
    fn react(
        &mut self,
        client: &mut ClientSide,
        outcome: Result<AttemptOutcome, ProxyError>,
    ) -> Result<Delivery, Step> {
        let reached = outcome.map_err(|error| self.fail(client, &error))?;
        let head = &reached.answer.head;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let accept = self.accept.as_deref().unwrap_or_default();
            return match websocket::check(&head.head, accept) {
                Ok(()) => self.answer(client, reached, None),
                Err(error) => Err(self.fail(client, &error)),
            };
        }
        let handshake =
            self.state.is_polling_handshake() && self.state.pool.config().sticky.engine_io;
        match OpenDetection::of(head).filter(|_| handshake) {
            Some(detection) => Err(Step::Detect(Box::new(reached), detection)),
            None => self.answer(client, reached, None),
        }
    }

    /// Does the steps that few requests need.
    async fn conclude(&mut self, client: &mut ClientSide, mut step: Step) -> Flow {
        loop {
            step = match step {
                Step::Detect(mut reached, detection) => {
                    let learned = self.state.learn_session(client, &mut reached, detection).await;
                    match self.proceed(client, (*reached, None), learned).await {
                        Ok(flow) => return flow,
                        Err(step) => step,
                    }
                }
                Step::Change(begun) => {
                    let (mut reached, change, mut copy) = *begun;
                    let change = (change, &mut copy);
                    let changed = self.change_response(client, &mut reached, change).await;
                    match self.proceed(client, (reached, copy), changed).await {
                        Ok(flow) => return flow,
                        Err(step) => step,
                    }
                }
                Step::Stream(mut delivery) => {
                    let outgoing = &mut self.outgoing;
                    return poll_fn(|cx| delivery.poll(cx, client, Some(outgoing))).await;
                }
                Step::Tunnel(reached) => {
                    return tunnel_start::tunnel(&mut self.state, client, *reached).await;
                }
                Step::Stored(reply, answered) => {
                    let state = &mut self.state;
                    let stored = DeferredReply {
                        scope: state.scope.take(),
                        context: state.reply_context.take(),
                        filters: state.response.take(),
                        source: ReplySource::Ready(reply),
                    };
                    return Box::pin(stored.answer(client, answered)).await;
                }
                Step::Reply(reply, answered) => {
                    return connection::answer(client, *reply, answered).await;
                }
                Step::Done(flow) => return flow,
            }
        }
    }

    /// Delivers a response after a step with its body.
    async fn proceed(
        &mut self,
        client: &mut ClientSide,
        (reached, copy): (AttemptOutcome, Option<Box<BodyCopy>>),
        done: Result<(), ProxyError>,
    ) -> Result<Flow, Step> {
        done.map_err(|error| self.fail(client, &error))?;
        let mut delivery = self.answer(client, reached, copy)?;
        let outgoing = &mut self.outgoing;
        Ok(poll_fn(|cx| delivery.poll(cx, client, outgoing)).await)
    }

    /// Begins to answer the client with the response of the backend. `copy`: a copy for the cache that has begun.
    fn answer(
        &mut self,
        client: &mut ClientSide,
        mut reached: AttemptOutcome,
        mut copy: Option<Box<BodyCopy>>,
    ) -> Result<Delivery, Step> {
        let Self { state, outgoing, .. } = self;
        let status = reached.answer.head.status;
        if matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::OK)
            && let Some(returning) = state.returning.take()
        {
            returning.succeeded();
        }
        let head = &mut reached.answer.head;
        // Before fields are added: a response must not remove them by naming them in `Connection`.
        head.strip_hop_by_hop();
        if let Some(filters) = &mut state.response {
            match filters.take_cache().map(|ticket| ticket.respond(head)) {
                Some(ResponseStep::Replace(reply)) => return Err(self.replace(reached, reply)),
                Some(ResponseStep::Copy(begun)) => copy = Some(begun),
                Some(ResponseStep::Deliver) | None => {}
            }
            if let Some(change) = filters.begin(head) {
                return Err(Step::Change(Box::new((reached, change, copy))));
            }
            filters.apply(head);
        }
        let status = head.status;
        let backend = reached.answer.lease.backend();
        let facts = (state.engine.as_ref(), &state.method, state.upgrade);
        if cookie::is_set_by_reply(&state.pool, facts, status) {
            state.affinity.name(&state.pool, backend, &mut head.head);
        }
        state.scope.record().status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Step::Tunnel(Box::new(reached)));
        }
        if reached.unknown {
            state.reply_context.allow_origin(&mut head.head);
        }
        if head.head.has(FieldId::ContentEncoding) {
            state.scope.disable_close_scan();
        }
        if outgoing.closes_session() && status == StatusCode::OK {
            state.session_closed(backend);
        }
        state.scope.enter(Phase::ResponseBody);
        let timeouts = state.timeouts();
        let pause = match state.long_poll || session_detect::is_event_stream(head) {
            true => timeouts.stream_idle,
            false => Some(timeouts.body_idle),
        };
        let keeps = state.keeps && state.info.keeps_connections();
        let filter = state.response.as_ref().and_then(|filters| {
            let length = head.length();
            filters.body(head, length)
        });
        let scope = state.scope.take();
        if filter.is_some() || copy.is_some() {
            let (answer, how) = (reached.answer, (filter, copy));
            let delivery =
                StreamedDelivery::of_backend(client, outgoing, scope, answer, how, (keeps, pause));
            return Err(Step::Stream(Box::new(delivery)));
        }
        let begun = Delivery::begin(client, outgoing, scope, reached.answer, (keeps, pause));
        begun.map_err(|failed| {
            let (scope, error) = *failed;
            self.state.scope = scope;
            self.refuse(&error)
        })
    }

    /// Answers the client with a failure, unless it has left.
    fn fail(&mut self, client: &ClientSide, error: &ProxyError) -> Step {
        let scope = &mut self.state.scope;
        scope.received(self.outgoing.bytes());
        if client.has_left {
            scope.take().client_lost(FailureKind::Incomplete);
            return Step::Done(Flow::Drop);
        }
        let ticket = self.state.response.as_mut().and_then(|filters| filters.take_cache());
        match ticket.and_then(|ticket| ticket.fail()) {
            Some(reply) => self.answer_with(reply),
            None => self.refuse(error),
        }
    }

    /// Answers the client with a stored response instead of that of the backend.
    fn replace(&mut self, reached: AttemptOutcome, reply: LocalReply) -> Step {
        let answer = reached.answer;
        // A response without a body has been read; any other one is in the way.
        if answer.head.length() == BodyLength::Exactly(0) && answer.input.is_none() {
            answer.lease.give_back(self.outgoing.is_written());
        }
        self.answer_with(reply)
    }

    /// Answers the client with a reply that is made here.
    fn answer_with(&mut self, mut reply: LocalReply) -> Step {
        let state = &mut self.state;
        state.scope.received(self.outgoing.bytes());
        let transforms = state.response.as_ref().is_some_and(|filters| filters.transforms());
        if reply.is_large() || transforms {
            return Step::Stored(Box::new(reply), self.answered());
        }
        if let Some(filters) = &state.response {
            filters.apply_local(&mut reply);
        }
        let id = state.scope.record().id().to_owned();
        let reply = answered(state.scope.take(), reply::local(reply, &id));
        Step::Reply(Box::new(reply), self.answered())
    }

    /// Answers the client with an error reply.
    fn refuse(&mut self, error: &ProxyError) -> Step {
        let state = &mut self.state;
        let reply = reply::refuse(state.scope.take(), error, &state.reply_context);
        Step::Reply(Box::new(reply), self.answered())
    }

    /// The request, for a reply that is made here.
    fn answered(&self) -> Answered {
        let state = &self.state;
        Answered {
            is_head: state.method == Method::HEAD,
            keeps: state.keeps && state.info.keeps_connections(),
            unread: !self.outgoing.has_read_all(),
        }
    }
}

impl RequestState<'_> {
    /// Reads the sid in the response to a handshake, and stores its backend before the client sees the reply: the
    /// client may send its next request before the reply is complete.
    async fn learn_session(
        &mut self,
        client: &mut ClientSide,
        reached: &mut AttemptOutcome,
        detection: OpenDetection,
    ) -> Result<(), ProxyError> {
        let answer = &mut reached.answer;
        let pause = self.timeouts().body_idle;
        let inspected =
            inspect(answer, client, pause, |_, body, complete| detection.decide(body, complete));
        let opened = match inspected.await {
            Ok(opened) => opened,
            Err(error) => {
                answer.lease.aborted(&self.proxy.metrics);
                return Err(error);
            }
        };
        if let Some(opened) = opened {
            let (backend, now) = (answer.lease.backend(), Instant::now());
            self.proxy.sids.learn_from(self.opener(), &opened.sid, backend, opened.lifetime, now);
            self.bind(&opened.sid);
            if let Some(place) = self.response.as_mut().and_then(|filters| filters.opens_session())
            {
                self.proxy.engine_paths.learn(place);
            }
            reached.reserved = None;
        }
        Ok(())
    }

    /// Binds a session to the identity of this request.
    pub(super) fn bind(&self, sid: &str) {
        let identity = self.response.as_ref().and_then(|response| response.request_identity());
        if let Some(identity) = identity.filter(|identity| !identity.is_bound) {
            let pool = self.pool.upstream.name();
            self.proxy.auth.identities.bind(pool, sid, &identity.bound);
        }
    }

    /// Records that the request's body has closed the polling session.
    fn session_closed(&self, backend: &Backend) {
        let sid = self.engine.as_ref().and_then(|engine| engine.sid.as_deref());
        self.proxy.sids.close(self.pool.upstream.name(), sid.unwrap_or_default());
        if let Some(key) = self.client_key {
            self.proxy.memory.record(key, backend.tag(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F>(_: impl Fn(Arrival<'a>, &'a mut ClientSide) -> F) -> usize {
        size_of::<F>()
    }

    /// Much of what a held poll costs.
    #[test]
    fn a_request_that_waits_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 1168, "{bytes} bytes");
    }
}
