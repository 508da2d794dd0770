//! Certificates by ACME, from a real server: issued by both proofs, kept, renewed in place, and what is
//! said and served where that fails.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{
    Backend, Proxy, Raw, Settings, dns::free_port, eventually, found, message, pebble::Pebble,
    proxy::Setup, tls::Returning, websocket, within,
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
    let client = Returning::trusting(pebble.root().await, NAME);
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
    let asking = Returning::trusting(root, NAME).offering("acme-tls/1");
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
    proxy.alone().await;
    let mut proxy = proxy_again(proxy).await;
    assert_eq!(served(&pebble, ports.tls).await, first);
    assert_eq!(pebble.orders(), 1);

    // Another name is another order, of the same account.
    let settings =
        ports.settings(proxy.directory(), backend.address, &pebble.setting(&[NAME, OTHER]));
    proxy.reload(|wanted| *wanted = settings).await;
    issued(&proxy, 1.0).await;
    assert_ne!(served(&pebble, ports.tls).await, first);
    let client = Returning::trusting(pebble.root().await, OTHER);
    within("a handshake", client.try_connect(ports.tls)).await.unwrap();
    assert_eq!((pebble.orders(), pebble.accounts()), (2, 1));
    proxy.finish().await;
}

/// Starts the proxy again after an end without notice.
async fn proxy_again(proxy: Proxy) -> Proxy {
    proxy.crash().start().await
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
    issued(&proxy, 1.0).await;
    served(&pebble, ports.tls).await;
    let said = proxy.stderr_text();
    assert!(said.contains("by tls-alpn-01: chat.example.com"), "why it was not: {said}");
    assert!(said.contains("by=http-01"), "{said}");
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
    let mut pebble = Pebble::start(ports.tls, ports.http, 6).await;
    let backend = Backend::manual().await;
    let proxy = ports.setup(backend.address, &pebble.setting(&[NAME])).start().await;
    issued(&proxy, 1.0).await;
    let client = Returning::trusting(pebble.root().await, NAME).taking_anything();
    let stream = client.connect(ports.tls).await;
    let first = leaf(&stream);
    let (mut socket, peer) = websocket::over(Raw::over(stream), &backend).await;

    issued(&proxy, 2.0).await;
    assert_ne!(leaf(&client.connect(ports.tls).await), first);
    peer.send(b"\x81\x05still").await;
    assert_eq!(socket.exact(7).await, b"\x81\x05still");

    // Nobody issues any more, and the last one goes on serving, to those who still take it.
    pebble.down();
    proxy.wait_for_metric("a renewal fails", FAILED, |failed| failed > 0.0).await;
    let why = |line: &str| line.contains("no certificate could be had");
    let said = proxy.wait_for_stderr("why", why).await;
    assert!(said.contains("goes on serving") && said.contains("refused"), "{said}");
    let last = leaf(&within("a handshake", client.connect(ports.tls)).await);
    // The server is back, and knows nobody; whoever reloads need not wait.
    pebble.up().await;
    proxy.hangup();
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while leaf(&client.connect(ports.tls).await) == last {
        assert!(tokio::time::Instant::now() < deadline, "{}", proxy.stderr_text());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
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
    let client = Returning::trusting(pebble.root().await, NAME);
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
    let told = |line: &str| {
        line.contains("could be had") && line.contains("tls-alpn-01") && line.contains("http-01")
    };
    let said = proxy.wait_for_stderr("what the server says", told).await;
    assert!(said.contains(NAME) && said.contains("urn:ietf:params:acme:error:"), "{said}");
    let orders = pebble.orders();
    assert_eq!(orders, 2, "one by each proof, and then a pause");
    proxy.hangup();
    eventually("a reload tries again at once", || pebble.orders() > orders).await;
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
    found("a plain listener has none", || {
        let web = listeners.iter().find(|listener| listener["name"] == "web")?;
        web["certificates"].as_array()?.is_empty().then_some(())
    })
    .await;
    proxy.finish().await;
}
