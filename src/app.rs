//! The composition root: a configuration becomes a bound process, a bound process runs, a running
//! process shuts down.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle},
};

use crate::{
    admin,
    api::{UpgradeRequest, Upgraded},
    config::{AdminRemote, Config},
    control::{
        AdminSocketHooks, Changes, CommandError, ControlCommand, ControlHandle, ControlRequest,
        ControlTask,
    },
    handoff::{Inheritance, Launch, LaunchError, Takeover},
    net::inherited::InheritedSockets,
    observe::{BackendSample, CacheSample, CertificateSample, stalls},
    runtimes::Workers,
    shared::SharedState,
    upstream::Lifecycle,
};

/// Time for the last replies of the admin endpoints, after an upgrade has left nothing else to do.
const ADMIN_REPLY: Duration = Duration::from_secs(1);
/// Maximum number of queued requests to the control task.
const REQUESTS: usize = 16;

/// Why a process could not start.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A bound process. Every socket is open; connections are accepted, or will be once
/// [`accept`](App::accept) is called.
pub struct App {
    control: ControlTask,
    admin: admin::AdminSockets,
    remote: Option<AdminRemote>,
    /// The process that this one takes over from.
    joining: Option<Takeover>,
    workers: Workers,
}

/// A running process.
pub struct RunningProcess {
    requests: mpsc::Sender<ControlRequest>,
    control: JoinHandle<()>,
    admin: Arc<admin::ServedAdminSockets>,
    addresses: Vec<(String, SocketAddr)>,
    /// Path of the admin socket.
    socket: Option<PathBuf>,
    operator: ControlHandle,
}

/// Sends requests to a running process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProcessHandle(mpsc::Sender<ControlRequest>);

impl App {
    /// Binds and builds everything. `given` are the sockets that the service manager passed. `workers` run
    /// the connections.
    ///
    /// # Errors
    /// An address is not available, an access log cannot be opened, or rustls rejects a certificate.
    /// The text names it.
    pub async fn bind(
        config: Config,
        given: InheritedSockets,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let from = Inheritance { sockets: given, ..Inheritance::default() };
        Self::build(config, from, workers).await
    }

    /// Prepares to take over from another process: binds missing sockets, builds everything and
    /// receives the sessions.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind), and if a message of the other process is invalid. The other
    /// process is notified and continues to serve.
    pub async fn take_over(
        config: Config,
        mut joining: Takeover,
        workers: Workers,
    ) -> Result<Self, StartError> {
        match Self::prepare(config, &mut joining, workers).await {
            Ok(app) => Ok(Self { joining: Some(joining), ..app }),
            Err(error) => {
                joining.fail(&error.to_string()).await;
                Err(error)
            }
        }
    }

    /// Begins to accept if this process takes over from another one. Returns once the other process
    /// accepts no new connections. If this is cancelled, the process can still be
    /// [started](Self::start).
    ///
    /// # Errors
    /// The other process has ended this upgrade, and continues to serve.
    pub async fn accept(&mut self) -> Result<(), StartError> {
        let Some(joining) = &mut self.joining else { return Ok(()) };
        self.control.open();
        joining.ready().await.map_err(|error| StartError(error.to_string()))
    }

    async fn prepare(
        config: Config,
        joining: &mut Takeover,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let mut app = Self::build(config, joining.inheritance(), workers).await?;
        let late = joining.prepared(app.control.proxy()).await;
        app.control.restore_late_values(late.map_err(|error| StartError(error.to_string()))?);
        Ok(app)
    }

    async fn build(
        config: Config,
        mut from: Inheritance,
        workers: Workers,
    ) -> Result<Self, StartError> {
        let start_error = |error: &dyn fmt::Display| StartError(error.to_string());
        let admin = admin::AdminSockets::bind(&config.admin, &mut from.sockets);
        let admin = admin.map_err(|error| start_error(&error))?;
        let remote = config.admin.remote.clone();
        let control = ControlTask::new(config, from, workers.handle()).await;
        let control = control.map_err(|error| start_error(&error))?;
        Ok(Self { control, admin, remote, joining: None, workers })
    }

    /// Returns the bound addresses, by listener name.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.control.addresses()
    }

    /// The admin sockets.
    pub fn admin(&self) -> &admin::AdminSockets {
        &self.admin
    }

    /// Runs the process. `file`, if set, is watched and read again at each reload. `launch` says how
    /// to start the next process at an upgrade, or why an upgrade is not possible.
    pub fn start(
        mut self,
        file: Option<PathBuf>,
        launch: Result<Launch, LaunchError>,
    ) -> RunningProcess {
        let addresses = self.addresses();
        let socket = self.admin.path().map(Path::to_owned);
        let (requests, received) = mpsc::channel(REQUESTS);
        let metrics = &self.control.proxy().metrics;
        let workers = &self.workers;
        if let Err(error) = stalls::watch(workers.metrics(), workers.activity(), metrics) {
            tracing::warn!(%error, "cannot detect stuck workers");
        }
        let operator =
            ControlHandle::new(requests.clone(), Arc::clone(self.control.proxy()), file.clone());
        let state = admin_state(Arc::clone(self.control.proxy()), requests.clone());
        let admin = Arc::new(self.admin.serve(state, &operator, self.remote.as_ref()));
        let (copied, left) = (Arc::clone(&admin), Arc::clone(&admin));
        let admin_sockets = AdminSocketHooks {
            copies: Box::new(move || copied.duplicate()),
            release: Box::new(move || left.hand_over()),
        };
        self.control.enable_handoff(launch, admin_sockets);
        if let Some(joining) = self.joining {
            let predecessors = self.control.predecessors();
            predecessors.begin();
            let proxy = Arc::clone(self.control.proxy());
            tokio::spawn(joining.follow(proxy, predecessors.clone()));
        }
        let again = requests.downgrade();
        let control = tokio::spawn(self.control.run(file, received, again));
        RunningProcess { requests, control, admin, addresses, socket, operator }
    }
}

impl RunningProcess {
    /// Bound addresses at the start, by listener name.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// Path of the admin API's unix socket, if there is one.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The handle for commands and queries.
    pub fn operator(&self) -> &ControlHandle {
        &self.operator
    }

    /// Returns a handle for signal handlers.
    pub fn remote(&self) -> ProcessHandle {
        ProcessHandle(self.requests.clone())
    }

    /// Resolves when the process ends by itself: another process has taken over, and this one holds
    /// nothing any more. Cancel-safe.
    ///
    /// # Errors
    /// The control task panicked.
    pub async fn ended(&mut self) -> Result<(), JoinError> {
        (&mut self.control).await
    }

    /// Resolves when the admin endpoints have no connection left, for example the connection of the command
    /// that requested an upgrade and waits for its reply; after a second at the latest.
    pub async fn admin_idle(&self) {
        let _ = tokio::time::timeout(ADMIN_REPLY, self.admin.idle()).await;
    }

    /// Shuts down: stops accepting, waits for requests and tunnels to end, and cuts them at the
    /// configured deadline.
    pub async fn shut_down(self) {
        let (answer, done) = oneshot::channel();
        if self.requests.send(ControlRequest::Shutdown(answer)).await.is_ok() {
            let _ = done.await;
        }
        let _ = self.control.await;
        // The admin API answers until the end.
        drop(self.admin);
    }
}

impl ProcessHandle {
    /// Handles SIGHUP: reopens the access log and reads the file again.
    pub async fn hang_up(&self) {
        let _ = self.0.send(ControlRequest::Hangup).await;
    }

    /// Handles SIGUSR2: hands over to the binary that is installed now.
    ///
    /// # Errors
    /// The new process does not serve; this one continues to serve.
    pub async fn upgrade(&self) -> Result<Upgraded, CommandError> {
        let (answer, outcome) = oneshot::channel();
        let request =
            ControlRequest::Command(ControlCommand::Upgrade(UpgradeRequest::default(), answer));
        self.0.send(request).await.map_err(|_| CommandError::ShuttingDown)?;
        outcome.await.map_err(|_| CommandError::ShuttingDown)?
    }

    /// Plans and applies another configuration.
    ///
    /// # Errors
    /// The configuration was rejected; the running one is unchanged.
    pub async fn apply(&self, config: Config) -> Result<Changes, CommandError> {
        let (reply, outcome) = oneshot::channel();
        let request = ControlRequest::Apply(Box::new(config), reply);
        self.0.send(request).await.map_err(|_| CommandError::ShuttingDown)?;
        outcome.await.map_err(|_| CommandError::ShuttingDown)?
    }
}

fn admin_state(
    proxy: Arc<SharedState>,
    requests: mpsc::Sender<ControlRequest>,
) -> admin::AdminState {
    let metrics = Arc::clone(&proxy.metrics);
    let (shared, listening) = (Arc::clone(&proxy), Arc::clone(&proxy));
    let caching = Arc::clone(&proxy);
    let ready = move || !requests.is_closed() && !shared.not_ready.load(Ordering::Acquire);
    admin::AdminState {
        metrics,
        backends: Box::new(move || samples(&proxy)),
        certificates: Box::new(move || certificates(&listening)),
        cache: Box::new(move || stores(&caching)),
        ready: Box::new(ready),
    }
}

fn stores(proxy: &SharedState) -> Vec<CacheSample> {
    let cache = proxy.cache.load();
    let levels = [("memory", Some(cache.usage())), ("disk", cache.disk_usage())];
    let samples = levels.into_iter().filter_map(|(store, usage)| {
        usage.map(|(bytes, entries)| CacheSample { store, bytes, entries })
    });
    samples.collect()
}

fn certificates(proxy: &SharedState) -> Vec<CertificateSample> {
    let snapshot = proxy.snapshot.load();
    let mut samples = Vec::new();
    for listener in snapshot.listeners.values() {
        for certificate in listener.certificates.current() {
            let Some((_, expires)) = certificate.validity() else { continue };
            let name = certificate.names.first().cloned().unwrap_or_default();
            samples.push(CertificateSample { listener: listener.name.to_string(), name, expires });
        }
    }
    samples
}

fn samples(proxy: &SharedState) -> Vec<BackendSample> {
    let snapshot = proxy.snapshot.load();
    let backends = snapshot.pools.iter().flat_map(|pool| pool.holders(0));
    backends
        .map(|backend| BackendSample {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            up: backend.is_up(),
            draining: backend.lifecycle() != Lifecycle::Serving,
            sessions: backend.sessions(),
            requests: backend.requests(),
            idle: backend.idle().len(),
            ejected: backend.is_ejected(),
            ramp: backend.ramp(),
            connections: backend.connections_in_use(),
            pending: backend.requests_pending(),
            waiting: backend.sessions_waiting(),
        })
        .collect()
}
