use std::path::PathBuf;

use bytes::Bytes;
use rustls::{
    HandshakeKind, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::net::Stream;

fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../certs").join(name)
}

/// A server that sends, for each byte, whether the handshake was resumed and the requested server name.
async fn tls_info_server() -> u16 {
    let chain = CertificateDer::pem_file_iter(certificate("site.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificate("site.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = server(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else { return };
            let session = tls.get_ref().1;
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            let name = session.server_name().unwrap_or("none").to_owned();
            if tls.read_u8().await.is_ok() {
                tls.write_u8(u8::from(resumed)).await.unwrap();
                tls.write_all(name.as_bytes()).await.unwrap();
            }
            tls.shutdown().await.unwrap();
        }
    })
    .await;
    address.port()
}

/// Returns what the server says about a connection.
async fn server_report(stream: Result<Stream, Failure>) -> (bool, String) {
    let mut stream = stream.unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut info = Vec::new();
    stream.read_to_end(&mut info).await.unwrap();
    (info[0] == 1, String::from_utf8(info.split_off(1)).unwrap())
}

fn with_ca(options: &mut Options) {
    options.ca = Some(certificate("site.pem"));
}

#[tokio::test]
async fn ca_file_may_start_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let marked = folder.path().join("ca.pem");
    let pem = std::fs::read(certificate("site.pem")).unwrap();
    std::fs::write(&marked, [b"\xef\xbb\xbf", &pem[..]].concat()).unwrap();
    let url = format!("wss://localhost:{}", tls_info_server().await);
    let connector = connector(url, |options| options.ca = Some(marked));
    assert_eq!(server_report(connector.dialer(0).connect().await).await.1, "localhost");
}

#[tokio::test]
async fn given_authority_is_trusted() {
    let connector = connector(format!("wss://localhost:{}", tls_info_server().await), with_ca);
    let (_, name) = server_report(connector.dialer(0).connect().await).await;
    assert_eq!(name, "localhost");
}

#[tokio::test]
async fn other_authorities_are_not_trusted_unless_insecure() {
    let url = format!("https://127.0.0.1:{}", tls_info_server().await);
    let strict = connector(url.clone(), |options| options.ca = Some(certificate("other.pem")));
    let failure = strict.dialer(0).connect().await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Tls);
    assert!(failure.detail.starts_with("the server's certificate is not trusted"), "{failure}");
    let lax = connector(url, |options| options.insecure = true);
    assert_eq!(
        server_report(lax.dialer(0).connect().await).await.1,
        "none",
        "no server name for an address"
    );
}

#[test]
fn ca_file_without_certificates_is_rejected() {
    let url = "wss://127.0.0.1:1";
    for (file, description) in [("none.pem", "cannot read"), ("README.md", "no certificate in")] {
        let scenario = scenario(url.to_owned(), |options| options.ca = Some(certificate(file)));
        let error = Connector::new(&scenario).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(description), "{error}");
    }
}

#[tokio::test]
async fn client_resumes_only_its_own_sessions() {
    let url = format!("wss://localhost:{}", tls_info_server().await);
    let connector = connector(url, with_ca);
    let (one, other) = (connector.dialer(0), connector.dialer(1));
    assert!(!server_report(one.connect().await).await.0);
    for _ in 0..5 {
        assert!(server_report(one.connect().await).await.0);
    }
    assert!(!server_report(other.connect().await).await.0);
}

#[tokio::test]
async fn no_session_is_resumed_if_resumption_is_off() {
    let url = format!("wss://localhost:{}", tls_info_server().await);
    let connector = connector(url, |options| {
        with_ca(options);
        options.no_resume = true;
    });
    let dialer = connector.dialer(0);
    for _ in 0..3 {
        assert!(!server_report(dialer.connect().await).await.0);
    }
}

#[tokio::test]
async fn tls_to_a_plain_text_port_is_reported() {
    let plain = server(|mut tcp| async move {
        tcp.read_u8().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    let silent = server(|mut tcp| async move { tcp.shutdown().await.unwrap() }).await;
    for (address, description) in [
        (plain, "the server does not use TLS: use http:// or ws:// in the URL"),
        (silent, "the server closed the connection during the TLS handshake"),
    ] {
        let connector = connector(format!("wss://{address}"), |options| options.insecure = true);
        let failure = connector.dialer(0).connect().await.unwrap_err();
        assert_eq!((failure.kind, failure.detail.as_str()), (ErrorKind::Tls, description));
    }
}

#[tokio::test]
async fn plain_text_to_a_tls_port_is_reported() {
    let connector = connector(format!("ws://127.0.0.1:{}", tls_info_server().await), |_| ());
    let dialer = connector.dialer(0);
    let description = "the server uses TLS, but the URL does not: use https:// or wss://";
    let failure: Failure = dialer.websocket("/", &HeaderMap::new()).await.unwrap_err().into();
    assert_eq!((failure.kind, failure.detail.as_str()), (ErrorKind::Protocol, description));
    let mut http = dialer.http().await.unwrap();
    let reply = http.send(::http::Method::GET, "/", &HeaderMap::new(), Bytes::new()).await;
    let failure = reply.unwrap_err();
    assert_eq!((failure.kind, failure.detail.as_str()), (ErrorKind::Protocol, description));
}
