//! The process that has taken over, as the old one sees it: it accepts, and is told on.

use std::{collections::HashSet, io, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{interval, timeout},
};

use super::{
    BackendDirective, PredecessorState, SESSIONS,
    message::{FromNew, FromOld},
    parent::{ChildGuard, tell},
    wire::Channel,
};
use crate::sticky::{Learned, RecentSessions};

/// How long a message may take that nobody need wait for.
const TOLD: Duration = Duration::from_secs(5);

/// Endings of sessions that wait to be told.
const ENDINGS: usize = 4096;

/// A process that has taken over: it accepts. Ended with this, unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct Successor {
    pid: u32,
    child: ChildGuard,
    line: SuccessorChannel,
}

/// What the two talk over.
#[derive(Debug)]
pub(super) struct SuccessorChannel {
    pub(super) channel: Channel,
    /// Sessions that are learned late.
    pub(super) learned: mpsc::Receiver<Learned>,
    /// Backends that it knows, by serial.
    pub(super) told: HashSet<u64>,
}

/// What it is told until this process is empty, and what it says to that.
pub struct SuccessorFeed<S> {
    /// How often it is told the state.
    pub every: Duration,
    /// How far this process is, and those before it.
    pub state: S,
    /// Where sessions' ends are heard of.
    pub memory: Arc<RecentSessions>,
    /// Where its orders go.
    pub directives: watch::Sender<Vec<BackendDirective>>,
    /// This process is empty.
    pub over: oneshot::Receiver<()>,
}

impl Successor {
    pub(super) fn new(pid: u32, child: ChildGuard, line: SuccessorChannel) -> Self {
        Self { pid, child, line }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// This process gives way to it: from now on it lives whatever happens here.
    pub fn keep(&mut self) {
        self.child.spare();
    }

    /// Tells it that this process accepts nothing any more.
    pub async fn release(&mut self) {
        let released = self.line.channel.send(&FromOld::Released);
        if !matches!(timeout(TOLD, released).await, Ok(Ok(()))) {
            tracing::warn!("the new process does not hear that this one has stopped accepting");
        }
    }

    /// Tells it on: what is learned late, whose session ends, and how far this process is. Ends when
    /// this process is over, with everything told, or with the new process; that one's end is reaped
    /// here.
    pub async fn keep_told(self, telling: SuccessorFeed<impl Fn() -> PredecessorState>) {
        let Self { pid, mut child, mut line } = self;
        let outcome = tokio::select! {
            status = child.ended() => {
                tracing::error!(pid, %status, "the process that took over has ended");
                return;
            }
            outcome = line.tell_on(telling) => outcome,
        };
        if let Err(broken) = outcome {
            tracing::debug!(%broken, "the new process listens no more");
            child.ended().await;
        }
    }
}

impl SuccessorChannel {
    async fn tell_on(
        &mut self,
        mut telling: SuccessorFeed<impl Fn() -> PredecessorState>,
    ) -> io::Result<()> {
        let mut tick = interval(telling.every);
        let (ended, mut endings) = mpsc::channel(ENDINGS);
        // One that finds no room is one that is not remembered.
        telling.memory.set_listener(move |ending| {
            let _ = ended.try_send(ending);
        });
        let mut late = Vec::new();
        loop {
            tokio::select! {
                said = self.channel.receive() => match said? {
                    Some((FromNew::Directives(directives), _)) => drop(telling.directives.send_replace(directives)),
                    Some(_) => {}
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                count = self.learned.recv_many(&mut late, SESSIONS), if !self.learned.is_closed() => {
                    if count > 0 {
                        self.tell(&mut late).await?;
                    }
                }
                Some(ending) = endings.recv() => self.channel.send(&FromOld::Ended(ending)).await?,
                _ = tick.tick() => self.channel.send(&FromOld::State((telling.state)())).await?,
                _ = &mut telling.over => break,
            }
        }
        self.learned.close();
        while self.learned.recv_many(&mut late, SESSIONS).await > 0 {
            self.tell(&mut late).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, late: &mut Vec<Learned>) -> io::Result<()> {
        tell(mem::take(late), &mut self.channel, &mut self.told).await
    }
}
