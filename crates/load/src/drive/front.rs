//! What the proxy in front says of itself, where it is a Moorline on this machine: how long it drains.
//!
//! Reads the admin API as any other program does: nothing of the proxy is used here.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::geteuid;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

/// Deadline of an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 20;

/// The pool that serves the nodes of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Front {
    /// Admin socket of the proxy.
    socket: PathBuf,
    /// Name of the pool.
    pool: String,
    /// How long a backend that leaves the list keeps its sessions.
    drain: Duration,
}

impl Front {
    /// The pool that names one of these nodes, of the proxy behind `socket`, or of one behind a usual socket;
    /// `None`: there is none, and the proxy in front may be any other.
    ///
    /// # Errors
    ///
    /// A sentence for the user: `socket` was given, and nothing answers there.
    pub(super) async fn find(
        socket: Option<&Path>,
        nodes: &[SocketAddr],
    ) -> Result<Option<Self>, String> {
        if let Some(socket) = socket {
            let shown = socket.display();
            let found = Self::behind(socket, nodes).await;
            return found.map_err(|e| format!("--socket {shown}: no admin API answers: {e}"));
        }
        for socket in usual_sockets() {
            if let Ok(Some(front)) = Self::behind(&socket, nodes).await {
                return Ok(Some(front));
            }
        }
        Ok(None)
    }

    async fn behind(socket: &Path, nodes: &[SocketAddr]) -> io::Result<Option<Self>> {
        let Pools { pools } = ask(socket, "/v1/pools").await?;
        let nodes: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
        let ours = |pool: &Pool| pool.backends.iter().any(|known| nodes.contains(&known.address));
        let Some(Pool { name, .. }) = pools.into_iter().find(ours) else { return Ok(None) };
        let Config { pools } = ask(socket, "/v1/config").await?;
        let terms = pools.into_iter().find(|pool| pool.name == name).map(|pool| pool.drain.within);
        let drain = terms.and_then(|within| Duration::try_from_secs_f64(within).ok());
        Ok(drain.map(|drain| Self { socket: socket.to_owned(), pool: name, drain }))
    }

    /// What is wrong with giving nodes only this long, in a sentence.
    pub(super) fn warning(&self, drain: Duration) -> Option<String> {
        let (ours, pools) =
            (humantime::format_duration(drain), humantime::format_duration(self.drain));
        (self.drain > drain).then(|| {
            format!(
                "warning: --drain is {ours}, and pool {} of the Moorline on {} drains for {pools}: clients \
                 that are still on a node after {ours} are lost with it; use --drain {pools}, or set a \
                 shorter `drain` in the pool",
                self.pool,
                self.socket.display(),
            )
        })
    }
}

/// Answer of `GET /v1/pools`, as far as it is read here.
#[derive(Deserialize)]
struct Pools {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
    backends: Vec<Backend>,
}

#[derive(Deserialize)]
struct Backend {
    address: String,
}

/// Answer of `GET /v1/config`, as far as it is read here.
#[derive(Deserialize)]
struct Config {
    pools: Vec<Terms>,
}

#[derive(Deserialize)]
struct Terms {
    name: String,
    drain: Drain,
}

#[derive(Deserialize)]
struct Drain {
    /// Seconds.
    within: f64,
}

/// Where a Moorline puts its admin socket that was not told another place: see `admin.socket` in its README.
fn usual_sockets() -> Vec<PathBuf> {
    let named = env::var_os("MOORLINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
    let user = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = env::temp_dir().join(format!("moorline-{}", geteuid().as_raw()));
    let unit = |folder: &PathBuf| folder.join("moorline");
    let system = PathBuf::from("/run");
    let units = [user.as_ref().map(unit), Some(unit(&system))];
    let folders = [user, Some(system), Some(own)].into_iter().chain(units).flatten();
    named.into_iter().chain(folders.flat_map(|folder| sockets_in(&folder))).collect()
}

/// Each process of a machine has a socket of its own.
fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("moorline"))
        })
        .collect()
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> io::Result<T> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::get(path)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let answer = async {
            let reply = sender.send_request(request).await.map_err(io::Error::other)?;
            if !reply.status().is_success() {
                return Err(io::Error::other(format!("the answer is {}", reply.status())));
            }
            let body = Limited::new(reply.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        };
        let body = tokio::select! {
            body = answer => body?,
            // The answer is known to be broken sooner than its reader notices.
            Err(error) = connection => return Err(io::Error::other(error)),
        };
        serde_json::from_slice(&body).map_err(io::Error::other)
    };
    timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
