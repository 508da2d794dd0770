//! ACME certificates from a real server: both challenge types, storage, renewal, and what clients get and the
//! log says if an order fails.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{
    Backend, Proxy, Raw, Settings,
    dns::free_port,
    eventually, message,
    pebble::Pebble,
    proxy::Setup,
    relay::{BAD_NONCE, UNAVAILABLE},
    tls::ResumingClient,
    websocket, within,
};

const NAME: &str = "chat.example.com";
const OTHER: &str = "www.example.com";
const ISSUED: &str = "moorline_acme_orders_total{result=\"ok\"";
const FAILED: &str = "moorline_acme_orders_total{result=\"failed\"";
const MONTH: u32 = 30 * 24 * 3600;

/// Addresses of the listeners. The server checks challenges at fixed ports.
struct Ports {
    tls: SocketAddr,
    http: SocketAddr,
}

impl Ports {
    fn free() -> Self {
        Self { tls: free_port(), http: free_port() }
    }

    /// Settings with an `http` listener `web` and an `https` listener `secure` with these certificates.
    fn settings(&self, folder: &Path, backend: SocketAddr, certificates: &str) -> Settings {
        let mut settings = Settings::new(folder);
        settings.backends(&[backend]).listener("bind", &format!("\"{}\"", self.http));
        settings.table(&format!(
            "[listeners.secure]\nbind = \"{}\"\nprotocol = \"https\"\ncertificates = {certificates}\n",
            self.tls
        ));
        settings
    }

    fn setup(&self, backend: SocketAddr, certificates: &str) -> Setup {
        let setup = Setup::new();
        let settings = self.settings(setup.directory(), backend, certificates);
        setup.with(|wanted| *wanted = settings)
    }
}

/// The certificate that a handshake gives. Its chain is valid for [`NAME`].
async fn served(pebble: &Pebble, address: SocketAddr) -> CertificateDer<'static> {
    let client = ResumingClient::trusting(pebble.root().await, NAME);
    leaf(&within("a handshake", client.try_connect(address)).await.unwrap())
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn issued(proxy: &Proxy, count: f64) {
    proxy.wait_for_metric("certificates are issued", ISSUED, |ok| ok >= count).await;
}

/// Mode of a file or folder.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The only file in the storage with this prefix and suffix.
fn stored(proxy: &Proxy, prefix: &str, suffix: &str) -> std::path::PathBuf {
    let folder = fs::read_dir(proxy.directory().join("acme")).unwrap();
    let mut paths = folder.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix) && name.ends_with(suffix)
    });
    let only = paths.next().unwrap_or_else(|| panic!("no {prefix}…{suffix}"));
    assert!(paths.next().is_none(), "one {prefix}…{suffix}");
    only
}

#[tokio::test]
async fn certificate_is_ordered_once_stored_and_ordered_again_for_other_names() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, &pebble.setting(&[NAME])).installed();
    let mut proxy = setup.start().await;
    issued(&proxy, 1.0).await;
    let first = served(&pebble, ports.tls).await;
    let issue = |line: &str| line.contains("certificate issued");
    let logged = proxy.wait_for_stderr("the challenge type", issue).await;
    assert!(logged.contains("tls-alpn-01"), "{logged}");
    let line = |line: &serde_json::Value| {
        line["termination"] == "answered" && line["listener"] == "secure"
    };
    proxy.wait_for_log("the server's handshake", line).await;
    let expiry = format!(
        "moorline_certificate_expiry_seconds{{listener=\"secure\",certificate=\"{NAME}\"}}"
    );
    assert!(proxy.metric(&expiry).await > 1.0);

    // After the order, no challenge is served.
    let root = pebble.root().await;
    let prober = ResumingClient::trusting(root, NAME).offering("acme-tls/1");
    let error = prober.try_connect(ports.tls).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");

    // Other users cannot read the files.
    assert_eq!(mode(&proxy.directory().join("acme")), 0o700);
    for path in [stored(&proxy, "account-", ".json"), stored(&proxy, NAME, ".pem")] {
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }

    // A new binary and a restarted process use the stored certificate.
    proxy.upgrade().await;
    assert_eq!(served(&pebble, ports.tls).await, first);
    proxy.wait_for_predecessors().await;
    let mut proxy = restart(proxy).await;
    assert_eq!(served(&pebble, ports.tls).await, first);
    assert_eq!(pebble.orders(), 1);

    // Other names need a new order, with the same account.
    let settings =
        ports.settings(proxy.directory(), backend.address, &pebble.setting(&[NAME, OTHER]));
    proxy.reload(|wanted| *wanted = settings).await;
    issued(&proxy, 1.0).await;
    assert_ne!(served(&pebble, ports.tls).await, first);
    let client = ResumingClient::trusting(pebble.root().await, OTHER);
    within("a handshake", client.try_connect(ports.tls)).await.unwrap();
    assert_eq!((pebble.orders(), pebble.accounts()), (2, 1));
    proxy.finish().await;
}

/// Kills the proxy and starts it again.
async fn restart(proxy: Proxy) -> Proxy {
    proxy.crash().start().await
}

#[tokio::test]
async fn failed_download_of_an_issued_certificate_is_retried() {
    for failure in [UNAVAILABLE, BAD_NONCE] {
        let ports = Ports::free();
        let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
        let relay = pebble.relay().await;
        // More failures than instant-acme itself retries for a nonce.
        relay.fail(5, failure);
        let backend = Backend::replying("hello").await;
        let setting = pebble.setting_through(&relay, &[NAME]);
        let proxy = ports.setup(backend.address, &setting).start().await;
        issued(&proxy, 1.0).await;
        served(&pebble, ports.tls).await;
        assert_eq!((relay.failed(), pebble.orders()), (5, 1));
        assert_eq!(proxy.metric(FAILED).await, 0.0);
        let status = if failure == UNAVAILABLE { "HTTP 503" } else { "HTTP 400" };
        let log = proxy.stderr_text();
        assert!(log.contains(status) && !log.contains("JSON"), "{log}");
        drop((relay, backend));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn issued_certificate_is_downloaded_after_a_restart() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let relay = pebble.relay().await;
    relay.fail(usize::MAX, UNAVAILABLE);
    let backend = Backend::replying("hello").await;
    let setting = pebble.setting_through(&relay, &[NAME]);
    let proxy = ports.setup(backend.address, &setting).start().await;
    eventually("downloads fail", || relay.failed() > 1).await;
    let pending = stored(&proxy, NAME, ".order.json");
    assert_eq!(mode(&pending), 0o600);
    let setup = proxy.crash();
    relay.fail(0, UNAVAILABLE);
    let proxy = setup.start().await;
    issued(&proxy, 1.0).await;
    served(&pebble, ports.tls).await;
    assert_eq!(pebble.orders(), 1, "{}", proxy.stderr_text());
    eventually("the stored order is removed", || !pending.exists()).await;
    drop((relay, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn order_that_the_server_lost_is_made_again() {
    let ports = Ports::free();
    let mut pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let relay = pebble.relay().await;
    relay.fail(usize::MAX, UNAVAILABLE);
    let backend = Backend::replying("hello").await;
    let setting = pebble.setting_through(&relay, &[NAME]);
    let proxy = ports.setup(backend.address, &setting).start().await;
    eventually("downloads fail", || relay.failed() > 1).await;
    let setup = proxy.crash();
    // A restarted Pebble has no accounts and no orders.
    pebble.down();
    pebble.up().await;
    relay.fail(0, UNAVAILABLE);
    let proxy = setup.start().await;
    issued(&proxy, 1.0).await;
    served(&pebble, ports.tls).await;
    drop((relay, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn broken_stored_certificate_is_renamed_and_ordered_again() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let proxy = ports.setup(backend.address, &pebble.setting(&[NAME])).start().await;
    issued(&proxy, 1.0).await;
    let first = served(&pebble, ports.tls).await;
    let path = stored(&proxy, NAME, ".pem");
    let setup = proxy.crash();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 3]).unwrap();
    let proxy = setup.start().await;
    proxy.wait_for_stderr("that it is broken", |line| line.contains("cannot use")).await;
    issued(&proxy, 1.0).await;
    assert_ne!(served(&pebble, ports.tls).await, first);
    assert_eq!(fs::read(stored(&proxy, NAME, ".bad")).unwrap(), whole[..whole.len() / 3]);
    assert_eq!(pebble.accounts(), 1);
    proxy.finish().await;
}

#[tokio::test]
async fn http_01_on_a_redirecting_listener_follows_a_failed_tls_alpn_01() {
    let ports = Ports::free();
    // No listener is at the port where the server checks TLS-ALPN-01.
    let unused = free_port();
    let pebble = Pebble::start(unused, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, &pebble.setting(&[NAME]));
    let setup = setup.with(|settings| {
        settings.listener("redirect", "\"https\"");
    });
    let proxy = setup.start().await;
    let failure = |line: &str| line.contains("no certificate was issued");
    let logged = proxy.wait_for_stderr("why no certificate was issued", failure).await;
    assert!(logged.contains("tls-alpn-01 challenge failed: chat.example.com"), "{logged}");
    // One challenge type per attempt; the next attempt uses the other type.
    assert_eq!(pebble.orders(), 1);
    proxy.hangup();
    issued(&proxy, 1.0).await;
    served(&pebble, ports.tls).await;
    let log = proxy.stderr_text();
    assert!(log.contains("challenge=http-01"), "{log}");
    assert_eq!(pebble.orders(), 2);
    let prefix = "/.well-known/acme-challenge/";
    let answered = |line: &serde_json::Value| {
        line["status"] == 200 && line["path"].as_str().is_some_and(|path| path.starts_with(prefix))
    };
    let line = proxy.wait_for_log("the server's request", answered).await;
    assert_eq!(line["termination"], "answered");
    let unknown = format!("{prefix}unknown");
    let response = Raw::ask(proxy.web(), message::get(&unknown, "Connection: close\r\n")).await;
    assert_eq!(response.status(), 308, "an unknown token is redirected like every path");
    backend.assert_untouched();
    proxy.finish().await;
}

#[tokio::test]
async fn renewal_keeps_tunnels_and_the_old_certificate_stays_in_use_while_renewals_fail() {
    let ports = Ports::free();
    // Short enough for a renewal within seconds. A slow client may get an expired certificate.
    let mut pebble = Pebble::start(ports.tls, ports.http, 10).await;
    let backend = Backend::manual().await;
    let proxy = ports.setup(backend.address, &pebble.setting(&[NAME])).start().await;
    issued(&proxy, 1.0).await;
    let client = ResumingClient::trusting(pebble.root().await, NAME).without_verification();
    let stream = client.connect(ports.tls).await;
    let first = leaf(&stream);
    let (mut socket, peer) = websocket::tunnel_over(Raw::over(stream), &backend).await;

    issued(&proxy, 2.0).await;
    assert_ne!(leaf(&client.connect(ports.tls).await), first);
    peer.send(b"\x81\x05still").await;
    assert_eq!(socket.exact(7).await, b"\x81\x05still");

    // While the server is down, the last certificate stays in use, for clients that accept it.
    pebble.down();
    proxy.wait_for_metric("a renewal fails", FAILED, |failed| failed > 0.0).await;
    let failure = |line: &str| line.contains("no certificate was issued");
    let logged = proxy.wait_for_stderr("why the renewal failed", failure).await;
    // The I/O error of the killed server differs from run to run.
    assert!(logged.contains("stays in use") && logged.contains("localhost"), "{logged}");
    let last = leaf(&within("a handshake", client.connect(ports.tls)).await);
    // The restarted server has no accounts. A reload shortens the wait.
    pebble.up().await;
    let issue = "certificate issued";
    let renewals = proxy.stderr_text().matches(issue).count();
    proxy.hangup();
    eventually("a renewal", || proxy.stderr_text().matches(issue).count() > renewals).await;
    assert_ne!(leaf(&client.connect(ports.tls).await), last);
    assert!(pebble.accounts() > 0);
    peer.send(b"\x81\x05still").await;
    assert_eq!(socket.exact(7).await, b"\x81\x05still");
    socket.finish().await;
    peer.close();
    proxy.finish().await;
}

#[tokio::test]
async fn handshakes_before_the_first_certificate_are_refused_and_the_log_says_why() {
    let ports = Ports::free();
    let (unused_tls, unused_http) = (free_port(), free_port());
    let pebble = Pebble::start(unused_tls, unused_http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, "");
    let foreign = crate::support::tls::Certificate::make(setup.directory(), "foreign.test");
    let distrusting = pebble.setting_by(&[NAME], &foreign.cert);
    let settings = ports.settings(setup.directory(), backend.address, &distrusting);
    let mut proxy = setup.with(|wanted| *wanted = settings).start().await;
    let failure = |line: &str| line.contains("no certificate was issued");
    let logged = proxy.wait_for_stderr("that the server is not trusted", failure).await;
    assert!(
        logged.contains("invalid peer certificate") && logged.contains("handshakes are refused"),
        "{logged}"
    );
    assert_eq!(pebble.accounts(), 0);
    let client = ResumingClient::trusting(pebble.root().await, NAME);
    let error = client.try_connect(ports.tls).await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    let refused = |line: &serde_json::Value| {
        line["error"].as_str().is_some_and(|why| why.contains("no certificate has been issued yet"))
    };
    proxy.wait_for_log("why the handshake was refused", refused).await;

    // The server is trusted, but finds no answer at its ports.
    let settings = ports.settings(proxy.directory(), backend.address, &pebble.setting(&[NAME]));
    proxy.reload(|wanted| *wanted = settings).await;
    pebble.challenge_failed().await;
    let failure = |kind: &'static str| {
        move |line: &str| line.contains("no certificate was issued") && line.contains(kind)
    };
    let logged = proxy.wait_for_stderr("the server's reason", failure("tls-alpn-01")).await;
    assert!(logged.contains(NAME) && logged.contains("urn:ietf:params:acme:error:"), "{logged}");
    assert_eq!(pebble.orders(), 1, "one order, then a wait");
    // The next process continues the wait. A reload shortens it.
    let proxy = proxy.crash().start().await;
    let waits = |line: &str| line.contains("before this process started");
    proxy.wait_for_stderr("that it waits", waits).await;
    let status = proxy.api().get("/v1/status").await;
    let listeners = status["listeners"].as_array().unwrap();
    let secure = listeners.iter().find(|listener| listener["name"] == "secure").unwrap();
    assert!(secure["certificate_error"].as_str().unwrap().contains("failed"), "{secure}");
    assert_eq!(pebble.orders(), 1);
    proxy.hangup();
    proxy.wait_for_stderr("the reason for the other challenge", failure("http-01")).await;
    assert_eq!(pebble.orders(), 2);
    proxy.finish().await;
}

#[tokio::test]
async fn listeners_with_equal_settings_share_a_certificate_and_status_shows_it() {
    let ports = Ports::free();
    // The server checks at the layer-4 listener.
    let second = free_port();
    let pebble = Pebble::start(second, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setting = pebble.setting(&[NAME]);
    let setup = ports.setup(backend.address, &setting).with(|settings| {
        settings.table(&format!(
            "[listeners.second]\nbind = \"{second}\"\nprotocol = \"tls\"\npool = \"app\"\n\
             certificates = {setting}\n"
        ));
    });
    let proxy = setup.start().await;
    issued(&proxy, 1.0).await;
    let one = served(&pebble, ports.tls).await;
    assert_eq!(served(&pebble, second).await, one);
    assert!(proxy.stderr_text().contains("challenge=tls-alpn-01"), "{}", proxy.stderr_text());
    assert_eq!(pebble.orders(), 1);
    let status = proxy.api().get("/v1/status").await;
    let listeners = status["listeners"].as_array().unwrap();
    for name in ["secure", "second"] {
        let listener = listeners.iter().find(|listener| listener["name"] == name).unwrap();
        let certificates = listener["certificates"].as_array().unwrap();
        assert_eq!(certificates.len(), 1);
        assert_eq!(certificates[0]["names"], serde_json::json!([NAME]));
        assert!(certificates[0]["expires"].as_f64().unwrap() > 1.0);
        assert!(listener["certificate_error"].is_null());
    }
    let web = listeners.iter().find(|listener| listener["name"] == "web").unwrap();
    assert!(web["certificates"].as_array().unwrap().is_empty(), "a plain listener has none");
    proxy.finish().await;
}

#[tokio::test]
async fn processes_that_share_a_folder_order_in_turn_and_share_certificates() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let shared = tempfile::tempdir().unwrap();
    let storage = format!("storage = {:?}, ca =", shared.path().join("acme"));
    let setting = pebble.setting(&[NAME]).replace("ca =", &storage);
    let start = |ports: &Ports| ports.setup(backend.address, &setting).start();
    let one = start(&ports).await;
    issued(&one, 1.0).await;
    // The server cannot reach the second process, so that it can only use the stored certificate.
    let others = Ports::free();
    let other = start(&others).await;
    assert_eq!(served(&pebble, others.tls).await, served(&pebble, ports.tls).await);

    // A process without a stored certificate uses the one that another process stores.
    let files = fs::read_dir(shared.path().join("acme")).unwrap().map(|file| file.unwrap().path());
    let pem = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "pem")).unwrap();
    let kept = fs::read(&pem).unwrap();
    let other = other.crash();
    fs::remove_file(&pem).unwrap();
    let lock = fs::File::open(shared.path().join("acme/lock")).unwrap();
    lock.lock().unwrap();
    let other = other.start().await;
    other.wait_for_stderr("that it has none", |line| line.contains("no certificate for")).await;
    // It waits for the lock, and then uses the stored certificate.
    fs::write(&pem, kept).unwrap();
    drop(lock);
    let taken = |line: &str| line.contains("using the certificate that another process ordered");
    other.wait_for_stderr("that it uses that certificate", taken).await;
    assert_eq!(served(&pebble, others.tls).await, served(&pebble, ports.tls).await);
    assert_eq!(pebble.orders(), 1);
    other.finish().await;
    one.finish().await;
}
