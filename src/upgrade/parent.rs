//! The old process's side: it starts the new one, offers, waits for `Ready`, and tells on.

use std::{
    collections::HashSet,
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    process::Child,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    BackendRecord, Launch, PROTOCOL, SESSIONS, Secrets, Values,
    message::{FromNew, FromOld, SessionRecord},
    wire::Channel,
};
use crate::{
    admin::api::Predecessor,
    net::given::Purpose,
    sticky::{Cursor, Learned, Memory, Table},
    upstream::Backend,
};

/// How long a process that has failed may take to say why and to end; then it is killed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a message may take that nobody need wait for.
const TOLD: Duration = Duration::from_secs(5);

/// Endings of sessions that wait to be told.
const ENDINGS: usize = 4096;

/// Everything that is handed over, as it is at this moment.
pub struct Offer {
    /// How to start the new process.
    pub launch: Launch,
    /// The program in place of the launch's own.
    pub program: Option<PathBuf>,
    /// Deadline of its readiness.
    pub ready: Duration,
    /// Listening sockets.
    pub sockets: Vec<(Purpose, OwnedFd)>,
    /// Keys.
    pub secrets: Secrets,
    /// Live backends, those on their way out included.
    pub backends: Vec<Arc<Backend>>,
    /// What else is needed before the new configuration is put in force.
    pub values: Values,
    /// What else is to be remembered; asked for when the sessions are read.
    pub late: Box<dyn FnOnce() -> Values + Send + Sync>,
    /// The sessions.
    pub sids: Arc<Table>,
}

/// A process that has taken over: it accepts.
#[derive(Debug)]
pub struct Successor {
    pid: u32,
    child: Child,
    channel: Channel,
    learned: mpsc::Receiver<Learned>,
    told: HashSet<u64>,
}

/// Why there is no successor. The old process serves on.
#[derive(Debug)]
pub enum Failure {
    /// The program could not be started.
    Start(PathBuf, io::Error),
    /// It ended before it was ready.
    Ended(ExitStatus),
    /// It was not ready in time.
    Late(Duration),
    /// It says why it cannot.
    Refused(String),
    /// It speaks another protocol, or none.
    Foreign(String),
    /// The channel broke.
    Lost(io::Error),
}

/// A process that is killed unless it is kept.
struct Doomed(Option<Child>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(program, error) => {
                write!(f, "{} cannot be started: {error}", program.display())
            }
            Self::Ended(status) => {
                write!(f, "the new process ended with {status} before it was ready")
            }
            Self::Late(ready) => {
                write!(f, "the new process was not ready within {ready:?}, and was killed")
            }
            Self::Refused(why) => write!(f, "the new process gave up: {why}"),
            Self::Foreign(what) => write!(f, "the new process cannot take over: {what}"),
            Self::Lost(error) => write!(f, "the channel to the new process broke: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl Offer {
    /// Starts the new process and hands over to it. Dropping this ends the new process.
    ///
    /// # Errors
    /// Why it did not come to accept; it has ended by then.
    pub async fn make(self) -> Result<Successor, Failure> {
        let program = self.program.as_deref().unwrap_or(self.launch.program()).to_owned();
        let (mut channel, child) = self.start(&program).map_err(|e| Failure::Start(program, e))?;
        let mut child = Doomed(Some(child));
        // From before the table is read, so that nothing is missed in between.
        let mut learned = self.sids.tap();
        let mut told = HashSet::new();
        let ready = self.ready;
        let outcome = tokio::select! {
            biased;
            outcome = timeout(ready, self.converse(&mut channel, &mut told)) => {
                outcome.unwrap_or(Err(Failure::Late(ready)))
            }
            status = child.ended() => Err(Failure::Ended(status)),
        };
        match outcome {
            Ok(()) => match child.keep() {
                Some((pid, child)) => Ok(Successor { pid, child, channel, learned, told }),
                None => Err(Failure::Lost(io::ErrorKind::NotConnected.into())),
            },
            Err(failure) => {
                learned.close();
                Err(child.last_words(failure, &mut channel).await)
            }
        }
    }

    fn start(&self, program: &Path) -> io::Result<(Channel, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let channel = Channel::new(ours)?;
        Ok((channel, self.launch.start(program, theirs)?))
    }

    /// Everything up to the new process's readiness.
    async fn converse(self, channel: &mut Channel, told: &mut HashSet<u64>) -> Result<(), Failure> {
        self.offer(channel, told).await.map_err(Failure::Lost)?;
        tracing::info!("sockets are offered; the new process prepares");
        match hear(channel).await? {
            FromNew::Hello { protocol: PROTOCOL, .. } => {}
            FromNew::Hello { protocol, version } => return Err(foreign(protocol, &version)),
            other => return Err(unexpected(&other)),
        }
        match hear(channel).await? {
            FromNew::Prepared => {}
            other => return Err(unexpected(&other)),
        }
        transfer(&self.sids, self.late, channel, told).await.map_err(Failure::Lost)?;
        match hear(channel).await? {
            FromNew::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// What the new process needs to prepare.
    async fn offer(&self, channel: &mut Channel, told: &mut HashSet<u64>) -> io::Result<()> {
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        channel.send(&FromOld::Hello { protocol: PROTOCOL, pid, version }).await?;
        for (purpose, socket) in &self.sockets {
            channel.send_with(&FromOld::Socket(purpose.clone()), socket).await?;
        }
        channel.send(&FromOld::Keys(self.secrets.clone())).await?;
        for backend in &self.backends {
            told.insert(backend.serial());
            channel.send(&FromOld::Backend(BackendRecord::of(backend))).await?;
        }
        for (name, value) in &self.values {
            channel.send(&FromOld::Value(name.clone(), value.clone())).await?;
        }
        channel.send(&FromOld::Offered).await
    }
}

/// Sends the whole table, a slice at a time, and what else is to be remembered.
async fn transfer(
    sids: &Table,
    late: impl FnOnce() -> Values,
    channel: &mut Channel,
    told: &mut HashSet<u64>,
) -> io::Result<()> {
    let mut cursor = Cursor::default();
    let mut sessions = Vec::new();
    while let Some(slice) = sids.slice(&mut cursor, Instant::now()) {
        sessions.extend(slice);
        if sessions.len() >= SESSIONS {
            tell(std::mem::take(&mut sessions), channel, told).await?;
        }
    }
    tell(sessions, channel, told).await?;
    for (name, value) in late() {
        channel.send(&FromOld::Value(name, value)).await?;
    }
    channel.send(&FromOld::Transferred).await
}

/// Sends sessions, each after its backend.
async fn tell(
    sessions: Vec<Learned>,
    channel: &mut Channel,
    told: &mut HashSet<u64>,
) -> io::Result<()> {
    for Learned { backend, .. } in &sessions {
        if told.insert(backend.serial()) {
            channel.send(&FromOld::Backend(BackendRecord::of(backend))).await?;
        }
    }
    let sessions: Vec<_> = sessions.into_iter().map(SessionRecord::of).collect();
    match sessions.is_empty() {
        true => Ok(()),
        false => channel.send(&FromOld::Sessions(sessions)).await,
    }
}

async fn hear(channel: &mut Channel) -> Result<FromNew, Failure> {
    match channel.receive().await {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Failure::Foreign(error.to_string()))
        }
        Err(error) => Err(Failure::Lost(error)),
    }
}

fn foreign(protocol: u32, version: &str) -> Failure {
    Failure::Foreign(format!(
        "it is moorline {version} and speaks version {protocol} of upgrades, this process version \
         {PROTOCOL}; restart instead"
    ))
}

fn unexpected(message: &FromNew) -> Failure {
    match message {
        FromNew::Failed(why) => Failure::Refused(why.clone()),
        other => Failure::Foreign(format!("it says {other:?} out of turn")),
    }
}

impl Successor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it that this process accepts nothing any more.
    pub async fn release(&mut self) {
        let released = self.channel.send(&FromOld::Released);
        if !matches!(timeout(TOLD, released).await, Ok(Ok(()))) {
            tracing::warn!("the new process does not hear that this one has stopped accepting");
        }
    }

    /// Tells it on: what is learned late, whose session ends, and how far this process is. Ends when
    /// this process is `over`, with everything told, or with the new process; that one's end is reaped
    /// here.
    pub async fn keep_told(
        mut self,
        every: Duration,
        state: impl Fn() -> Vec<Predecessor>,
        memory: Arc<Memory>,
        mut over: oneshot::Receiver<()>,
    ) {
        let mut tick = tokio::time::interval(every);
        let (ended, mut endings) = mpsc::channel(ENDINGS);
        // One that finds no room is one that is not remembered.
        memory.tell(move |ending| {
            let _ = ended.try_send(ending);
        });
        let mut late = Vec::new();
        let broken = loop {
            tokio::select! {
                status = self.child.wait() => {
                    tracing::error!(pid = self.pid, ?status, "the process that took over has ended");
                    return;
                }
                count = self.learned.recv_many(&mut late, SESSIONS), if !self.learned.is_closed() => {
                    if count > 0
                        && let Err(error) =
                            tell(std::mem::take(&mut late), &mut self.channel, &mut self.told).await
                    {
                        break error;
                    }
                }
                _ = &mut over => {
                    self.learned.close();
                    while self.learned.recv_many(&mut late, SESSIONS).await > 0 {
                        let late = std::mem::take(&mut late);
                        if tell(late, &mut self.channel, &mut self.told).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Some(ending) = endings.recv() => {
                    if let Err(error) = self.channel.send(&FromOld::Ended(ending)).await {
                        break error;
                    }
                }
                _ = tick.tick() => {
                    if let Err(error) = self.channel.send(&FromOld::State(state())).await {
                        break error;
                    }
                }
            }
        };
        tracing::debug!(%broken, "the new process listens no more");
        let _ = self.child.wait().await;
    }
}

impl Doomed {
    async fn ended(&mut self) -> ExitStatus {
        match &mut self.0 {
            Some(child) => child.wait().await.unwrap_or_default(),
            None => std::future::pending().await,
        }
    }

    fn keep(mut self) -> Option<(u32, Child)> {
        let child = self.0.take()?;
        Some((child.id()?, child))
    }

    /// Ends the process, by its own will or by ours, and says what it had to say.
    async fn last_words(mut self, failure: Failure, channel: &mut Channel) -> Failure {
        let late = matches!(failure, Failure::Late(_));
        let failure = match failure {
            Failure::Ended(_) | Failure::Lost(_) => {
                let words = timeout(LAST_WORDS, async {
                    loop {
                        match hear(channel).await {
                            Ok(FromNew::Failed(why)) => return Some(why),
                            Ok(_) => {}
                            Err(_) => return None,
                        }
                    }
                });
                words.await.ok().flatten().map_or(failure, Failure::Refused)
            }
            other => other,
        };
        let Some(mut child) = self.0.take() else { return failure };
        let patience = if late { Duration::ZERO } else { LAST_WORDS };
        let status = match timeout(patience, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        match (failure, status) {
            (Failure::Lost(_), Ok(status)) => Failure::Ended(status),
            (failure, _) => failure,
        }
    }
}

impl Drop for Doomed {
    /// Reaped by the runtime.
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}
