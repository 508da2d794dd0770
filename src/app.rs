//! The composition root: a configuration becomes a bound process, a bound process runs, a running
//! one drains.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    admin,
    config::Config,
    control::{Changes, Control, Operator, Request},
    http::proxy::Proxy,
    net::listener,
    observe::BackendSample,
    upstream::Life,
};

/// Requests to the control task that may wait. Reloads beyond that are the same reload.
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

/// A bound process: every socket is open, and connections are accepted.
pub struct App {
    control: Control,
    admin: Option<TcpListener>,
}

/// A running process.
pub struct Running {
    requests: mpsc::Sender<Request>,
    control: JoinHandle<()>,
    addresses: Vec<(String, SocketAddr)>,
    operator: Operator,
}

/// Asks a running process for something; cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote(mpsc::Sender<Request>);

impl App {
    /// Binds and builds everything.
    ///
    /// # Errors
    /// An address that cannot be listened on, an access log that cannot be opened, a certificate
    /// that rustls refuses; the text names it.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let told = |error: &dyn fmt::Display| StartError(error.to_string());
        let admin = match config.admin.metrics {
            Some(address) => Some(bind_admin(address).map_err(|error| told(&error))?),
            None => None,
        };
        let control = Control::new(config).await.map_err(|error| told(&error))?;
        Ok(Self { control, admin })
    }

    /// Addresses listened on, by listener name.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.control.addresses()
    }

    /// Address of the metrics and readiness endpoint.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// Runs. `file`, where there is one, is watched and read again at each reload.
    pub fn start(self, file: Option<PathBuf>) -> Running {
        let addresses = self.addresses();
        let (requests, received) = mpsc::channel(REQUESTS);
        if let Some(socket) = self.admin {
            let state = admin_state(Arc::clone(self.control.proxy()), requests.clone());
            tokio::spawn(admin::serve(socket, Arc::new(state)));
        }
        let operator = Operator::new(requests.clone(), Arc::clone(self.control.proxy()));
        let again = requests.downgrade();
        let control = tokio::spawn(self.control.run(file, received, again));
        Running { requests, control, addresses, operator }
    }
}

impl Running {
    /// Addresses listened on at the start, by listener name.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// The operator's door.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Something to ask by, for signal handlers.
    pub fn remote(&self) -> Remote {
        Remote(self.requests.clone())
    }

    /// Stops accepting, waits for requests and tunnels to end, cuts them at the configured deadline.
    pub async fn drain(self) {
        let (answer, done) = oneshot::channel();
        if self.requests.send(Request::Stop(answer)).await.is_ok() {
            let _ = done.await;
        }
        let _ = self.control.await;
    }
}

impl Remote {
    /// What SIGHUP means: reopen the access log and read the file again.
    pub async fn hang_up(&self) {
        let _ = self.0.send(Request::Hangup).await;
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// Why it was refused; the one in force goes on.
    pub async fn apply(&self, config: Config) -> Result<Changes, String> {
        let (answer, outcome) = oneshot::channel();
        let request = Request::Apply(Box::new(config), answer);
        self.0.send(request).await.map_err(|_| "the process is stopping".to_owned())?;
        outcome.await.map_err(|_| "the process is stopping".to_owned())?
    }
}

fn bind_admin(address: SocketAddr) -> io::Result<TcpListener> {
    listener::bind_one(address)
        .map_err(|error| io::Error::new(error.kind(), format!("admin: bind {address}: {error}")))
}

fn admin_state(proxy: Arc<Proxy>, requests: mpsc::Sender<Request>) -> admin::State {
    let metrics = Arc::clone(&proxy.metrics);
    let draining = Arc::clone(&proxy);
    let ready = move || !requests.is_closed() && !draining.draining.load(Ordering::Acquire);
    admin::State { metrics, backends: Box::new(move || samples(&proxy)), ready: Box::new(ready) }
}

fn samples(proxy: &Proxy) -> Vec<BackendSample> {
    let snapshot = proxy.snapshot.load();
    let backends = snapshot.pools.iter().flat_map(|pool| pool.holders(0));
    backends
        .map(|backend| BackendSample {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            up: backend.is_up(),
            draining: backend.phase() != Life::Serving,
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
