//! Plain HTTP/1.1 requests over a persistent connection.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::{sleep_until, timeout};

use super::{Context, Interruption, SessionEnd, User, pace::MessageTracker, ws::node};
use crate::{
    net::{Http, Reply},
    stats::{ConnectedGuard, ErrorKind, Failure},
};

/// Sends requests one at a time over one connection, and opens a new one if the server closes it between two
/// requests.
pub(crate) async fn run(context: &Context, user: &mut User, due: Instant) -> SessionEnd {
    let http = match Box::pin(open(context, user)).await {
        Ok(http) => http,
        Err(end) => return end,
    };
    let mut client = Client {
        context,
        http,
        connected_guard: Some(context.recorder.connected(None, due)),
        tracker: MessageTracker::new(
            &context.scenario.messages,
            user.settled,
            user.number,
            context.grid(),
            Instant::now(),
        ),
        path: context.scenario.target.path_and_query(),
        node: None,
    };
    let end = client.run(user).await;
    user.settled += client.tracker.settled();
    context.recorder.unanswered(client.tracker.unanswered());
    end
}

async fn open(context: &Context, user: &mut User) -> Result<Http, SessionEnd> {
    let connection = async { user.dialer.http().await.map_err(SessionEnd::from) };
    user.commands.attempt(context.scenario.timeout, connection).await
}

struct Client<'a> {
    context: &'a Context,
    http: Http,
    /// `None` between two connections.
    connected_guard: Option<ConnectedGuard>,
    tracker: MessageTracker,
    path: String,
    /// Node of the last reply.
    node: Option<Box<str>>,
}

impl Client<'_> {
    async fn run(&mut self, user: &mut User) -> SessionEnd {
        let mut headers = user.cookies.headers();
        while !self.tracker.is_done() {
            if let Some(end) = self.wait(user).await {
                return end;
            }
            if !self.http.is_open().await
                && let Err(end) = self.reopen(user).await
            {
                return end;
            }
            let number = self.tracker.record_sent();
            let request = self.request(&headers);
            let reply = tokio::select! {
                biased;
                reply = request => reply,
                by = user.commands.next() => return SessionEnd::Interrupted { by, connected: true },
            };
            match reply {
                Ok(reply) => {
                    self.check(number, &reply);
                    user.cookies.store(&reply.headers);
                    headers = user.cookies.headers();
                    self.node = node(&reply.headers);
                }
                Err(failure) => {
                    self.tracker.give_up(Instant::now());
                    return SessionEnd::Lost { failure, node: self.node.take() };
                }
            }
        }
        SessionEnd::Completed
    }

    /// Waits until the next request is due; returns the end of the session if that comes first.
    async fn wait(&mut self, user: &mut User) -> Option<SessionEnd> {
        let due = self.tracker.due();
        let commands = pin!(user.commands.next());
        tokio::select! {
            biased;
            by = wait_until(due, commands) => {
                by.map(|by| SessionEnd::Interrupted { by, connected: true })
            }
            // A client that only stays does not open another connection.
            failure = self.http.closed(), if due.is_none() => {
                Some(SessionEnd::Lost { failure, node: self.node.take() })
            }
        }
    }

    async fn reopen(&mut self, user: &mut User) -> Result<(), SessionEnd> {
        self.connected_guard = None;
        let due = Instant::now();
        self.http = Box::pin(open(self.context, user)).await?;
        self.connected_guard = Some(self.context.recorder.connected(None, due));
        Ok(())
    }

    async fn request(&mut self, headers: &HeaderMap) -> Result<Reply, Failure> {
        let limit = self.context.scenario.timeout;
        let rate = self.context.scenario.read_rate;
        let request = self.http.send_and_read(Method::GET, &self.path, headers, Bytes::new(), rate);
        self.context.recorder.sent(0);
        if rate.is_some() {
            // A slow reader takes as long as its reply is.
            return request.await;
        }
        timeout(limit, request).await.unwrap_or_else(|_| {
            Err(Failure::new(ErrorKind::Timeout, format!("no reply within {limit:?}")))
        })
    }

    fn check(&mut self, number: u64, reply: &Reply) {
        let now = Instant::now();
        let recorder = &self.context.recorder;
        if !reply.status.is_success() {
            recorder.failed(&Failure::new(ErrorKind::Status, reply.description()));
            self.tracker.give_up(now);
        } else if let Some(intended) = self.tracker.answered(number, now) {
            recorder.answered(intended, reply.body.len());
        }
    }
}

/// Waits until `due` (forever if `None`) or for a command, which is returned.
pub(super) async fn wait_until(
    due: Option<Instant>,
    commands: Pin<&mut impl Future<Output = Interruption>>,
) -> Option<Interruption> {
    match due {
        None => Some(commands.await),
        // No timer: it would round up to the next millisecond.
        Some(due) if due <= Instant::now() => None,
        Some(due) => tokio::select! {
            by = commands => Some(by),
            () = sleep_until(due.into()) => None,
        },
    }
}
