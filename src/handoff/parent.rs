//! The old process, until the new one accepts: starts the new process, sends the offer, waits for `Ready`.

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

/// How long a failed process may take to send the reason and to end, before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that is handed over, as of now.
pub struct HandoffOffer {
    /// How to start the new process.
    pub launch: Launch,
    /// The program to start instead of that of `launch`.
    pub program: Option<PathBuf>,
    /// How long the new process may take until it accepts.
    pub ready: Duration,
    /// Listening sockets.
    pub sockets: Vec<(Purpose, OwnedFd)>,
    /// Keys.
    pub secrets: Secrets,
    /// All live backends, including removed backends that drain.
    pub backends: Vec<Arc<Backend>>,
    /// Values that the new process needs before it applies its configuration.
    pub values: Values,
    /// Returns further values; called after the sessions are read.
    pub late_values: Box<dyn FnOnce() -> Values + Send + Sync>,
    /// The sessions.
    pub sids: Arc<SessionTable>,
}

/// Why the handoff failed. The old process continues to serve.
#[derive(Debug)]
pub enum HandoffError {
    /// The program could not be started.
    Start(PathBuf, io::Error),
    /// The new process ended before it was ready.
    Ended(ExitStatus),
    /// The new process was not ready in time.
    Timeout(Duration),
    /// The new process sent why it cannot take over.
    Failed(String),
    /// The new process uses another protocol version, or sent an invalid message.
    Protocol(String),
    /// The channel failed.
    Channel(io::Error),
}

/// Kills the process when dropped, unless [`keep`](Self::keep) was called.
#[derive(Debug)]
pub(super) struct ChildGuard {
    child: Child,
    kept: bool,
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
            Self::Timeout(ready) => {
                write!(
                    f,
                    "the new process was not ready within {ready:?}, and was killed; see the log, or raise `ready` in `[upgrade]`"
                )
            }
            Self::Failed(reason) => write!(f, "the new process failed: {reason}"),
            Self::Protocol(reason) => write!(f, "the new process cannot take over: {reason}"),
            Self::Channel(error) => write!(f, "the channel to the new process failed: {error}"),
        }
    }
}

impl std::error::Error for HandoffError {}

impl HandoffOffer {
    /// Starts the new process and hands over to it. Dropping the future, or the [`Successor`] before
    /// [`keep`](Successor::keep) is called, kills the new process.
    ///
    /// # Errors
    /// Why the new process does not accept; it has ended by then.
    pub async fn run(self) -> Result<Successor, HandoffError> {
        let program = self.program.as_deref().unwrap_or(self.launch.program()).to_owned();
        let (mut channel, child) =
            self.start(&program).map_err(|e| HandoffError::Start(program, e))?;
        let mut child = ChildGuard { child, kept: false };
        // Subscribe before the table is read, so that no session is missed.
        let mut learned = self.sids.tap();
        let mut sent_backends = HashSet::new();
        let ready = self.ready;
        let outcome = tokio::select! {
            biased;
            outcome = timeout(ready, self.hand_over(&mut channel, &mut sent_backends)) => {
                outcome.unwrap_or(Err(HandoffError::Timeout(ready)))
            }
            status = child.ended() => Err(HandoffError::Ended(status)),
        };
        match outcome {
            Ok(()) => match child.child.id() {
                Some(pid) => {
                    let link = SuccessorChannel { channel, learned, sent_backends };
                    Ok(Successor::new(pid, child, link))
                }
                None => Err(HandoffError::Channel(io::ErrorKind::NotConnected.into())),
            },
            Err(error) => {
                learned.close();
                Err(child.end(error, &mut channel).await)
            }
        }
    }

    fn start(&self, program: &Path) -> io::Result<(Channel, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let channel = Channel::new(ours)?;
        Ok((channel, self.launch.start(program, theirs)?))
    }

    /// Exchanges all messages up to `Ready`.
    async fn hand_over(
        self,
        channel: &mut Channel,
        sent_backends: &mut HashSet<u64>,
    ) -> Result<(), HandoffError> {
        self.send_offer(channel, sent_backends).await.map_err(HandoffError::Channel)?;
        tracing::info!("sockets sent; the new process is starting");
        match receive(channel).await? {
            FromNew::Hello { protocol: PROTOCOL, .. } => {}
            FromNew::Hello { protocol, version } => return Err(other_version(protocol, &version)),
            other => return Err(unexpected(&other)),
        }
        match receive(channel).await? {
            FromNew::Prepared => {}
            other => return Err(unexpected(&other)),
        }
        let transfer = send_table(&self.sids, self.late_values, channel, sent_backends);
        transfer.await.map_err(HandoffError::Channel)?;
        match receive(channel).await? {
            FromNew::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends everything that the new process needs to prepare.
    async fn send_offer(
        &self,
        channel: &mut Channel,
        sent_backends: &mut HashSet<u64>,
    ) -> io::Result<()> {
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        channel.send(&FromOld::Hello { protocol: PROTOCOL, pid, version }).await?;
        for (purpose, socket) in &self.sockets {
            channel.send_with(&FromOld::Socket(purpose.clone()), socket).await?;
        }
        channel.send(&FromOld::Keys(self.secrets.clone())).await?;
        for backend in &self.backends {
            sent_backends.insert(backend.serial());
            channel.send(&FromOld::Backend(BackendRecord::of(backend))).await?;
        }
        for (name, value) in &self.values {
            channel.send(&FromOld::Value(name.clone(), value.clone())).await?;
        }
        channel.send(&FromOld::Offered).await
    }
}

/// Sends the whole session table in slices, then the late values.
async fn send_table(
    sids: &SessionTable,
    late_values: impl FnOnce() -> Values,
    channel: &mut Channel,
    sent_backends: &mut HashSet<u64>,
) -> io::Result<()> {
    let mut cursor = Cursor::default();
    let mut sessions = Vec::new();
    while let Some(slice) = sids.slice(&mut cursor, Instant::now()) {
        sessions.extend(slice);
        if sessions.len() >= SESSIONS {
            send_sessions(std::mem::take(&mut sessions), channel, sent_backends).await?;
        }
    }
    send_sessions(sessions, channel, sent_backends).await?;
    for (name, value) in late_values() {
        channel.send(&FromOld::Value(name, value)).await?;
    }
    channel.send(&FromOld::Transferred).await
}

/// Sends sessions, after their backends.
pub(super) async fn send_sessions(
    sessions: Vec<Learned>,
    channel: &mut Channel,
    sent_backends: &mut HashSet<u64>,
) -> io::Result<()> {
    for Learned { backend, .. } in &sessions {
        if sent_backends.insert(backend.serial()) {
            channel.send(&FromOld::Backend(BackendRecord::of(backend))).await?;
        }
    }
    let sessions: Vec<_> = sessions.into_iter().map(SessionRecord::of).collect();
    match sessions.is_empty() {
        true => Ok(()),
        false => channel.send(&FromOld::Sessions(sessions)).await,
    }
}

async fn receive(channel: &mut Channel) -> Result<FromNew, HandoffError> {
    match channel.receive().await {
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(HandoffError::Channel(io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(HandoffError::Protocol(error.to_string()))
        }
        Err(error) => Err(HandoffError::Channel(error)),
    }
}

fn other_version(protocol: u32, version: &str) -> HandoffError {
    HandoffError::Protocol(format!(
        "moorline {version} uses version {protocol} of the upgrade protocol, this process version \
         {PROTOCOL}; restart instead"
    ))
}

fn unexpected(message: &FromNew) -> HandoffError {
    match message {
        FromNew::Failed(reason) => HandoffError::Failed(reason.clone()),
        other => HandoffError::Protocol(format!("unexpected message {other:?}")),
    }
}

impl ChildGuard {
    /// Lets the process run when this is dropped.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Waits for the end of the process. Cancel-safe.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap_or_default()
    }

    /// Waits for the end of the process, or kills it. Returns the reason that the process sent, or else the
    /// given `error`.
    async fn end(mut self, error: HandoffError, channel: &mut Channel) -> HandoffError {
        let timed_out = matches!(error, HandoffError::Timeout(_));
        let error = match error {
            HandoffError::Ended(_) | HandoffError::Channel(_) => {
                let reason = timeout(EXIT_TIMEOUT, async {
                    loop {
                        match receive(channel).await {
                            Ok(FromNew::Failed(reason)) => return Some(reason),
                            Ok(_) => {}
                            Err(_) => return None,
                        }
                    }
                });
                reason.await.ok().flatten().map_or(error, HandoffError::Failed)
            }
            other => other,
        };
        let wait = if timed_out { Duration::ZERO } else { EXIT_TIMEOUT };
        let status = match timeout(wait, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        match (error, status) {
            (HandoffError::Channel(_), Ok(status)) => HandoffError::Ended(status),
            (error, _) => error,
        }
    }
}

impl Drop for ChildGuard {
    /// Kills the process; the tokio runtime reaps it.
    fn drop(&mut self) {
        if !self.kept {
            // An error means that the process has ended already.
            let _ = self.child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::SessionsConfig;

    /// Hands over to a script that never ends.
    async fn successor(folder: &Path) -> Successor {
        let hello = format!("{{\"Hello\":{{\"protocol\":{PROTOCOL},\"version\":\"9.9\"}}}}");
        let send =
            |text: &str| format!("printf '\\0\\0\\0\\{:03o}\\0%s' '{text}' >&0\n", text.len());
        let messages = [hello.as_str(), "\"Prepared\"", "\"Ready\""].map(send).concat();
        let program = folder.join("next");
        fs::write(&program, format!("#!/bin/sh\n{messages}exec sleep 1000\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let offer = HandoffOffer {
            launch: Launch::own().unwrap(),
            program: Some(program),
            ready: Duration::from_secs(30),
            sockets: Vec::new(),
            secrets: Secrets::default(),
            backends: Vec::new(),
            values: Values::new(),
            late_values: Box::new(Values::new),
            sids: SessionTable::new(&SessionsConfig::default()),
        };
        offer.run().await.unwrap()
    }

    fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn dropped_successor_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let successor = successor(folder.path()).await;
        let pid = successor.pid();
        assert!(runs(pid));
        drop(successor);
        let ended = async {
            while runs(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), ended).await.unwrap();
    }

    #[tokio::test]
    async fn kept_successor_survives_the_drop() {
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
