//! What stays of a client from one connection to the next, and the orders that it obeys.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{Context, Order, jar::Jar, pace};
use crate::{
    net::Dialer,
    scenario::ClientKind,
    stats::{ErrorKind, Failure},
};

/// One simulated user.
#[derive(Debug)]
pub(crate) struct User {
    /// Counts from 0.
    pub(crate) number: u32,
    /// Messages settled in this session so far, on all its connections: a session adds
    /// [`Talk::settled`](super::pace::Talk::settled) when its connection ends.
    pub(crate) said: u64,
    /// Its cookies.
    pub(crate) jar: Jar,
    /// What the course of the run wants.
    pub(crate) orders: Orders,
    /// Connects from this user's address, and resumes this user's TLS sessions.
    pub(crate) dialer: Dialer,
}

/// How a connection, or the attempt at one, ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All messages are settled and goodbye is said.
    Said,
    /// The course of the run ended it: with a goodbye where it says leave, with none where it says drop.
    Ordered {
        /// By what.
        by: Break,
        /// Whether there was a connection that was reported.
        connected: bool,
    },
    /// There was no connection yet.
    Failed {
        /// Why.
        failure: Failure,
        /// The node, where one had answered.
        node: Option<Box<str>>,
    },
    /// The server closed the connection, which was reported, and asked for another one.
    Moved {
        /// What it said.
        failure: Failure,
    },
    /// The connection, which was reported, is gone.
    Lost {
        /// Why.
        failure: Failure,
        /// Its node, where it is known.
        node: Option<Box<str>>,
    },
}

/// An order that ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Drop without a goodbye, and return at this time.
    Return(Instant),
    /// Say goodbye and end.
    Leave,
}

/// One client's view of what the course of the run wants.
#[derive(Debug)]
pub(crate) struct Orders {
    receiver: watch::Receiver<Order>,
    /// The last wave that the client has obeyed or that was before its time.
    wave: u32,
    /// The client's place in a spread of returns, in [0, 1).
    place: f64,
}

impl Orders {
    pub(crate) fn new(receiver: watch::Receiver<Order>, number: u32) -> Self {
        let wave = match *receiver.borrow() {
            Order::Drop { wave, .. } => wave,
            Order::Go | Order::Leave => 0,
        };
        Self { receiver, wave, place: pace::spread(number) }
    }

    /// Waits for an order to end the connection. Nothing is lost where the wait is given up.
    pub(crate) async fn next(&mut self) -> Break {
        loop {
            let order = *self.receiver.borrow_and_update();
            match order {
                Order::Leave => return Break::Leave,
                Order::Drop { wave, at, within } if wave > self.wave => {
                    sleep_until(at.into()).await;
                    self.wave = wave;
                    return Break::Return(at + within.mul_f64(self.place));
                }
                Order::Drop { .. } | Order::Go => {}
            }
            if self.receiver.changed().await.is_err() {
                return Break::Leave;
            }
        }
    }

    /// Makes a connection within the deadline, giving it up on an order.
    ///
    /// # Errors
    ///
    /// The end of the session that was to be.
    pub(crate) async fn attempt<T>(
        &mut self,
        deadline: Duration,
        connection: impl Future<Output = Result<T, End>>,
    ) -> Result<T, End> {
        tokio::select! {
            biased;
            made = timeout(deadline, connection) => made.unwrap_or_else(|_| {
                let detail = format!("no connection within {deadline:?}");
                Err(Failure::new(ErrorKind::Timeout, detail).into())
            }),
            by = self.next() => Err(End::Ordered { by, connected: false }),
        }
    }
}

impl User {
    pub(crate) fn new(context: &Context, number: u32) -> Self {
        let jar = Jar::new(context.scenario.cookies);
        let orders = Orders::new(context.orders.clone(), number);
        let dialer = context.connector.dialer(number);
        Self { number, said: 0, jar, orders, dialer }
    }

    /// Who takes this user's place.
    pub(crate) fn anew(self, context: &Context) -> Self {
        let next = Self::new(context, self.number);
        match context.scenario.client {
            // A bare connection has no session but that of TLS, and connecting again is its only use.
            ClientKind::Connect => Self { dialer: self.dialer, ..next },
            _ => next,
        }
    }

    /// Waits until `due`, or for an order, which is returned.
    pub(crate) async fn wait(&mut self, due: Instant) -> Option<Break> {
        tokio::select! {
            by = self.orders.next() => Some(by),
            () = sleep_until(due.into()) => None,
        }
    }
}

impl From<Failure> for End {
    /// A failure of an attempt, before any node has answered.
    fn from(failure: Failure) -> Self {
        Self::Failed { failure, node: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wave_drops_those_who_were_there_before_it_once() {
        let (sender, receiver) = watch::channel(Order::Go);
        let mut early = Orders::new(receiver.clone(), 1);
        let at = Instant::now();
        let within = Duration::from_secs(10);
        sender.send_replace(Order::Drop { wave: 1, at, within });
        let mut late = Orders::new(receiver, 1);
        assert_eq!(early.next().await, Break::Return(at + within.mul_f64(pace::spread(1))));
        sender.send_replace(Order::Leave);
        assert_eq!((early.next().await, late.next().await), (Break::Leave, Break::Leave));
    }

    #[tokio::test]
    async fn no_more_orders_mean_leave() {
        let (_, receiver) = watch::channel(Order::Go);
        assert_eq!(Orders::new(receiver, 1).next().await, Break::Leave);
    }
}
