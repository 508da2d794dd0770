//! Certificates by ACME, from a real server: issued by both proofs, kept, renewed in place, and what is
//! said and served where that fails.

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

/// Where the proxy is to listen: the server looks for proofs at fixed ports.
struct Ports {
    tls: SocketAddr,
    http: SocketAddr,
}

impl Ports {
    fn free() -> Self {
        Self { tls: free_port(), http: free_port() }
    }

    /// The file: `web` in the clear, where it is wanted, and `secure` by these certificates.
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

/// The certificate that a handshake gives; the chain is good and for [`NAME`].
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

/// The one file in the storage whose name ends so.
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
async fn a_certificate_is_ordered_once_kept_and_ordered_for_other_names() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, &pebble.setting(&[NAME])).installed();
    let mut proxy = setup.start().await;
    issued(&proxy, 1.0).await;
    let first = served(&pebble, ports.tls).await;
    let by = proxy.wait_for_stderr("how it was proved", |line| line.contains("been issued")).await;
    assert!(by.contains("tls-alpn-01"), "{by}");
    let line = |line: &serde_json::Value| {
        line["termination"] == "answered" && line["listener"] == "secure"
    };
    proxy.wait_for_log("the server's handshake", line).await;
    let expiry = format!(
        "moorline_certificate_expiry_seconds{{listener=\"secure\",certificate=\"{NAME}\"}}"
    );
    assert!(proxy.metric(&expiry).await > 1.0);

    // Nothing is asked any more.
    let root = pebble.root().await;
    let asking = ResumingClient::trusting(root, NAME).offering("acme-tls/1");
    let error = asking.try_connect(ports.tls).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");

    // It is nobody else's.
    assert_eq!(mode(&proxy.directory().join("acme")), 0o700);
    for path in [stored(&proxy, "account-", ".json"), stored(&proxy, NAME, ".pem")] {
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }

    // A new process finds it, and a new binary.
    proxy.upgrade().await;
    assert_eq!(served(&pebble, ports.tls).await, first);
    proxy.wait_for_predecessors().await;
    let mut proxy = proxy_again(proxy).await;
    assert_eq!(served(&pebble, ports.tls).await, first);
    assert_eq!(pebble.orders(), 1);

    // Another name is another order, of the same account.
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

/// Starts the proxy again after an end without notice.
async fn proxy_again(proxy: Proxy) -> Proxy {
    proxy.crash().start().await
}

#[tokio::test]
async fn an_issued_certificate_whose_download_fails_is_downloaded_again() {
    for failure in [UNAVAILABLE, BAD_NONCE] {
        let ports = Ports::free();
        let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
        let relay = pebble.relay().await;
        // More often than the protocol's library asks again for a nonce.
        relay.fail(5, failure);
        let backend = Backend::replying("hello").await;
        let setting = pebble.setting_through(&relay, &[NAME]);
        let proxy = ports.setup(backend.address, &setting).start().await;
        issued(&proxy, 1.0).await;
        served(&pebble, ports.tls).await;
        assert_eq!((relay.failed(), pebble.orders()), (5, 1));
        assert_eq!(proxy.metric(FAILED).await, 0.0);
        let status = if failure == UNAVAILABLE { "HTTP 503" } else { "HTTP 400" };
        let said = proxy.stderr_text();
        assert!(said.contains(status) && !said.contains("JSON"), "{said}");
        drop((relay, backend));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_issued_certificate_is_downloaded_after_a_restart() {
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
    eventually("the order is forgotten", || !pending.exists()).await;
    drop((relay, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn an_order_that_its_server_has_no_more_is_made_anew() {
    let ports = Ports::free();
    let mut pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let relay = pebble.relay().await;
    relay.fail(usize::MAX, UNAVAILABLE);
    let backend = Backend::replying("hello").await;
    let setting = pebble.setting_through(&relay, &[NAME]);
    let proxy = ports.setup(backend.address, &setting).start().await;
    eventually("downloads fail", || relay.failed() > 1).await;
    let setup = proxy.crash();
    // It forgets accounts and orders.
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
async fn what_is_stored_and_broken_is_put_aside_and_ordered_again() {
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
    proxy.wait_for_stderr("that it is broken", |line| line.contains("is of no use")).await;
    issued(&proxy, 1.0).await;
    assert_ne!(served(&pebble, ports.tls).await, first);
    assert_eq!(fs::read(stored(&proxy, NAME, ".bad")).unwrap(), whole[..whole.len() / 3]);
    assert_eq!(pebble.accounts(), 1);
    proxy.finish().await;
}

#[tokio::test]
async fn where_no_handshake_reaches_us_a_listener_that_redirects_proves_the_name() {
    let ports = Ports::free();
    // Nobody listens where the server shakes hands.
    let nobody = free_port();
    let pebble = Pebble::start(nobody, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, &pebble.setting(&[NAME]));
    let setup = setup.with(|settings| {
        settings.listener("redirect", "\"https\"");
    });
    let proxy = setup.start().await;
    let told = |line: &str| line.contains("could be had");
    let said = proxy.wait_for_stderr("why it was not", told).await;
    assert!(said.contains("by tls-alpn-01: chat.example.com"), "{said}");
    // One way at a time; the other comes with the next attempt.
    assert_eq!(pebble.orders(), 1);
    proxy.hangup();
    issued(&proxy, 1.0).await;
    served(&pebble, ports.tls).await;
    let said = proxy.stderr_text();
    assert!(said.contains("by=http-01"), "{said}");
    assert_eq!(pebble.orders(), 2);
    let prefix = "/.well-known/acme-challenge/";
    let answered = |line: &serde_json::Value| {
        line["status"] == 200 && line["path"].as_str().is_some_and(|path| path.starts_with(prefix))
    };
    let line = proxy.wait_for_log("the server's question", answered).await;
    assert_eq!(line["termination"], "answered");
    let unknown = format!("{prefix}unknown");
    let response = Raw::ask(proxy.web(), message::get(&unknown, "Connection: close\r\n")).await;
    assert_eq!(response.status(), 308, "what nobody asks for is redirected as all else");
    backend.assert_untouched();
    proxy.finish().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_in_place_and_the_old_one_serves_while_that_fails() {
    let ports = Ports::free();
    // So short that it is renewed within seconds; a client that is slow may find it expired.
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

    // Nobody issues any more, and the last one goes on serving, to those who still take it.
    pebble.down();
    proxy.wait_for_metric("a renewal fails", FAILED, |failed| failed > 0.0).await;
    let why = |line: &str| line.contains("no certificate could be had");
    let said = proxy.wait_for_stderr("why", why).await;
    // Whatever it is that a killed server's connections end with.
    assert!(said.contains("goes on serving") && said.contains("localhost"), "{said}");
    let last = leaf(&within("a handshake", client.connect(ports.tls)).await);
    // The server is back, and knows nobody; whoever reloads need not wait long.
    pebble.up().await;
    let said = "been issued";
    let renewals = proxy.stderr_text().matches(said).count();
    proxy.hangup();
    eventually("a renewal", || proxy.stderr_text().matches(said).count() > renewals).await;
    assert_ne!(leaf(&client.connect(ports.tls).await), last);
    assert!(pebble.accounts() > 0);
    peer.send(b"\x81\x05still").await;
    assert_eq!(socket.exact(7).await, b"\x81\x05still");
    socket.finish().await;
    peer.close();
    proxy.finish().await;
}

#[tokio::test]
async fn before_the_first_one_handshakes_are_refused_and_the_log_says_why() {
    let ports = Ports::free();
    let nobody = (free_port(), free_port());
    let pebble = Pebble::start(nobody.0, nobody.1, MONTH).await;
    let backend = Backend::replying("hello").await;
    let setup = ports.setup(backend.address, "");
    let foreign = crate::support::tls::Certificate::make(setup.directory(), "foreign.test");
    let distrusting = pebble.setting_by(&[NAME], &foreign.cert);
    let settings = ports.settings(setup.directory(), backend.address, &distrusting);
    let mut proxy = setup.with(|wanted| *wanted = settings).start().await;
    let said = proxy
        .wait_for_stderr("that nobody vouches for the server", |line| line.contains("could be had"))
        .await;
    assert!(
        said.contains("invalid peer certificate") && said.contains("handshakes are refused"),
        "{said}"
    );
    assert_eq!(pebble.accounts(), 0);
    let client = ResumingClient::trusting(pebble.root().await, NAME);
    let error = client.try_connect(ports.tls).await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    let refused = |line: &serde_json::Value| {
        line["error"].as_str().is_some_and(|why| why.contains("no certificate has been issued yet"))
    };
    proxy.wait_for_log("why the handshake was refused", refused).await;

    // The server is the right one, and finds nothing where it looks.
    let settings = ports.settings(proxy.directory(), backend.address, &pebble.setting(&[NAME]));
    proxy.reload(|wanted| *wanted = settings).await;
    pebble.refuses().await;
    let told =
        |way: &'static str| move |line: &str| line.contains("could be had") && line.contains(way);
    let said = proxy.wait_for_stderr("what the server says", told("tls-alpn-01")).await;
    assert!(said.contains(NAME) && said.contains("urn:ietf:params:acme:error:"), "{said}");
    assert_eq!(pebble.orders(), 1, "one, and then a pause");
    // It is the pause of whoever comes after it, too; one who asks need not wait as long.
    let proxy = proxy.crash().start().await;
    let waits = |line: &str| line.contains("before this process began");
    proxy.wait_for_stderr("that it waits", waits).await;
    let status = proxy.api().get("/v1/status").await;
    let listeners = status["listeners"].as_array().unwrap();
    let secure = listeners.iter().find(|listener| listener["name"] == "secure").unwrap();
    assert!(secure["certificate_error"].as_str().unwrap().contains("failed"), "{secure}");
    assert_eq!(pebble.orders(), 1);
    proxy.hangup();
    proxy.wait_for_stderr("what the server says of the other way", told("http-01")).await;
    assert_eq!(pebble.orders(), 2);
    proxy.finish().await;
}

#[tokio::test]
async fn listeners_of_equal_terms_share_a_certificate_and_status_tells_of_it() {
    let ports = Ports::free();
    // The server looks at the one of layer 4.
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
    assert!(proxy.stderr_text().contains("by=tls-alpn-01"), "{}", proxy.stderr_text());
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
async fn processes_that_share_a_folder_order_one_after_the_other_and_take_what_is_there() {
    let ports = Ports::free();
    let pebble = Pebble::start(ports.tls, ports.http, MONTH).await;
    let backend = Backend::replying("hello").await;
    let shared = tempfile::tempdir().unwrap();
    let storage = format!("storage = {:?}, ca =", shared.path().join("acme"));
    let setting = pebble.setting(&[NAME]).replace("ca =", &storage);
    let start = |ports: &Ports| ports.setup(backend.address, &setting).start();
    let one = start(&ports).await;
    issued(&one, 1.0).await;
    // Nobody looks at the other one: what it serves has to be there already.
    let others = Ports::free();
    let other = start(&others).await;
    assert_eq!(served(&pebble, others.tls).await, served(&pebble, ports.tls).await);

    // What is removed below a process is not missed, and what another one has got is taken.
    let files = fs::read_dir(shared.path().join("acme")).unwrap().map(|file| file.unwrap().path());
    let pem = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "pem")).unwrap();
    let kept = fs::read(&pem).unwrap();
    let other = other.crash();
    fs::remove_file(&pem).unwrap();
    let lock = fs::File::open(shared.path().join("acme/lock")).unwrap();
    lock.lock().unwrap();
    let other = other.start().await;
    other.wait_for_stderr("that it has none", |line| line.contains("no certificate for")).await;
    // While somebody orders it waits; and then it has what that one leaves.
    fs::write(&pem, kept).unwrap();
    drop(lock);
    let taken = |line: &str| line.contains("another process has renewed");
    other.wait_for_stderr("that it takes the other's", taken).await;
    assert_eq!(served(&pebble, others.tls).await, served(&pebble, ports.tls).await);
    assert_eq!(pebble.orders(), 1);
    other.finish().await;
    one.finish().await;
}
