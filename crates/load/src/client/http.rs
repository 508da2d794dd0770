//! Plain HTTP/1.1 requests over a kept-alive connection.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::{sleep_until, timeout};

use super::{Break, Context, End, User, pace::Talk, ws::node};
use crate::{
    net::{Http, Reply},
    stats::{ErrorKind, Failure, Seat},
};

/// Requests, one at a time, over one connection; over another where the server closes that between
/// two requests, as it may.
pub(crate) async fn session(context: &Context, user: &mut User, due: Instant) -> End {
    let http = match Box::pin(open(context, user)).await {
        Ok(http) => http,
        Err(end) => return end,
    };
    let mut client = Client {
        context,
        http,
        seat: Some(context.recorder.connected(None, due)),
        talk: Talk::new(
            &context.scenario.messages,
            user.said,
            user.number,
            context.grid(),
            Instant::now(),
        ),
        path: context.scenario.target.path_and_query(),
        node: None,
    };
    let end = client.run(user).await;
    user.said += client.talk.settled();
    context.recorder.unanswered(client.talk.unanswered());
    end
}

async fn open(context: &Context, user: &mut User) -> Result<Http, End> {
    let connection = async { user.dialer.http().await.map_err(End::from) };
    user.orders.attempt(context.scenario.timeout, connection).await
}

struct Client<'a> {
    context: &'a Context,
    http: Http,
    /// Empty between two connections.
    seat: Option<Seat>,
    talk: Talk,
    path: String,
    /// Of the last reply.
    node: Option<Box<str>>,
}

impl Client<'_> {
    async fn run(&mut self, user: &mut User) -> End {
        let mut fields = user.jar.fields();
        while !self.talk.done() {
            if let Some(by) = wait(self.talk.due(), pin!(user.orders.next())).await {
                return End::Ordered { by, connected: true };
            }
            if !self.http.is_open().await
                && let Err(end) = self.reopen(user).await
            {
                return end;
            }
            let number = self.talk.say();
            let asked = self.ask(&fields);
            let reply = tokio::select! {
                biased;
                reply = asked => reply,
                by = user.orders.next() => return End::Ordered { by, connected: true },
            };
            match reply {
                Ok(reply) => {
                    self.check(number, &reply);
                    user.jar.keep(&reply.headers);
                    fields = user.jar.fields();
                    self.node = node(&reply.headers);
                }
                Err(failure) => {
                    self.talk.give_up(Instant::now());
                    return End::Lost { failure, node: self.node.take() };
                }
            }
        }
        End::Said
    }

    async fn reopen(&mut self, user: &mut User) -> Result<(), End> {
        self.seat = None;
        let began = Instant::now();
        self.http = Box::pin(open(self.context, user)).await?;
        self.seat = Some(self.context.recorder.connected(None, began));
        Ok(())
    }

    async fn ask(&mut self, fields: &HeaderMap) -> Result<Reply, Failure> {
        let patience = self.context.scenario.timeout;
        let asked = self.http.send(Method::GET, &self.path, fields, Bytes::new());
        self.context.recorder.sent(0);
        timeout(patience, asked).await.unwrap_or_else(|_| {
            Err(Failure::new(ErrorKind::Timeout, format!("no reply within {patience:?}")))
        })
    }

    fn check(&mut self, number: u64, reply: &Reply) {
        let now = Instant::now();
        let recorder = &self.context.recorder;
        if !reply.status.is_success() {
            recorder.failed(&Failure::new(ErrorKind::Status, reply.clause()));
            self.talk.give_up(now);
        } else if let Some(intended) = self.talk.answered(number, now) {
            recorder.answered(intended, reply.body.len());
        }
    }
}

/// Waits until `due`, for ever where that is `None`; or for an order, which is returned.
pub(super) async fn wait(
    due: Option<Instant>,
    orders: Pin<&mut impl Future<Output = Break>>,
) -> Option<Break> {
    match due {
        None => Some(orders.await),
        // As fast as the server can: no timer, which would round up to the next millisecond.
        Some(due) if due <= Instant::now() => None,
        Some(due) => tokio::select! {
            by = orders => Some(by),
            () = sleep_until(due.into()) => None,
        },
    }
}
