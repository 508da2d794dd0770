//! Three applications behind one proxy at once: Redis, a WebSocket, and HTTPS with the application's
//! certificate. What their clients report agrees with the access log.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::App;
use crate::support::{
    Backend, Proxy, Raw, backend, dns::free_port, eventually, proxy::Setup, tls::Certificate,
    websocket, within,
};

/// A `redis-server`. Dropping it kills the process.
struct Redis(Child, SocketAddr);

impl Redis {
    /// Starts Redis and waits until it accepts connections.
    async fn start(directory: &Path) -> Self {
        // Redis cannot inherit a bound socket.
        let address = free_port();
        let port = address.port().to_string();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"])
            .current_dir(directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self(child, address);
        eventually("redis accepts", || TcpStream::connect(address).is_ok()).await;
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command, which must succeed, and returns what it prints.
async fn output(program: &'static str, arguments: &[&str], input: &'static str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = within(program, tokio::task::spawn_blocking(run)).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}{error}");
    text
}

/// The number after `label` in a report.
fn number(report: &str, label: &str) -> u64 {
    let rest = report.split_once(label).unwrap_or_else(|| panic!("no {label} in {report}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends `input` by `openssl s_client` and returns its report.
async fn s_client(
    address: SocketAddr,
    name: &str,
    certificate: &Certificate,
    input: &'static str,
) -> String {
    let (address, authority) = (address.to_string(), certificate.cert.to_str().unwrap());
    let words = ["s_client", "-connect", &address, "-servername", name, "-CAfile", authority];
    let more = ["-verify_return_error", "-alpn", "h2,http/1.1", "-ign_eof"];
    output("openssl", &[&words[..], &more].concat(), input).await
}

/// Starts a proxy: Redis on listeners `plain` and `cache`, a WebSocket on `chat`, HTTPS on `secure`.
async fn all(setup: Setup, ours: &Certificate, backends: [SocketAddr; 3]) -> Proxy {
    let certificates = ours.setting();
    let [redis, chat, app] = backends.map(|address| format!("[\"{address}\"]"));
    let listeners = format!(
        "[listeners.plain]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"redis\"\n\
         [listeners.cache]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\npool = \"redis\"\n\
         certificates = {certificates}\n\
         [listeners.chat]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls\"\npool = \"chat\"\n\
         certificates = {certificates}\n\
         [listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"tls-passthrough\"\n\
         passthrough = [{{ sni = \"own.test\", pool = \"own\" }}]\n\
         [pools.redis]\nbackends = {redis}\nhealth = {{ probe = \"tcp\" }}\n\
         [pools.chat]\nbackends = {chat}\nhealth = {{ probe = \"off\" }}\n\
         [pools.own]\nbackends = {app}\nhealth = {{ probe = \"off\" }}\n"
    );
    let setup = setup.with(|settings| {
        settings.backends(&["127.0.0.1:1".parse().unwrap()]).table(&listeners);
    });
    setup.start().await
}

#[tokio::test]
async fn redis_websocket_and_https_run_behind_one_proxy() {
    let setup = Setup::new();
    let redis = Redis::start(setup.directory()).await;
    let chat = Backend::start(backend::script(|peer| async move {
        let request = peer.request().await.unwrap();
        peer.send(websocket::switching(&request)).await;
        if peer.skip(8).await {
            peer.send(b"\x81\x02hi").await;
        }
        peer.ended().await;
    }))
    .await;
    let ours = Certificate::make(setup.directory(), "app.test");
    let own = Certificate::make(setup.directory(), "own.test");
    let app = App::start(&own, "the app's own").await;
    let proxy = all(setup, &ours, [redis.1, chat.address, app.address]).await;

    // A WebSocket stays open during the other connections.
    let mut socket = Raw::tls(proxy.listener("chat"), &ours).await;
    socket.send(websocket::request("/chat", "")).await;
    assert_eq!(socket.head().await.status(), 101);

    assert_redis_works(&proxy, &ours).await;
    assert_https_passes_through(&proxy, &own).await;

    socket.send(b"\x81\x82\x00\x00\x00\x00up").await;
    assert_eq!(socket.exact(4).await, b"\x81\x02hi");
    drop(socket);
    let line = proxy.wait_for_log("the socket's line", |line| line["listener"] == "chat").await;
    assert_eq!((&line["kind"], &line["sni"]), (&"stream".into(), &"app.test".into()));
    drop((redis, chat, app));
    proxy.finish().await;
}

async fn assert_redis_works(proxy: &Proxy, ours: &Certificate) {
    let port = |name| proxy.listener(name).port().to_string();
    let plain = port("plain");
    let pong = output("redis-cli", &["-p", &plain, "set", "a", "b"], "").await;
    assert_eq!(pong.trim(), "OK");
    let line = proxy.wait_for_log("the plain line", |line| line["listener"] == "plain").await;
    assert_eq!((&line["kind"], &line["pool"]), (&"stream".into(), &"redis".into()));
    assert_eq!((&line["tls"], &line["sni"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(line["termination"], "client_closed", "{line}");
    assert!(line["bytes_in"].as_u64() > Some(20) && line["connect_ms"].is_f64(), "{line}");
    assert_eq!(line["id"].as_str().unwrap().len(), 32);

    let (tls, authority) = (port("cache"), ours.cert.to_str().unwrap());
    let words = ["-p", &tls, "--tls", "--cacert", authority, "--sni", "app.test", "get", "a"];
    assert_eq!(output("redis-cli", &words, "").await.trim(), "b");
    let report = s_client(proxy.listener("cache"), "app.test", ours, "PING\r\nQUIT\r\n").await;
    assert!(report.contains("+PONG"), "{report}");
    let ours_by = |line: &serde_json::Value| {
        line["listener"] == "cache" && line["termination"] == "backend_closed"
    };
    let line = proxy.wait_for_log("the line of s_client", ours_by).await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&12.into(), &12.into()), "{line}");
    assert_agrees(&line, &report, "app.test");
    match line["alpn"].as_str() {
        Some(alpn) => assert!(report.contains(&format!("ALPN protocol: {alpn}")), "{report}"),
        None => assert!(report.contains("No ALPN negotiated"), "{report}"),
    }
}

async fn assert_https_passes_through(proxy: &Proxy, own: &Certificate) {
    let request = "GET / HTTP/1.1\r\nHost: own.test\r\n\r\n";
    let report = s_client(proxy.listener("secure"), "own.test", own, request).await;
    assert!(report.contains("the app's own"), "{report}");
    assert!(report.contains("ALPN protocol: http/1.1"), "{report}");
    let line = proxy.wait_for_log("the HTTPS line", |line| line["listener"] == "secure").await;
    assert_eq!((&line["sni"], &line["pool"]), (&"own.test".into(), &"own".into()), "{line}");
    // The client's first offer: the proxy cannot see the negotiated protocol.
    assert_eq!((&line["alpn"], &line["tls_version"]), (&"h2".into(), &serde_json::Value::Null));
    // The bytes of the stream include the handshake.
    let (read, written) = (number(&report, "has read"), number(&report, "and written"));
    assert!(line["bytes_out"].as_u64() > Some(read), "{line}\n{report}");
    assert!(line["bytes_in"].as_u64() > Some(written), "{line}\n{report}");
}

fn assert_agrees(line: &serde_json::Value, report: &str, name: &str) {
    assert_eq!((&line["sni"], &line["tls"]), (&name.into(), &true.into()), "{line}");
    let version = line["tls_version"].as_str().unwrap();
    assert!(report.contains(&format!("New, {version}, Cipher is")), "{version}: {report}");
}
