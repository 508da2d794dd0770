//! TLS to backends: who is believed, what is remembered, and what a client is told otherwise.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Backend, Message, Node, Proxy, Raw, TIMEOUT, backend, eventually,
    front::{Authority, Front, Issued},
    message, process,
    proxy::Setup,
    tls::Certificate,
    websocket, within,
};

/// A route by host `NAME.test` and its pool of one backend, with these lines.
fn pool(name: &str, backend: SocketAddr, lines: &str) -> String {
    format!(
        "[[routes]]\nhost = \"{name}.test\"\npool = \"{name}\"\n[pools.{name}]\n\
         backends = [\"{backend}\"]\nhealth = {{ probe = \"off\" }}\n\
         reuse = {{ idle_timeout = \"1s\" }}\n{lines}\n"
    )
}

async fn ask(proxy: &Proxy, host: &str) -> Message {
    let request = format!("GET /{host} HTTP/1.1\r\nHost: {host}.test\r\n\r\n");
    Raw::ask(proxy.web(), request).await
}

/// What a request to a host fails with: the log's label and sentence.
async fn failure(proxy: &Proxy, host: &str) -> (String, String) {
    let reply = ask(proxy, host).await;
    assert_eq!(reply.status(), 502, "{host}: {}", reply.text());
    let path = format!("/{host}");
    let line = proxy.wait_for_log("the request", |line| line["path"] == path.as_str()).await;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("termination"), text("error"))
}

#[tokio::test]
async fn requests_and_websockets_go_through_tls_from_end_to_end() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let echo = Backend::start(websocket::echo()).await;
    let closing =
        Backend::answering(|_| message::reply("200 OK", "Connection: close\r\n", "ok")).await;
    let mut terms = ca.issue("node.test", |_| {}).shown();
    terms.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (sockets, pages) =
        (Front::before(&echo, terms.clone()).await, Front::before(&closing, terms).await);
    let tls = format!("tls = {{ ca = {:?}, name = \"node.test\", alpn = \"http/1.1\" }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[sockets.address]);
            settings.pool("tls", tls.strip_prefix("tls = ").unwrap());
            settings.table(&pool("pages", pages.address, &tls));
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {}\n",
                site.setting()
            ));
        })
        .start()
        .await;

    for (index, resumed) in [false, true, true].into_iter().enumerate() {
        assert_eq!(ask(&proxy, "pages").await.text(), "ok");
        let shaken = pages.shaken(index).await;
        assert_eq!(shaken.sni.as_deref(), Some("node.test"));
        assert_eq!(shaken.alpn.as_deref(), Some("http/1.1"));
        assert_eq!(shaken.resumed, resumed, "connection {index}");
    }

    let mut client = Raw::tls(proxy.listener("secure"), &site).await;
    client.send(websocket::request("/chat", "")).await;
    assert_eq!(client.response().await.status(), 101);
    let frame = websocket::large_frame(300_000);
    client.send(&frame).await;
    assert!(client.exact(frame.len()).await == frame);
    drop(client);
    let line = proxy.wait_for_log("the tunnel", |line| line["kind"] == "tunnel").await;
    assert!(line["bytes_in"].as_u64() >= Some(300_000), "{line}");
    drop((sockets, pages, echo, closing));
    proxy.finish().await;
}

#[tokio::test]
async fn a_kept_connection_serves_several_requests_until_the_terms_change() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let front = Front::before(&node, ca.issue("127.0.0.1", |_| {}).shown()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[front.address]).pool("tls", &tls);
            settings.pool("reuse", "{ idle_timeout = \"60s\" }");
        })
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "any").await.text(), "ok");
    }
    assert_eq!(node.connections(), 1);
    assert_eq!(front.shaken(0).await.sni, None, "an address is no name to ask for");

    // Nobody vouches for this name.
    let named = format!("{{ ca = {:?}, name = \"node.test\" }}", ca.file);
    proxy.reload(|settings| _ = settings.pool("tls", &named)).await;
    let (label, _) = failure(&proxy, "other").await;
    assert_eq!(label, "backend_handshake_certificate_name");
    proxy.reload(|settings| _ = settings.pool("tls", &tls)).await;
    assert_eq!(ask(&proxy, "again").await.text(), "ok");
    assert_eq!(node.connections(), 2);
    drop((front, node));
    proxy.reload(|settings| _ = settings.pool("reuse", "{ idle_timeout = \"1s\" }")).await;
    proxy.finish().await;
}

#[tokio::test]
async fn fault_065_certificates_that_prove_nothing() {
    let setup = Setup::new();
    let (ca, other) =
        (Authority::make(setup.directory(), "ca"), Authority::make(setup.directory(), "other"));
    let node = Backend::replying("ok").await;
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2901, 1, 1);
        params.not_after = rcgen::date_time_ymd(2902, 1, 1);
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let for_clients = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    let cases = [
        (
            "expired",
            ca.issue("node.test", past),
            "certificate_expired",
            "(subject CN=node.test, issuer CN=ca) expired on 2002-01-01T00:00:00Z; renew it",
        ),
        (
            "early",
            ca.issue("node.test", future),
            "certificate_expired",
            "is not valid before 2901-01-01T00:00:00Z; check the clocks",
        ),
        (
            "name",
            ca.issue("else.test", |_| {}),
            "certificate_name",
            "is for else.test, not for node.test; set `tls.name`",
        ),
        (
            "ca",
            other.issue("node.test", |_| {}),
            "certificate_untrusted",
            "issuer CN=other) is not from an authority of `tls.ca`; add the issuer's certificate",
        ),
        (
            "itself",
            Issued::by_itself("node.test"),
            "certificate_untrusted",
            "is self-signed and is not in `tls.ca`; add it there",
        ),
        (
            "authority",
            ca.issue("node.test", authority),
            "certificate_invalid",
            "is the certificate of an authority, used as a server's; add exactly this certificate",
        ),
        (
            "client",
            ca.issue("node.test", for_clients),
            "certificate_invalid",
            "its extended key usage lacks serverAuth",
        ),
        (
            "nameless",
            ca.issue("node.test", |params| params.subject_alt_names.clear()),
            "certificate_name",
            "has no subjectAltName, and its common name is not used; issue it for node.test",
        ),
    ];
    let mut fronts = Vec::new();
    let mut tables = String::new();
    for (host, issued, ..) in &cases {
        let front = Front::before(&node, issued.shown()).await;
        let tls = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
        tables += &pool(host, front.address, &tls);
        fronts.push(front);
    }
    let proxy = setup.with(|settings| _ = settings.backends(&[node.address]).table(&tables));
    let proxy = proxy.start().await;
    for (host, _, kind, sentence) in cases {
        let (label, error) = failure(&proxy, host).await;
        assert_eq!(label, format!("backend_handshake_{kind}"), "{host}");
        assert!(error.contains(sentence), "{host}: {error}");
    }
    let text = ask(&proxy, "expired").await.text();
    assert!(text.starts_with("The backend's certificate is not valid."), "{text}");
    node.assert_untouched();
    drop((fronts, node));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_065_plaintext_before_tls() {
    let setup = Setup::new();
    let silent_until_asked = Backend::replying("plain").await;
    let greeting = Backend::start(backend::script(|peer| async move {
        peer.send("220 mail.test ESMTP\r\n").await;
        peer.ended().await;
    }))
    .await;
    let closing = Backend::start(backend::script(|_| async {})).await;
    let ca = Authority::make(setup.directory(), "ca");
    let tls = format!("tls = {{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[silent_until_asked.address]);
            settings.pool("timeouts", "{ connect = \"1s\" }");
            settings.pool("tls", tls.strip_prefix("tls = ").unwrap());
            settings.table(&pool("greeting", greeting.address, &tls));
            settings.table(&pool("closing", closing.address, &tls));
        })
        .start()
        .await;
    let (label, error) = failure(&proxy, "greeting").await;
    assert_eq!(label, "backend_handshake_not_tls");
    assert!(error.contains("not TLS; leave `tls` out"), "{error}");
    let (label, _) = failure(&proxy, "closing").await;
    assert!(
        ["backend_handshake_incomplete", "backend_handshake_reset"].contains(&label.as_str()),
        "{label}"
    );
    // A server of text waits for a line that never comes, or answers in text: no TLS either way.
    let reply = ask(&proxy, "any").await;
    assert!([502, 504].contains(&reply.status()), "{}", reply.status());
    assert!(!silent_until_asked.saw("GET"), "in clear");
    drop((silent_until_asked, greeting, closing));
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_that_cannot_prove_itself_is_down_before_anybody_meets_it() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let good = Front::before(&node, ca.issue("127.0.0.1", |_| {}).shown()).await;
    let bad = Front::before(&node, Issued::by_itself("127.0.0.1").shown()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    let line = proxy
        .wait_for_stderr("the verdict", |line| {
            line.contains("backend is down") && line.contains(&bad.address.to_string())
        })
        .await;
    assert!(line.contains("is self-signed"), "{line}");
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    drop((good, bad, node));
    proxy.finish().await;
}

/// `tls` of a pool whose backend's own certificate is its `ca`.
fn pinned(issued: &Issued, setup: &Setup, name: &str) -> String {
    issued.write(setup.directory(), name);
    format!("tls = {{ ca = {:?} }}", setup.directory().join(format!("{name}.pem")))
}

#[tokio::test]
async fn a_self_signed_certificate_as_its_own_ca_is_accepted() {
    let setup = Setup::new();
    let node = Backend::replying("ok").await;
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let nameless = |params: &mut rcgen::CertificateParams| params.subject_alt_names.clear();
    // As `openssl req -x509` makes it: an authority, by its common name only.
    let (cert, key) = (setup.directory().join("made.pem"), setup.directory().join("made.key"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=me"])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl, which tests/setup installs");
    assert!(made.status.success());
    let accepted = [
        ("authority", Issued::by_itself_with("127.0.0.1", authority)),
        ("leaf", Issued::by_itself("127.0.0.1")),
        ("elsewhere", Issued::by_itself("else.test")),
        ("nameless", Issued::by_itself_with("127.0.0.1", nameless)),
        ("openssl", Issued::from_files(&cert, &key)),
    ];
    let expired = Issued::by_itself_with("127.0.0.1", past);
    let other = Issued::by_itself_with("127.0.0.1", authority);
    let mut fronts = Vec::new();
    let mut tables = String::new();
    for (host, issued) in &accepted {
        let front = Front::before(&node, issued.shown()).await;
        tables += &pool(host, front.address, &pinned(issued, &setup, host));
        fronts.push(front);
    }
    let front = Front::before(&node, expired.shown()).await;
    tables += &pool("expired", front.address, &pinned(&expired, &setup, "expired"));
    fronts.push(front);
    // Another certificate of the same names is not the one that was given.
    let front = Front::before(&node, other.shown()).await;
    tables += &pool("other", front.address, &pinned(&accepted[0].1, &setup, "authority"));
    fronts.push(front);
    let proxy = setup.with(|settings| _ = settings.backends(&[node.address]).table(&tables));
    let proxy = proxy.start().await;
    for (host, _) in accepted {
        assert_eq!(ask(&proxy, host).await.text(), "ok", "{host}: {:?}", proxy.log_lines());
    }
    let (label, error) = failure(&proxy, "expired").await;
    assert_eq!(label, "backend_handshake_certificate_expired");
    assert!(error.contains("expired on 2002-01-01T00:00:00Z"), "{error}");
    let (label, error) = failure(&proxy, "other").await;
    assert!(label.starts_with("backend_handshake_certificate_"), "{label}: {error}");
    assert!(error.contains("tls.ca"), "{error}");
    drop((fronts, node));
    proxy.finish().await;
}

/// Shows one certificate in the first handshake, and another in those that follow.
#[derive(Debug)]
struct Turning {
    first: Arc<dyn ResolvesServerCert>,
    then: Arc<dyn ResolvesServerCert>,
    turned: AtomicBool,
}

impl ResolvesServerCert for Turning {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.turned.swap(true, Ordering::Relaxed) {
            true => self.then.resolve(hello),
            false => self.first.resolve(hello),
        }
    }
}

#[tokio::test]
async fn another_backend_is_tried_and_health_hears_of_it() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let terms = ca.issue("127.0.0.1", |_| {}).shown();
    let good = Front::before(&node, terms.clone()).await;
    let mut turning = terms;
    turning.cert_resolver = Arc::new(Turning {
        first: turning.cert_resolver,
        then: Issued::by_itself("127.0.0.1").shown().cert_resolver,
        turned: AtomicBool::new(false),
    });
    turning.send_tls13_tickets = 0;
    let bad = Front::before(&node, turning).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            // The first probes find nothing wrong; the next ones are far away.
            settings.pool("health", "{ probe = \"tcp\", interval = \"60s\", fall = 1 }");
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    bad.shaken(0).await;
    good.shaken(0).await;
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    assert_eq!(proxy.metric("moorline_retries_total").await, 1.0);
    let line = proxy
        .wait_for_stderr("the verdict", |line| {
            line.contains("failed under traffic") && line.contains(&bad.address.to_string())
        })
        .await;
    assert!(line.contains("Down"), "{line}");
    drop((good, bad, node));
    proxy.finish().await;
}

/// Most that a stream may add to the proxy's memory, whatever goes through it.
const FLAT: usize = 8 << 20;

#[tokio::test]
async fn fault_075_streams_from_tls_to_tls_take_no_more_memory() {
    const BULK: usize = 64 << 20;
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let node = Backend::manual().await;
    let front = Front::before(&node, ca.issue("127.0.0.1", |_| {}).shown()).await;
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[front.address]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.listener("protocol", "\"tls\"").listener("certificates", &site.setting());
        })
        .start()
        .await;
    let mut client = Raw::tls(proxy.web(), &site).await;
    // The buffers that any traffic needs are there before the measurement.
    client.send("warm").await;
    let peer = node.peer(0).await;
    peer.wait_for_rest(b"warm").await;
    process::reset_peak(proxy.pid());
    let before = process::resident(proxy.pid());
    peer.check_pattern();
    assert_eq!(client.fill(BULK, TIMEOUT).await, BULK);
    client.finish().await;
    peer.ended().await;
    assert_eq!(peer.checked(), BULK);
    let grown = process::peak(proxy.pid()).saturating_sub(before);
    assert!(grown < FLAT, "memory grew by {grown}");
    drop((client, peer, front, node));
    proxy.finish().await;
}

#[tokio::test]
async fn an_end_that_a_client_does_not_tell_in_tls_is_not_told_to_a_backend_either() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let site = Certificate::make(setup.directory(), "app.test");
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(ca.issue("127.0.0.1", |_| {}).shown()));
    let proxy = setup
        .with(|settings| {
            settings.unrouted().backends(&[node.local_addr().unwrap()]);
            settings.pool("tls", &format!("{{ ca = {:?} }}", ca.file));
            settings.pool("health", "{ probe = \"off\" }");
            settings.listener("protocol", "\"tls\"").listener("certificates", &site.setting());
        })
        .start()
        .await;
    for tells in [true, false] {
        let mut client = Raw::tls(proxy.web(), &site).await;
        let (socket, _) = within("a connection", node.accept()).await.unwrap();
        let mut stream = within("a handshake", acceptor.accept(socket)).await.unwrap();
        client.send("last words").await;
        let mut heard = [0; 10];
        within("its words", stream.read_exact(&mut heard)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        // What it has read makes its end no reset.
        client.exact(1).await;
        if tells {
            client.finish().await;
        } else {
            drop(client);
        }
        let end = within("its end", stream.read(&mut heard)).await;
        match end {
            Ok(0) => assert!(tells, "nobody has vouched for it"),
            Err(error) => assert!(!tells && error.kind() == ErrorKind::UnexpectedEof, "{error}"),
            Ok(count) => panic!("{count} bytes"),
        }
    }
    drop(node);
    proxy.finish().await;
}

#[tokio::test]
async fn a_failed_handshake_under_traffic_is_retried_elsewhere_and_counts() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let good = Front::before(&node, ca.issue("127.0.0.1", |_| {}).shown()).await;
    let bad = Front::before(&node, Issued::by_itself("127.0.0.1").shown()).await;
    let tls = format!("{{ ca = {:?} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[bad.address, good.address]).pool("tls", &tls);
            settings.pool("balance", "\"round-robin\"");
            settings.pool("outlier", "{ consecutive = 2 }");
        })
        .start()
        .await;
    for n in 0..6 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok", "request {n}");
    }
    assert_eq!(proxy.metric("moorline_retries_total").await, 2.0);
    assert_eq!(proxy.metric("moorline_ejections_total").await, 1.0);
    drop((good, bad, node));
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_may_ask_for_a_certificate() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Backend::replying("ok").await;
    let terms = ca.issue("node.test", |_| {}).shown_to(ca.asking());
    let front = Front::before(&node, terms).await;
    let ours = ca.issue("moorline.test", |_| {}).write(setup.directory(), "ours");
    let tls = |more: &str| format!("tls = {{ ca = {:?}, name = \"node.test\"{more} }}", ca.file);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[node.address]);
            let ours = format!(", client_cert = {ours}");
            settings.table(&pool("with", front.address, &tls(&ours)));
            settings.table(&pool("without", front.address, &tls("")));
            settings.table(
                "[listeners.stream]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"without\"\n",
            );
        })
        .start()
        .await;
    assert_eq!(ask(&proxy, "with").await.text(), "ok");
    // In TLS 1.3 the server says so after our side of the handshake is over.
    let (label, error) = failure(&proxy, "without").await;
    assert_eq!(label, "backend_response_header_alert");
    assert!(error.contains("CertificateRequired"), "{error}");
    assert_eq!(node.requests().len(), 1);
    // A stream is on its way by then.
    let mut stream = Raw::connect(proxy.listener("stream")).await;
    stream.assert_closed().await;
    let of_stream = |line: &serde_json::Value| line["kind"] == "stream";
    let line = proxy.wait_for_log("the stream's line", of_stream).await;
    assert_eq!(line["termination"], "backend_tunnel_alert", "{line}");
    assert!(line["error"].as_str().unwrap().contains("CertificateRequired"), "{line}");
    drop((front, node));
    proxy.finish().await;
}

#[tokio::test]
async fn verification_is_turned_off_with_a_warning_each_time_that_it_is() {
    const OFF: &str = "backend certificates of the pool app are not verified";
    let node = Backend::replying("ok").await;
    let front = Front::before(&node, Issued::by_itself("node.test").shown()).await;
    let mut proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[front.address]).pool("tls", "{ verify = false }");
            settings.pool("timeouts", "{ connect = \"9s\" }");
        })
        .start()
        .await;
    let warnings = |proxy: &Proxy| proxy.stderr().iter().filter(|l| l.contains(OFF)).count();
    let line = proxy.wait_for_stderr("the warning", |line| line.contains(OFF)).await;
    assert!(line.contains("WARN") && line.contains("moorline.toml:"), "{line}");
    assert_eq!(ask(&proxy, "any").await.text(), "ok");
    proxy.reload(|s| _ = s.pool("timeouts", "{ connect = \"8s\" }")).await;
    assert_eq!(warnings(&proxy), 1, "nothing new");
    proxy.reload(|s| _ = s.pool("tls", "false")).await;
    proxy.reload(|s| _ = s.pool("tls", "{ verify = false }")).await;
    eventually("the second warning", || warnings(&proxy) == 2).await;
    drop((front, node));
    proxy.finish().await;
}

#[tokio::test]
async fn every_probe_goes_through_tls() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node = Node::start("a").await;
    let sockets = Backend::start(backend::script(|peer| async move {
        let Some(request) = peer.head().await else { return };
        peer.send(websocket::switching(&request)).await;
        peer.send(websocket::close("bye")).await;
        peer.ended().await;
    }))
    .await;
    let issued = ca.issue("node.test", |_| {});
    let engine = Front::before(&node.backend, issued.shown()).await;
    let socket = Front::before(&sockets, issued.shown()).await;
    let probes = [
        ("tcp", engine.address, "probe = \"tcp\""),
        ("page", engine.address, "probe = \"http\", path = \"/socket.io/?transport=polling\""),
        ("socket", socket.address, "probe = \"websocket\""),
    ];
    let mut tables = String::new();
    for (name, address, probe) in probes {
        let lines = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
        let health = format!("health = {{ {probe}, interval = \"60s\", fall = 1 }}");
        tables += &pool(name, address, &lines).replace("health = { probe = \"off\" }", &health);
    }
    let proxy =
        setup.with(|settings| _ = settings.backends(&[node.backend.address]).table(&tables));
    let proxy = proxy.start().await;
    eventually("the probes' connections", || {
        node.backend.connections() >= 2 && sockets.connections() == 1
    })
    .await;
    for (name, ..) in probes {
        let up = format!("moorline_backend_up{{pool=\"{name}\"");
        proxy.wait_for_metric("the backend is up", &up, |up| up == 1.0).await;
    }
    let lines = proxy.stderr();
    assert!(!lines.iter().any(|line| line.contains("Down")), "{lines:#?}");
    assert_eq!(engine.shaken(0).await.sni.as_deref(), Some("node.test"));
    drop((engine, socket, node, sockets));
    proxy.finish().await;
}

#[tokio::test]
async fn streams_of_layer_4_go_on_in_tls() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let greeting = Backend::start(backend::script(|peer| async move {
        peer.send("220 hello\r\n").await;
        peer.ended().await;
    }))
    .await;
    let good = Front::before(&greeting, ca.issue("node.test", |_| {}).shown()).await;
    let bad = Front::before(&greeting, ca.issue("else.test", |_| {}).shown()).await;
    let tls = format!("tls = {{ ca = {:?}, name = \"node.test\" }}", ca.file);
    let listener = |name: &str| {
        format!(
            "[listeners.{name}]\nbind = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npool = \"{name}\"\n"
        )
    };
    let tables = [
        pool("good", good.address, &tls),
        pool("bad", bad.address, &tls),
        listener("good"),
        listener("bad"),
    ];
    let proxy = setup.with(|settings| {
        settings.backends(&[greeting.address]).table(&tables.concat());
    });
    let proxy = proxy.start().await;
    let mut client = Raw::connect(proxy.listener("good")).await;
    assert_eq!(client.exact(11).await, b"220 hello\r\n");
    client.send("helo\r\n").await;
    eventually("its answer", || greeting.saw("helo\r\n")).await;
    Raw::connect(proxy.listener("bad")).await.assert_closed().await;
    let line = proxy.wait_for_log("its line", |line| line["listener"] == "bad").await;
    assert_eq!(line["termination"], "backend_handshake_certificate_name", "{line}");
    drop((client, good, bad, greeting));
    proxy.finish().await;
}

#[tokio::test]
async fn a_session_is_resumed_where_it_began_and_nowhere_else() {
    let setup = Setup::new();
    let ca = Authority::make(setup.directory(), "ca");
    let node =
        Backend::answering(|_| message::reply("200 OK", "Connection: close\r\n", "ok")).await;
    let issued = ca.issue("node.test", |_| {});
    let one = Front::before(&node, issued.shown()).await;
    let two = Front::before(&node, issued.shown()).await;
    let tls = format!("{{ ca = {:?}, name = \"node.test\" }}", ca.file);
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[one.address, two.address]).pool("tls", &tls);
            settings.pool("balance", "\"round-robin\"");
        })
        .start()
        .await;
    for n in 0..4 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    // What a pool is reached by outlives a reload that leaves that alone.
    proxy.reload(|settings| _ = settings.pool("timeouts", "{ connect = \"9s\" }")).await;
    for n in 4..6 {
        assert_eq!(ask(&proxy, &format!("n{n}")).await.text(), "ok");
    }
    for front in [&one, &two] {
        for (index, resumed) in [false, true, true].into_iter().enumerate() {
            assert_eq!(front.shaken(index).await.resumed, resumed, "connection {index}");
        }
    }
    drop((one, two, node));
    proxy.finish().await;
}
