//! State of a client that outlives its connections, and the commands that it receives.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use super::{ClientCommand, Context, cookies::CookieJar, pace};
use crate::{
    net::Dialer,
    scenario::ClientKind,
    stats::{ErrorKind, Failure},
};

/// One virtual user.
#[derive(Debug)]
pub(crate) struct User {
    /// Number of the client, from 0.
    pub(crate) number: u32,
    /// Messages settled in this session so far, on all its connections. At its end, a connection adds
    /// [`MessageTracker::settled`](super::pace::MessageTracker::settled).
    pub(crate) settled: u64,
    /// Its cookies.
    pub(crate) cookies: CookieJar,
    /// Commands of the run.
    pub(crate) commands: CommandReceiver,
    /// Connects from this user's address, and resumes this user's TLS sessions.
    pub(crate) dialer: Dialer,
}

/// How a connection or an attempt ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// All messages are settled and the connection is closed.
    Completed,
    /// The run ended it: with a proper close if the client stops, without if the client drops.
    Interrupted {
        /// The command.
        by: Interruption,
        /// Whether a connection was reported.
        connected: bool,
    },
    /// The attempt failed: there was no connection.
    Failed {
        /// Reason.
        failure: Failure,
        /// The node, if one has answered.
        node: Option<Box<str>>,
    },
    /// The server closed the reported connection and asked the client to reconnect.
    Moved {
        /// The Close or reply of the server.
        failure: Failure,
    },
    /// The reported connection is lost.
    Lost {
        /// Reason.
        failure: Failure,
        /// The node, if known.
        node: Option<Box<str>>,
    },
}

/// A command that ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Drop without a close, and reconnect at this time.
    Reconnect(Instant),
    /// Close and end.
    Stop,
}

/// Receives the commands to one client.
#[derive(Debug)]
pub(crate) struct CommandReceiver {
    receiver: watch::Receiver<ClientCommand>,
    /// Last wave that the client has executed, or that started before the client.
    wave: u32,
    /// Position of the client when reconnects are spread, in [0, 1).
    position: f64,
}

impl CommandReceiver {
    pub(crate) fn new(receiver: watch::Receiver<ClientCommand>, number: u32) -> Self {
        let wave = match *receiver.borrow() {
            ClientCommand::Drop { wave, .. } => wave,
            ClientCommand::Run | ClientCommand::Stop => 0,
        };
        Self { receiver, wave, position: pace::spread(number) }
    }

    /// Waits for a command that ends the connection. Cancel safe.
    pub(crate) async fn next(&mut self) -> Interruption {
        loop {
            let command = *self.receiver.borrow_and_update();
            match command {
                ClientCommand::Stop => return Interruption::Stop,
                ClientCommand::Drop { wave, at, within } if wave > self.wave => {
                    sleep_until(at.into()).await;
                    self.wave = wave;
                    return Interruption::Reconnect(at + within.mul_f64(self.position));
                }
                ClientCommand::Drop { .. } | ClientCommand::Run => {}
            }
            if self.receiver.changed().await.is_err() {
                return Interruption::Stop;
            }
        }
    }

    /// Connects within the deadline, and stops if a command comes.
    ///
    /// # Errors
    ///
    /// How the session ended before it began.
    pub(crate) async fn attempt<T>(
        &mut self,
        deadline: Duration,
        connection: impl Future<Output = Result<T, SessionEnd>>,
    ) -> Result<T, SessionEnd> {
        tokio::select! {
            biased;
            result = timeout(deadline, connection) => result.unwrap_or_else(|_| {
                let detail = format!("no connection within {deadline:?}");
                Err(Failure::new(ErrorKind::Timeout, detail).into())
            }),
            by = self.next() => Err(SessionEnd::Interrupted { by, connected: false }),
        }
    }
}

impl User {
    pub(crate) fn new(context: &Context, number: u32) -> Self {
        let cookies = CookieJar::new(context.scenario.cookies);
        let commands = CommandReceiver::new(context.commands.clone(), number);
        let dialer = context.connector.dialer(number);
        Self { number, settled: 0, cookies, commands, dialer }
    }

    /// Returns the user that replaces this one.
    pub(crate) fn replacement(self, context: &Context) -> Self {
        let next = Self::new(context, self.number);
        match context.scenario.client {
            // The only session of a bare connection is the TLS session, which the next connection resumes.
            ClientKind::Connect => Self { dialer: self.dialer, ..next },
            _ => next,
        }
    }

    /// Waits until `due`, or for a command, which is returned.
    pub(crate) async fn wait(&mut self, due: Instant) -> Option<Interruption> {
        tokio::select! {
            by = self.commands.next() => Some(by),
            () = sleep_until(due.into()) => None,
        }
    }
}

impl From<Failure> for SessionEnd {
    /// A failed attempt, before any node has answered.
    fn from(failure: Failure) -> Self {
        Self::Failed { failure, node: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wave_drops_earlier_clients_once() {
        let (sender, receiver) = watch::channel(ClientCommand::Run);
        let mut early = CommandReceiver::new(receiver.clone(), 1);
        let at = Instant::now();
        let within = Duration::from_secs(10);
        sender.send_replace(ClientCommand::Drop { wave: 1, at, within });
        let mut late = CommandReceiver::new(receiver, 1);
        assert_eq!(
            early.next().await,
            Interruption::Reconnect(at + within.mul_f64(pace::spread(1)))
        );
        sender.send_replace(ClientCommand::Stop);
        assert_eq!(
            (early.next().await, late.next().await),
            (Interruption::Stop, Interruption::Stop)
        );
    }

    #[tokio::test]
    async fn closed_channel_means_stop() {
        let (_, receiver) = watch::channel(ClientCommand::Run);
        assert_eq!(CommandReceiver::new(receiver, 1).next().await, Interruption::Stop);
    }
}
