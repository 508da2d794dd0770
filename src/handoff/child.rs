//! The new process: receives the offer, prepares, accepts, and then follows the old process.

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
    BackendRecord, HANDOFF_VARIABLE, PROTOCOL, Predecessors, Secrets, Values,
    message::{FromNew, FromOld, SessionRecord},
    wire::Channel,
};
use crate::{
    net::inherited::InheritedSockets,
    shared::SharedState,
    sticky::{Learned, recent_sessions::ClientKey},
    upstream::{Backend, Lifecycle},
};

/// How long the old process may take to stop accepting.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the old process may take to end after its files are closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of the check whether the old process has ended.
const EXIT_CHECK: Duration = Duration::from_millis(10);

/// The channel to the old process before the first message.
#[derive(Debug)]
pub struct HandoffChannel(Channel);

/// A handoff in progress, in the new process.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    /// Process id of the old process.
    pid: u32,
    sockets: InheritedSockets,
    secrets: Secrets,
    backends: Vec<BackendRecord>,
    values: Values,
}

/// What a process starts with: nothing, sockets of a service manager, or the offer of an old process.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets.
    pub sockets: InheritedSockets,
    /// Keys.
    pub secrets: Secrets,
    /// Backends of the old process.
    pub backends: Vec<BackendRecord>,
    /// Other values of the old process.
    pub values: Values,
    /// Whether the process takes over from an old one: it accepts only when the sessions have arrived.
    pub takes_over: bool,
}

impl HandoffChannel {
    /// Returns the channel on standard input, if this process was started to take over. Standard input is
    /// empty afterwards. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The environment variable is set, but standard input is not a socket.
    pub fn from_stdin() -> io::Result<Option<Self>> {
        if env::var_os(HANDOFF_VARIABLE).is_none() {
            return Ok(None);
        }
        let wrong = |error: io::Error| {
            let text = format!(
                "{HANDOFF_VARIABLE} is set, but standard input is not the channel of an upgrade \
                 ({error}); unset it to start Moorline by hand"
            );
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

    /// Receives everything that is needed to prepare.
    ///
    /// # Errors
    /// The old process has ended, or uses another protocol version.
    pub async fn receive(self) -> io::Result<Takeover> {
        let Self(mut channel) = self;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        // If the old process has ended already, its messages may still be readable.
        let _ = channel.send(&FromNew::Hello { protocol: PROTOCOL, version }).await;
        let pid = match receive(&mut channel).await? {
            FromOld::Hello { protocol: PROTOCOL, pid, .. } => pid,
            FromOld::Hello { protocol, version, .. } => {
                let reason = format!(
                    "the running process is moorline {version} and uses version {protocol} of the \
                     upgrade protocol, this one version {PROTOCOL}; restart instead"
                );
                let _ = channel.send(&FromNew::Failed(reason.clone())).await;
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
            other => return Err(unexpected(&other)),
        };
        let mut takeover = Takeover {
            channel,
            pid,
            sockets: InheritedSockets::default(),
            secrets: Secrets::default(),
            backends: Vec::new(),
            values: Values::new(),
        };
        while takeover.receive_offer().await? {}
        Ok(takeover)
    }
}

impl Takeover {
    /// Receives one message of the offer; returns false after the last one.
    async fn receive_offer(&mut self) -> io::Result<bool> {
        let received = self.channel.receive().await?;
        match received.ok_or(io::ErrorKind::UnexpectedEof)? {
            (FromOld::Socket(purpose), Some(socket)) => self.sockets.push(purpose, socket),
            (FromOld::Keys(secrets), _) => self.secrets = secrets,
            (FromOld::Backend(backend), _) => self.backends.push(backend),
            (FromOld::Value(name, value), _) => self.values.push((name, value)),
            (FromOld::Offered, _) => return Ok(false),
            (other, _) => return Err(unexpected(&other)),
        }
        Ok(true)
    }

    /// Takes the received offer, for the control task.
    pub fn inheritance(&mut self) -> Inheritance {
        Inheritance {
            sockets: mem::take(&mut self.sockets),
            secrets: mem::take(&mut self.secrets),
            backends: self.backends.clone(),
            values: mem::take(&mut self.values),
            takes_over: true,
        }
    }

    /// Sends the old process why this one ends.
    pub async fn fail(mut self, reason: &str) {
        let _ = self.channel.send(&FromNew::Failed(reason.to_owned())).await;
    }

    /// Reports that everything that can fail is built; receives the sessions and the late values. If the old
    /// process has ended, this one serves without them: the owner search finds the sessions' backends.
    ///
    /// # Errors
    /// A message is invalid, or the old process lives and has closed the channel.
    pub async fn prepared(&mut self, proxy: &SharedState) -> io::Result<Values> {
        let mut names = BackendNames::new(&self.backends);
        let mut values = Values::new();
        let mut open = self.channel.send(&FromNew::Prepared).await.is_ok();
        while open {
            match self.channel.receive().await {
                Ok(Some((FromOld::Sessions(sessions), _))) => names.restore(sessions, proxy),
                Ok(Some((FromOld::Backend(backend), _))) => names.learn(backend),
                Ok(Some((FromOld::Value(name, value), _))) => values.push((name, value)),
                Ok(Some((FromOld::Transferred, _))) => return Ok(values),
                Ok(Some((other, _))) => return Err(unexpected(&other)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Ok(None) | Err(_) => open = false,
            }
        }
        self.wait_for_old_process().await?;
        tracing::error!(
            pid = self.pid,
            "the old process ended before it had sent its sessions; their backends are searched for"
        );
        Ok(values)
    }

    /// Reports that this process accepts; returns when the old one has stopped accepting.
    ///
    /// # Errors
    /// The old process lives and has closed the channel.
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
        match timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => self.wait_for_old_process().await,
            Err(_) => {
                let pid = self.pid;
                tracing::warn!(
                    pid,
                    "the old process does not report that it has stopped accepting; continuing"
                );
                Ok(())
            }
        }
    }

    /// Receives messages until the old process has ended, and forwards directives to it.
    pub async fn follow(mut self, proxy: Arc<SharedState>, predecessors: Predecessors) {
        let sender = self.channel.sender();
        tokio::select! {
            () = self.receive_state(&proxy, &predecessors) => {}
            () = predecessors.forward(sender) => {}
        }
        predecessors.end();
        tracing::info!(pid = self.pid, "the old process has ended");
    }

    async fn receive_state(&mut self, proxy: &SharedState, predecessors: &Predecessors) {
        let mut names = BackendNames::new(&self.backends);
        loop {
            match self.channel.receive().await {
                Ok(Some((FromOld::Sessions(sessions), _))) => names.restore(sessions, proxy),
                Ok(Some((FromOld::Backend(backend), _))) => names.learn(backend),
                Ok(Some((FromOld::Ended(ending), _))) => {
                    proxy.memory.learn(ending, Instant::now());
                }
                Ok(Some((FromOld::State(state), _))) => predecessors.set(state),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(
                        pid = self.pid,
                        %error,
                        "invalid message from the old process; its connections are no longer shown"
                    );
                    return;
                }
            }
        }
    }

    /// Waits for the end of the old process after the channel was closed.
    ///
    /// # Errors
    /// The old process lives: it has cancelled the upgrade.
    async fn wait_for_old_process(&self) -> io::Result<()> {
        let ended = async {
            while !has_ended(self.pid) {
                sleep(EXIT_CHECK).await;
            }
        };
        // A process closes its files some time before it has ended.
        if timeout(EXIT_TIMEOUT, ended).await.is_err() {
            let text =
                format!("process {} has cancelled this upgrade and continues to serve", self.pid);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
        }
        Ok(())
    }
}

/// Backends by their serials in the old process.
struct BackendNames {
    records: HashMap<u64, BackendRecord>,
    /// The same backends in this process; a reload may change them.
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

    /// Stores the sessions whose backends this process has.
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
        let backend = Arc::clone(all.find(|backend| record.identity.is(backend))?);
        self.found.insert(id, Arc::clone(&backend));
        Some(backend)
    }
}

/// Whether a process has ended. A zombie has ended.
fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    #[cfg(target_os = "linux")]
    if let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        let mut polled = [PollFd::new(&handle, PollFlags::IN)];
        return poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ended| ended > 0);
    }
    test_kill_process(pid) == Err(Errno::SRCH)
}

async fn receive(channel: &mut Channel) -> io::Result<FromOld> {
    let received = channel.receive().await?;
    Ok(received.ok_or(io::ErrorKind::UnexpectedEof)?.0)
}

fn unexpected(message: &FromOld) -> io::Error {
    // Do not show the message: it may contain a key.
    let text = match message {
        FromOld::Hello { .. } => "a second Hello",
        FromOld::Sessions(_) | FromOld::Transferred => "sessions before the offer has ended",
        _ => "a message out of order",
    };
    let text = format!("unexpected message from the old process: {text}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
