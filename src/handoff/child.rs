//! The new process's side: it takes what it is offered, prepares, accepts, and listens on.

use std::{
    collections::HashMap,
    env, io, mem,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs,
    io::Errno,
    net::AddressFamily,
    process::{Pid, test_kill_process},
};
use tokio::time::{sleep, timeout};

use super::{
    BackendRecord, HANDED, PROTOCOL, Predecessors, Secrets, Values,
    message::{FromNew, FromOld, SessionRecord},
    wire::Channel,
};
use crate::{
    net::inherited::InheritedSockets,
    shared::SharedState,
    sticky::{Learned, recent_sessions::ClientKey},
    upstream::{Backend, Lifecycle},
};

/// How long the old process may take to stop accepting. It has nothing to wait for.
const RELEASE: Duration = Duration::from_secs(5);

/// How long a process may take to be dead once its files are closed.
const DYING: Duration = Duration::from_secs(2);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A channel to the process before this one, over which nothing was said yet.
#[derive(Debug)]
pub struct HandoffChannel(Channel);

/// A process that is about to take over.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    /// The old process.
    pid: u32,
    given: InheritedSockets,
    secrets: Secrets,
    backends: Vec<BackendRecord>,
    values: Values,
}

/// What a process begins with: nothing, what a service manager passed, or what another process has
/// handed over.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets.
    pub given: InheritedSockets,
    /// Keys.
    pub secrets: Secrets,
    /// Backends that lived in the old process.
    pub backends: Vec<BackendRecord>,
    /// What else there is.
    pub values: Values,
    /// Whether it is not to accept until it is told to.
    pub holds: bool,
}

impl HandoffChannel {
    /// The channel on standard input, where this process was started to take over. Standard input
    /// is empty from then on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The variable is set, and standard input is no socket.
    pub fn from_stdin() -> io::Result<Option<Self>> {
        if env::var_os(HANDED).is_none() {
            return Ok(None);
        }
        let wrong = |error: io::Error| {
            let text = format!("{HANDED} is set, and standard input is no channel: {error}");
            io::Error::new(error.kind(), text)
        };
        let input = io::stdin();
        let family = rustix::net::sockopt::socket_domain(input.as_fd());
        if family.map_err(|error| wrong(error.into()))? != AddressFamily::UNIX {
            return Err(wrong(io::ErrorKind::InvalidInput.into()));
        }
        let socket = UnixStream::from(input.as_fd().try_clone_to_owned().map_err(wrong)?);
        let nothing = fs::open("/dev/null", fs::OFlags::RDONLY, fs::Mode::empty())?;
        rustix::stdio::dup2_stdin(&nothing)?;
        Ok(Some(Self(Channel::new(socket).map_err(wrong)?)))
    }

    /// Takes everything that is needed to prepare.
    ///
    /// # Errors
    /// The old process is gone, or speaks another protocol.
    pub async fn receive(self) -> io::Result<Takeover> {
        let Self(mut channel) = self;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        // Where the other one is gone already, its words may still be there.
        let _ = channel.send(&FromNew::Hello { protocol: PROTOCOL, version }).await;
        let pid = match hear(&mut channel).await? {
            FromOld::Hello { protocol: PROTOCOL, pid, .. } => pid,
            FromOld::Hello { protocol, version, .. } => {
                let why = format!(
                    "the running process is moorline {version} and speaks version {protocol} of \
                     upgrades, this one version {PROTOCOL}; restart instead"
                );
                let _ = channel.send(&FromNew::Failed(why.clone())).await;
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            other => return Err(unexpected(&other)),
        };
        let mut joining = Takeover {
            channel,
            pid,
            given: InheritedSockets::default(),
            secrets: Secrets::default(),
            backends: Vec::new(),
            values: Values::new(),
        };
        while joining.take().await? {}
        Ok(joining)
    }
}

impl Takeover {
    /// Takes one message; false after the last.
    async fn take(&mut self) -> io::Result<bool> {
        let received = self.channel.receive().await?;
        match received.ok_or(io::ErrorKind::UnexpectedEof)? {
            (FromOld::Socket(purpose), Some(socket)) => self.given.push(purpose, socket),
            (FromOld::Keys(secrets), _) => self.secrets = secrets,
            (FromOld::Backend(backend), _) => self.backends.push(backend),
            (FromOld::Value(name, value), _) => self.values.push((name, value)),
            (FromOld::Offered, _) => return Ok(false),
            (other, _) => return Err(unexpected(&other)),
        }
        Ok(true)
    }

    /// Takes out what the control task begins with.
    pub fn inheritance(&mut self) -> Inheritance {
        Inheritance {
            given: mem::take(&mut self.given),
            secrets: mem::take(&mut self.secrets),
            backends: self.backends.clone(),
            values: mem::take(&mut self.values),
            holds: true,
        }
    }

    /// Tells the old process why this one gives up.
    pub async fn give_up(mut self, why: &str) {
        let _ = self.channel.send(&FromNew::Failed(why.to_owned())).await;
    }

    /// Everything that can fail has been done: takes the sessions, and what else there is. Where the
    /// old process is dead by now, this one serves without them; their owners are found by asking.
    ///
    /// # Errors
    /// What comes is not what should, or the old process lives and has given this one up.
    pub async fn prepared(&mut self, proxy: &SharedState) -> io::Result<Values> {
        let mut names = BackendNames::new(&self.backends);
        let mut values = Values::new();
        let mut there = self.channel.send(&FromNew::Prepared).await.is_ok();
        while there {
            match self.channel.receive().await {
                Ok(Some((FromOld::Sessions(sessions), _))) => names.restore(sessions, proxy),
                Ok(Some((FromOld::Backend(backend), _))) => names.learn(backend),
                Ok(Some((FromOld::Value(name, value), _))) => values.push((name, value)),
                Ok(Some((FromOld::Transferred, _))) => return Ok(values),
                Ok(Some((other, _))) => return Err(unexpected(&other)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Ok(None) | Err(_) => there = false,
            }
        }
        self.orphaned().await?;
        tracing::error!(pid = self.pid, "the old process died before its sessions were here");
        Ok(values)
    }

    /// This process accepts: returns once the old one does not any more.
    ///
    /// # Errors
    /// The old process lives and has given this one up.
    pub async fn ready(&mut self) -> io::Result<()> {
        let released = async {
            self.channel.send(&FromNew::Ready).await?;
            loop {
                match self.channel.receive().await? {
                    Some((FromOld::Released, _)) => return Ok(()),
                    Some(_) => {}
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            }
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.orphaned().await,
            Err(_) => {
                let pid = self.pid;
                tracing::warn!(pid, "the old process does not say that it has stopped accepting");
                Ok(())
            }
        }
    }

    /// Listens until the old process is empty, and passes on to it what is ordered.
    pub async fn follow(mut self, proxy: Arc<SharedState>, shown: Predecessors) {
        let sender = self.channel.sender();
        tokio::select! {
            () = self.listen(&proxy, &shown) => {}
            () = shown.pass_on(sender) => {}
        }
        shown.end();
        tracing::info!(pid = self.pid, "the old process has ended");
    }

    async fn listen(&mut self, proxy: &SharedState, shown: &Predecessors) {
        let mut names = BackendNames::new(&self.backends);
        loop {
            match self.channel.receive().await {
                Ok(Some((FromOld::Sessions(sessions), _))) => names.restore(sessions, proxy),
                Ok(Some((FromOld::Backend(backend), _))) => names.learn(backend),
                Ok(Some((FromOld::Ended(ending), _))) => {
                    proxy.memory.learn(ending, Instant::now());
                }
                Ok(Some((FromOld::State(state), _))) => shown.set(state),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "the old process is not understood");
                    return;
                }
            }
        }
    }

    /// The channel is closed: by the old process's death, or because that one has given this one up
    /// and ended whom it had started, which need not be this very process.
    async fn orphaned(&self) -> io::Result<()> {
        let gone = async {
            while !has_ended(self.pid) {
                sleep(LOOK).await;
            }
        };
        // A process that dies closes its files somewhat before it is dead.
        if timeout(DYING, gone).await.is_err() {
            let text = format!("process {} has given this upgrade up, and serves on", self.pid);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
        }
        Ok(())
    }
}

/// Backends by their numbers in the old process.
struct BackendNames {
    records: HashMap<u64, BackendRecord>,
    /// Those that this process has; a reload may change that.
    found: HashMap<u64, Arc<Backend>>,
}

impl BackendNames {
    fn new(records: &[BackendRecord]) -> Self {
        let records = records.iter().map(|record| (record.id, record.clone())).collect();
        Self { records, found: HashMap::new() }
    }

    fn learn(&mut self, record: BackendRecord) {
        self.records.insert(record.id, record);
    }

    /// Remembers sessions whose backends this process has, too.
    fn restore(&mut self, sessions: Vec<SessionRecord>, proxy: &SharedState) {
        let now = Instant::now();
        for SessionRecord(id, sid, left, lifetime, client) in sessions {
            let Some(backend) = self.backend(id, proxy) else { continue };
            let [left, lifetime] = [left, lifetime].map(Duration::from_millis);
            let client = client.map(ClientKey::from_bits);
            proxy.sids.restore(&Learned { sid, backend, lifetime, left, client }, now);
        }
    }

    fn backend(&mut self, id: u64, proxy: &SharedState) -> Option<Arc<Backend>> {
        if let Some(backend) =
            self.found.get(&id).filter(|backend| backend.lifecycle() != Lifecycle::Evicted)
        {
            return Some(Arc::clone(backend));
        }
        let record = self.records.get(&id)?;
        let snapshot = proxy.snapshot.load();
        let mut all = snapshot.pools.iter().flat_map(|pool| pool.holders(0));
        let backend = Arc::clone(all.find(|backend| record.who.is(backend))?);
        self.found.insert(id, Arc::clone(&backend));
        Some(backend)
    }
}

/// Whether a process runs no more. One that nobody has waited for yet runs no more, either.
fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    #[cfg(target_os = "linux")]
    if let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        let mut polled = [PollFd::new(&handle, PollFlags::IN)];
        return poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ended| ended > 0);
    }
    test_kill_process(pid) == Err(Errno::SRCH)
}

async fn hear(channel: &mut Channel) -> io::Result<FromOld> {
    let received = channel.receive().await?;
    Ok(received.ok_or(io::ErrorKind::UnexpectedEof)?.0)
}

fn unexpected(message: &FromOld) -> io::Error {
    // Its content may be a secret.
    let text = match message {
        FromOld::Hello { .. } => "it greets twice",
        FromOld::Sessions(_) | FromOld::Transferred => "sessions come before they can be taken",
        _ => "it speaks out of turn",
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("the old process is not understood: {text}"))
}
