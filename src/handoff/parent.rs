//! The old process's side until the new one accepts: it starts it, offers, and waits for `Ready`.

use std::{
    collections::HashSet,
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{process::Child, time::timeout};

use super::{
    BackendRecord, Launch, PROTOCOL, SESSIONS, Secrets, Successor, Values,
    message::{FromNew, FromOld, SessionRecord},
    successor::SuccessorChannel,
    wire::Channel,
};
use crate::{
    net::inherited::Purpose,
    sticky::{Cursor, Learned, SessionTable},
    upstream::Backend,
};

/// How long a process that has failed may take to say why and to end; then it is killed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Everything that is handed over, as it is at this moment.
pub struct HandoffOffer {
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
    pub sids: Arc<SessionTable>,
}

/// Why there is no successor. The old process serves on.
#[derive(Debug)]
pub enum HandoffError {
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

/// A process that is killed unless it is spared.
#[derive(Debug)]
pub(super) struct ChildGuard {
    child: Child,
    spared: bool,
}

impl fmt::Display for HandoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(program, error) => {
                let advice = match error.kind() {
                    io::ErrorKind::NotFound => "; install the new binary there, or give its path",
                    io::ErrorKind::PermissionDenied => {
                        "; name a file that this user may execute (`chmod +x`)"
                    }
                    _ => "",
                };
                write!(f, "{} cannot be started: {error}{advice}", program.display())
            }
            Self::Ended(status) => {
                write!(
                    f,
                    "the new process ended with {status} before it was ready; check that the binary is \
                     Moorline (`BINARY version`), and see the log for the messages of the new process"
                )
            }
            Self::Late(ready) => {
                write!(
                    f,
                    "the new process was not ready within {ready:?}, and was killed; see the log, or raise `ready` in `[upgrade]`"
                )
            }
            Self::Refused(why) => write!(f, "the new process gave up: {why}"),
            Self::Foreign(what) => write!(f, "the new process cannot take over: {what}"),
            Self::Lost(error) => write!(f, "the channel to the new process broke: {error}"),
        }
    }
}

impl std::error::Error for HandoffError {}

impl HandoffOffer {
    /// Starts the new process and hands over to it. Dropping this, or the outcome before that is
    /// [kept](Successor::keep), ends the new process.
    ///
    /// # Errors
    /// Why it did not come to accept; it has ended by then.
    pub async fn make(self) -> Result<Successor, HandoffError> {
        let program = self.program.as_deref().unwrap_or(self.launch.program()).to_owned();
        let (mut channel, child) =
            self.start(&program).map_err(|e| HandoffError::Start(program, e))?;
        let mut child = ChildGuard { child, spared: false };
        // From before the table is read, so that nothing is missed in between.
        let mut learned = self.sids.tap();
        let mut told = HashSet::new();
        let ready = self.ready;
        let outcome = tokio::select! {
            biased;
            outcome = timeout(ready, self.converse(&mut channel, &mut told)) => {
                outcome.unwrap_or(Err(HandoffError::Late(ready)))
            }
            status = child.ended() => Err(HandoffError::Ended(status)),
        };
        match outcome {
            Ok(()) => match child.child.id() {
                Some(pid) => {
                    Ok(Successor::new(pid, child, SuccessorChannel { channel, learned, told }))
                }
                None => Err(HandoffError::Lost(io::ErrorKind::NotConnected.into())),
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
    async fn converse(
        self,
        channel: &mut Channel,
        told: &mut HashSet<u64>,
    ) -> Result<(), HandoffError> {
        self.offer(channel, told).await.map_err(HandoffError::Lost)?;
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
        transfer(&self.sids, self.late, channel, told).await.map_err(HandoffError::Lost)?;
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
    sids: &SessionTable,
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
pub(super) async fn tell(
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

async fn hear(channel: &mut Channel) -> Result<FromNew, HandoffError> {
    match channel.receive().await {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(HandoffError::Lost(io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(HandoffError::Foreign(error.to_string()))
        }
        Err(error) => Err(HandoffError::Lost(error)),
    }
}

fn foreign(protocol: u32, version: &str) -> HandoffError {
    HandoffError::Foreign(format!(
        "it is moorline {version} and speaks version {protocol} of upgrades, this process version \
         {PROTOCOL}; restart instead"
    ))
}

fn unexpected(message: &FromNew) -> HandoffError {
    match message {
        FromNew::Failed(why) => HandoffError::Refused(why.clone()),
        other => HandoffError::Foreign(format!("it says {other:?} out of turn")),
    }
}

impl ChildGuard {
    /// It is to live on.
    pub(super) fn spare(&mut self) {
        self.spared = true;
    }

    /// How it has ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap_or_default()
    }

    /// Ends the process, by its own will or by ours, and says what it had to say.
    async fn last_words(mut self, failure: HandoffError, channel: &mut Channel) -> HandoffError {
        let late = matches!(failure, HandoffError::Late(_));
        let failure = match failure {
            HandoffError::Ended(_) | HandoffError::Lost(_) => {
                let words = timeout(LAST_WORDS, async {
                    loop {
                        match hear(channel).await {
                            Ok(FromNew::Failed(why)) => return Some(why),
                            Ok(_) => {}
                            Err(_) => return None,
                        }
                    }
                });
                words.await.ok().flatten().map_or(failure, HandoffError::Refused)
            }
            other => other,
        };
        let patience = if late { Duration::ZERO } else { LAST_WORDS };
        let status = match timeout(patience, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        match (failure, status) {
            (HandoffError::Lost(_), Ok(status)) => HandoffError::Ended(status),
            (failure, _) => failure,
        }
    }
}

impl Drop for ChildGuard {
    /// Reaped by the runtime.
    fn drop(&mut self) {
        if !self.spared {
            // An error means that it has ended already.
            let _ = self.child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::SessionsConfig;

    /// What takes over from this process and never ends.
    async fn successor(folder: &Path) -> Successor {
        let hello = format!("{{\"Hello\":{{\"protocol\":{PROTOCOL},\"version\":\"9.9\"}}}}");
        let says =
            |text: &str| format!("printf '\\0\\0\\0\\{:03o}\\0%s' '{text}' >&0\n", text.len());
        let words = [hello.as_str(), "\"Prepared\"", "\"Ready\""].map(says).concat();
        let program = folder.join("next");
        fs::write(&program, format!("#!/bin/sh\n{words}exec sleep 1000\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let offer = HandoffOffer {
            launch: Launch::own().unwrap(),
            program: Some(program),
            ready: Duration::from_secs(30),
            sockets: Vec::new(),
            secrets: Secrets::default(),
            backends: Vec::new(),
            values: Values::new(),
            late: Box::new(Values::new),
            sids: SessionTable::new(&SessionsConfig::default()),
        };
        offer.make().await.unwrap()
    }

    fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn a_successor_that_nobody_has_taken_note_of_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let successor = successor(folder.path()).await;
        let pid = successor.pid();
        assert!(runs(pid));
        drop(successor);
        let gone = async {
            while runs(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_successor_that_is_kept_outlives_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut successor = successor(folder.path()).await;
        let pid = successor.pid();
        successor.keep();
        drop(successor);
        assert!(runs(pid));
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
