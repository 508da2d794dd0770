//! Handshakes over loopback.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client};

use super::{provider::PROVIDER, *};
use crate::{
    config::{self, Certificate, SharedKeys},
    error::FailureKind,
    net::stream::ClientStream,
    net::tls::TlsInfo,
};

fn certificate(names: &[&str]) -> Certificate {
    self_signed(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
}

fn client_config(
    trusted: &[&Certificate],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.key.cert[0].clone()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone());
    let builder = builder.with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Connects once; returns both streams or their errors.
async fn connect(
    server: &Terminator,
    client: &Arc<ClientConfig>,
    name: &str,
) -> (io::Result<(ClientStream, TlsInfo)>, io::Result<client::TlsStream<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let ours = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut secured = TlsInfo::default();
        let accepted = server.accept(socket, &mut secured).await;
        let mut stream = accepted.map_err(|refused| refused.error)?;
        // A client receives tickets when it reads.
        stream.write_all(b"!").await?;
        Ok((ClientStream::Tls(stream), secured))
    };
    let theirs = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = TlsConnector::from(client.clone()).connect(name, socket).await?;
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0; 1]).await?;
        Ok(stream)
    };
    tokio::join!(ours, theirs)
}

fn keys() -> TicketKeys {
    TicketKeys::new(&SharedKeys::Generated, &[]).unwrap()
}

fn terminator(certificates: &[Certificate], keys: &TicketKeys) -> Terminator {
    let tls = config::TlsConfig::new(config::CertificateSource::Configured(certificates.to_vec()));
    let resolver = Arc::new(CertificateResolver::new(certificates));
    Terminator::new(&tls, &["http/1.1"], resolver, keys).unwrap()
}

#[tokio::test]
async fn both_versions_work_and_the_connection_reports_them() {
    let certificates = [certificate(&["default.test"]), certificate(&["*.example.com"])];
    let server = terminator(&certificates, &keys());
    let versions = [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")];
    for (version, agreed) in versions {
        let mut client = client_config(&[&certificates[1]], &[version]);
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (ours, theirs) = connect(&server, &Arc::new(client), "Chat.Example.Com").await;
        let ((ours, secured), theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(secured.sni.as_deref(), Some("chat.example.com"));
        assert_eq!(ours.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(secured.version.map(|(version, _)| version), Some(agreed));
        assert!(ours.is_tls() && !ours.is_resumed());
        let chain = theirs.get_ref().1.peer_certificates().unwrap();
        assert_eq!(chain, certificates[1].key.cert);
    }
}

#[tokio::test]
async fn sessions_resume_after_reload_and_upgrade_but_not_with_other_keys() {
    let certificates = [certificate(&["chat.test"])];
    for version in [&TLS12, &TLS13] {
        let keys = keys();
        let client = Arc::new(client_config(&[&certificates[0]], &[version]));
        let mut resumed = Vec::new();
        let next = TicketKeys::new(&SharedKeys::Generated, &keys.export()).unwrap();
        for keys in [&keys, &keys, &next, &super::tests::keys()] {
            let server = terminator(&certificates, keys);
            let (ours, theirs) = connect(&server, &client, "chat.test").await;
            theirs.unwrap();
            resumed.push(ours.unwrap().0.is_resumed());
        }
        assert_eq!(resumed, [false, true, true, false], "{version:?}");
    }
}

#[tokio::test]
async fn handshake_messages_may_arrive_in_pieces() {
    let certificates = [certificate(&["chat.test"])];
    let server = terminator(&certificates, &keys());
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(client_config(&[&certificates[0]], &[version]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pipe, mut relayed) = tokio::io::duplex(7);
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.set_nodelay(true).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let mut secured = TlsInfo::default();
        let handshake = async {
            let name = ServerName::try_from("chat.test").unwrap();
            let connector = TlsConnector::from(client);
            tokio::join!(server.accept(socket, &mut secured), connector.connect(name, pipe))
        };
        let (ours, theirs) = tokio::select! {
            both = handshake => both,
            end = tokio::io::copy_bidirectional(&mut relayed, &mut sender) => panic!("{end:?}"),
        };
        assert!(ours.is_ok() && theirs.is_ok(), "{version:?}");
        assert_eq!(secured.sni.as_deref(), Some("chat.test"));
    }
}

#[tokio::test]
async fn client_without_common_protocol_fails_with_an_alert() {
    let certificates = [certificate(&["chat.test"])];
    let server = terminator(&certificates, &keys());
    let mut client = client_config(&[&certificates[0]], &[&TLS13]);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (ours, theirs) = connect(&server, &Arc::new(client), "chat.test").await;
    assert_eq!(kind(&ours.unwrap_err()), FailureKind::Alert);
    assert!(theirs.is_err());
}

#[tokio::test]
async fn plain_http_is_rejected_as_not_tls() {
    let certificates = [certificate(&["chat.test"])];
    let server = terminator(&certificates, &keys());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let refused = server.accept(socket, &mut TlsInfo::default()).await.unwrap_err();
    assert!(
        refused.alert.is_some_and(|(_, alert)| alert.is_empty()),
        "rustls has sent its own alert"
    );
    let error = refused.error;
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
    assert_eq!(kind(&error), FailureKind::NotTls);
}

#[tokio::test]
async fn generated_certificate_is_valid_for_an_ip_address() {
    let certificates = [certificate(&["localhost", "127.0.0.1"])];
    let server = terminator(&certificates, &keys());
    let client = Arc::new(client_config(&[&certificates[0]], &[&TLS13]));
    let (ours, theirs) = connect(&server, &client, "127.0.0.1").await;
    theirs.unwrap();
    assert_eq!(ours.unwrap().1.sni, None);
}
