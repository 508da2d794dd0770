//! Two processes after a handoff: the new process drains backends whose tunnels are in the old one, and each
//! of the two may end at any time.

use std::{
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream as Pair},
    process::{Child, Command, ExitStatus, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::support::{
    Backend, Peer, Proxy, Raw, Settings, eventually, message, process,
    proxy::Setup,
    wait_for,
    websocket::{self, tunnel},
    within,
};

/// A message from the client to the backend.
const ALIVE: &[u8] = b"\x81\x85\x00\x00\x00\x00alive";

/// Reads the state of a backend from the API.
async fn state(proxy: &Proxy, backend: &Backend) -> Value {
    let pool = proxy.api().get("/v1/pools/app").await;
    let name = backend.address.to_string();
    let backends = pool["backends"].as_array().unwrap();
    backends.iter().find(|known| known["name"] == name).cloned().unwrap_or_default()
}

/// Waits until the proxy counts this number of tunnels to a backend.
async fn wait_for_tunnels(proxy: &Proxy, backend: &Backend, tunnels: u64) -> Value {
    loop {
        let state = within("the reports of the old processes", state(proxy, backend)).await;
        if state["tunnels"] == tunnels {
            return state;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Expects that the proxy closes the tunnel, and answers the Close.
async fn expect_close(mut client: Raw, far: Peer) {
    let close = websocket::close("draining");
    assert_eq!(client.exact(close.len()).await, close);
    client.send(websocket::CLOSE_REPLY).await;
    far.ended().await;
    far.close();
    client.assert_closed().await;
}

#[tokio::test]
async fn drain_closes_the_tunnels_of_all_processes() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let name = format!("app/{}", backend.address);
    // One tunnel in each of three processes.
    let first = tunnel(&proxy, &backend).await;
    proxy.upgrade().await;
    let second = tunnel(&proxy, &backend).await;
    proxy.upgrade().await;
    let third = tunnel(&proxy, &backend).await;
    let state = wait_for_tunnels(&proxy, &backend, 3).await;
    assert_eq!(state["sessions"], 3, "{state}");
    let from = proxy.stderr().len();
    let words = ["drain", &name, "--within", "3s", "--spread", "2s", "--wait", "--json"];
    let closed = async {
        tokio::join!(
            expect_close(first.0, first.1),
            expect_close(second.0, second.1),
            expect_close(third.0, third.1)
        )
    };
    let (ran, _) = tokio::join!(proxy.command(&words), closed);
    let drained = ran.json();
    assert_eq!(drained["backends"][0]["state"], "drained", "{drained}");
    assert!(!proxy.stderr()[from..].join("\n").contains("cutting"), "{}", proxy.stderr_text());
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn drain_lasts_while_an_old_process_has_a_tunnel() {
    let backend = Backend::manual().await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let name = format!("app/{}", backend.address);
    let (mut client, far) = tunnel(&proxy, &backend).await;
    proxy.upgrade().await;
    // At once, before the old process has reported its tunnels.
    let drained = proxy.command(&["drain", &name, "--json"]).await.json();
    assert_eq!(drained["backends"][0]["state"], "draining", "{drained}");
    let state = wait_for_tunnels(&proxy, &backend, 1).await;
    assert_eq!((&state["state"], &state["drain"]["sockets_left"]), (&"draining".into(), &1.into()));
    client.send(ALIVE).await;
    far.wait_for_rest(ALIVE).await;
    client.finish().await;
    far.ended().await;
    far.close();
    let state = wait_for_tunnels(&proxy, &backend, 0).await;
    assert_eq!(state["state"], "drained", "{state}");
    drop((client, backend));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn undrained_backend_keeps_its_tunnel_in_the_old_process() {
    let (kept, drained) = (Backend::manual().await, Backend::manual().await);
    let mut proxy = Proxy::with(|settings| {
        settings.backends(&[kept.address]);
        settings.host("other", "other", &[drained.address]);
    })
    .await;
    let (mut client, far) = tunnel(&proxy, &kept).await;
    let mut other = Raw::connect(proxy.web()).await;
    let request = websocket::request("/chat", "").to_vec();
    let request = String::from_utf8(request).unwrap();
    let host = request.lines().find(|line| line.starts_with("Host:")).unwrap().to_owned();
    other.send(request.replace(&host, "Host: other")).await;
    let other_far = drained.peer(0).await;
    let upgrade = other_far.head().await.unwrap();
    other_far.send(websocket::switching(&upgrade)).await;
    assert_eq!(other.response().await.status(), 101);
    proxy.upgrade().await;
    wait_for_tunnels(&proxy, &kept, 1).await;
    proxy.command(&["drain", "app", "--within", "1s", "--spread", "0s", "--json"]).await.json();
    proxy.command(&["undrain", "app"]).await.done();
    // The cancelled drain would have ended before this one.
    proxy.command(&["drain", "other", "--within", "3s", "--spread", "1s", "--json"]).await.json();
    expect_close(other, other_far).await;
    client.send(ALIVE).await;
    far.wait_for_rest(ALIVE).await;
    client.finish().await;
    far.ended().await;
    far.close();
    drop((client, kept, drained));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

#[tokio::test]
async fn removed_backend_loses_its_tunnels_in_the_old_process() {
    let (backend, stays) = (Backend::manual().await, Backend::replying("ok").await);
    let mut proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[backend.address]);
            settings.pool("drain", "{ within = \"2s\", spread = \"1s\" }");
            // The edit is for the command, which must come first.
            settings.top("reload", "{ watch = false }");
        })
        .start()
        .await;
    let (client, far) = tunnel(&proxy, &backend).await;
    proxy.upgrade().await;
    wait_for_tunnels(&proxy, &backend, 1).await;
    // The new process has read the file again after its start.
    proxy.command(&["reload"]).await.done();
    let remaining = [stays.address];
    proxy.rewrite(|settings| {
        settings.backends(&remaining);
    });
    let refused = proxy.command(&["reload", "--max-disconnects", "0"]).await;
    refused.refused("would disconnect 1 session (1 with a tunnel)");
    let from = proxy.stderr().len();
    proxy.hangup();
    expect_close(client, far).await;
    assert!(!proxy.stderr()[from..].join("\n").contains("cutting"), "{}", proxy.stderr_text());
    drop((backend, stays));
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}

/// The test acts as the old process.
struct OldProcess {
    channel: UnixStream,
    child: Child,
    web: SocketAddr,
    _folder: tempfile::TempDir,
}

impl OldProcess {
    /// Starts a new process and sends an offer without sockets.
    async fn start(backend: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // No other test listens on this address, so that the port stays free.
        let web = std::net::TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
        let mut settings = Settings::new(folder.path());
        settings.listener("bind", &format!("\"{web}\"")).backends(&[backend]);
        let file = folder.path().join("moorline.toml");
        std::fs::write(&file, settings.text()).unwrap();
        let (ours, theirs) = Pair::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .arg("run")
            .arg(file)
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("MOORLINE_HANDED_OVER", "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut old =
            Self { channel: UnixStream::from_std(ours).unwrap(), child, web, _folder: folder };
        let pid = std::process::id();
        old.send_message(&format!(r#"{{"Hello":{{"protocol":1,"pid":{pid},"version":"0.0"}}}}"#))
            .await;
        old.send_message(r#""Offered""#).await;
        assert!(old.receive().await.contains("Hello"));
        assert_eq!(old.receive().await, r#""Prepared""#);
        old
    }

    async fn send_message(&mut self, text: &str) {
        self.channel.write_u32(text.len() as u32).await.unwrap();
        self.channel.write_u8(0).await.unwrap();
        self.channel.write_all(text.as_bytes()).await.unwrap();
    }

    async fn receive(&mut self) -> String {
        within("a message of the new process", async {
            let length = self.channel.read_u32().await.unwrap();
            assert_eq!(self.channel.read_u8().await.unwrap(), 0);
            let mut text = vec![0; length as usize];
            self.channel.read_exact(&mut text).await.unwrap();
            String::from_utf8(text).unwrap()
        })
        .await
    }

    /// Closes the channel; returns the exit status and the log of the new process.
    async fn close(self) -> (ExitStatus, String) {
        let Self { channel, mut child, .. } = self;
        drop(channel);
        ended(&mut child).await
    }
}

async fn ended(child: &mut Child) -> (ExitStatus, String) {
    let status = wait_for("the end of the process", || child.try_wait().unwrap()).await;
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
    (status, log)
}

#[tokio::test]
async fn fault_122_new_process_ends_if_the_old_one_cancels_the_upgrade() {
    let backend = Backend::replying("ok").await;
    let old = OldProcess::start(backend.address).await;
    let (status, log) = old.close().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("has cancelled this upgrade and continues to serve"), "{log}");
    // The same when the new process accepts already.
    let mut old = OldProcess::start(backend.address).await;
    old.send_message(r#""Transferred""#).await;
    assert_eq!(old.receive().await, r#""Ready""#);
    let (status, log) = old.close().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("has cancelled this upgrade and continues to serve"), "{log}");
}

#[tokio::test]
async fn fault_122_new_process_gets_sigterm_before_the_old_one_has_released() {
    let backend = Backend::manual().await;
    let mut old = OldProcess::start(backend.address).await;
    old.send_message(r#""Transferred""#).await;
    assert_eq!(old.receive().await, r#""Ready""#);
    let mut client = Raw::connect(old.web).await;
    client.send(message::get("/", "")).await;
    let peer = backend.peer(0).await;
    peer.request().await.unwrap();
    process::signal(old.child.id(), "TERM");
    let mut refuses = wait_for("the process stops accepting", || {
        std::net::TcpStream::connect(old.web).err().map(Some)
    })
    .await;
    assert!(refuses.take().is_some() && old.child.try_wait().unwrap().is_none());
    peer.send(message::ok("in time")).await;
    assert_eq!(client.response().await.text(), "in time");
    let (status, log) = ended(&mut old.child).await;
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn new_process_binds_the_admin_socket_if_its_file_was_removed() {
    for named in [false, true] {
        let backend = Backend::replying("ok").await;
        let setup = Setup::new();
        let socket = setup.directory().join("moorline.sock");
        let mut proxy = setup
            .with(|settings| {
                settings.backends(&[backend.address]);
                if named {
                    settings.top(
                        "admin",
                        &format!("{{ metrics = \"127.0.0.1:0\", socket = {socket:?} }}"),
                    );
                }
            })
            .start()
            .await;
        std::fs::remove_file(&socket).unwrap();
        proxy.upgrade().await;
        assert_eq!(proxy.api().get("/v1/status").await["pid"], proxy.pid());
        proxy.wait_for_predecessors().await;
        // The old process has not removed the new socket file.
        assert_eq!(proxy.api().get("/v1/status").await["pid"], proxy.pid());
        drop(backend);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn first_process_of_a_container_cannot_be_upgraded() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().wrapped_in(&["unshare", "--pid", "--fork", "--kill-child"]);
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]);
        })
        .run()
        .await;
    proxy.command(&["upgrade"]).await.refused("first of its container (PID 1)");
    assert!(proxy.is_running());
    let first = wait_for("the process", || process::children(proxy.pid()).first().copied()).await;
    process::signal(first, "TERM");
    assert_eq!(proxy.exited().await.code(), Some(0));
    eventually("nothing is left", || !process::is_running(first)).await;
}
