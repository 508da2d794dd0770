//! The new process, from the time when it accepts: the old process sends it sessions and its own state.

use std::{collections::HashSet, io, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{interval, timeout},
};

use super::{
    BackendDirective, PredecessorState, SESSIONS,
    message::{FromNew, FromOld},
    parent::{ChildGuard, send_sessions},
    wire::Channel,
};
use crate::sticky::{Learned, RecentSessions};

/// Timeout of the `Released` message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of ended sessions that wait to be sent.
const ENDINGS: usize = 4096;

/// A process that has taken over and accepts connections. Dropping this kills the process, unless
/// [`keep`](Self::keep) was called.
#[derive(Debug)]
pub struct Successor {
    pid: u32,
    child: ChildGuard,
    link: SuccessorChannel,
}

/// The channel to the new process.
#[derive(Debug)]
pub(super) struct SuccessorChannel {
    pub(super) channel: Channel,
    /// Sessions that were learned after the table was read.
    pub(super) learned: mpsc::Receiver<Learned>,
    /// Backends that were sent to the new process, by serial.
    pub(super) sent_backends: HashSet<u64>,
}

/// What is exchanged with the new process until this one has no connections left.
pub struct SuccessorFeed<S> {
    /// Interval between two states.
    pub interval: Duration,
    /// Returns the state of this process and its predecessors.
    pub state: S,
    /// Reports the sessions that end.
    pub memory: Arc<RecentSessions>,
    /// Receives the directives of the new process.
    pub directives: watch::Sender<Vec<BackendDirective>>,
    /// Resolves when this process has no connections left.
    pub ended: oneshot::Receiver<()>,
}

impl Successor {
    pub(super) fn new(pid: u32, child: ChildGuard, link: SuccessorChannel) -> Self {
        Self { pid, child, link }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the new process run even if this one ends.
    pub fn keep(&mut self) {
        self.child.keep();
    }

    /// Sends the new process that this one accepts no more connections.
    pub async fn release(&mut self) {
        let released = self.link.channel.send(&FromOld::Released);
        if !matches!(timeout(SEND_TIMEOUT, released).await, Ok(Ok(()))) {
            tracing::warn!(
                "cannot notify the new process that this one has stopped accepting; the new process \
                 continues without"
            );
        }
    }

    /// Sends new sessions, ended sessions and the state, and receives directives. Returns when everything is
    /// sent after `feed.ended`, or when the new process has ended.
    pub async fn run(self, feed: SuccessorFeed<impl Fn() -> PredecessorState>) {
        let Self { pid, mut child, mut link } = self;
        let outcome = tokio::select! {
            status = child.ended() => {
                tracing::error!(pid, %status, "the process that took over has ended");
                return;
            }
            outcome = link.exchange(feed) => outcome,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the new process has closed the channel");
            child.ended().await;
        }
    }
}

impl SuccessorChannel {
    async fn exchange(
        &mut self,
        mut feed: SuccessorFeed<impl Fn() -> PredecessorState>,
    ) -> io::Result<()> {
        let mut tick = interval(feed.interval);
        let (sender, mut endings) = mpsc::channel(ENDINGS);
        // If the channel is full, the new process does not learn of the end.
        feed.memory.set_listener(move |ending| {
            let _ = sender.try_send(ending);
        });
        let mut sessions = Vec::new();
        loop {
            tokio::select! {
                message = self.channel.receive() => match message? {
                    Some((FromNew::Directives(directives), _)) => drop(feed.directives.send_replace(directives)),
                    Some(_) => {}
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                count = self.learned.recv_many(&mut sessions, SESSIONS), if !self.learned.is_closed() => {
                    if count > 0 {
                        self.send(&mut sessions).await?;
                    }
                }
                Some(ending) = endings.recv() => self.channel.send(&FromOld::Ended(ending)).await?,
                _ = tick.tick() => self.channel.send(&FromOld::State((feed.state)())).await?,
                _ = &mut feed.ended => break,
            }
        }
        self.learned.close();
        while self.learned.recv_many(&mut sessions, SESSIONS).await > 0 {
            self.send(&mut sessions).await?;
        }
        Ok(())
    }

    async fn send(&mut self, sessions: &mut Vec<Learned>) -> io::Result<()> {
        send_sessions(mem::take(sessions), &mut self.channel, &mut self.sent_backends).await
    }
}
