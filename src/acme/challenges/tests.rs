use std::io;

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::{config, net::tls::TlsInfo};

#[test]
fn answer_is_served_while_it_is_posted() {
    let challenges = Arc::new(Challenges::default());
    let path = format!("{WELL_KNOWN}token");
    assert!(challenges.http(&path).is_none());
    let posted = challenges.post_http("token", "token.thumb");
    let other = challenges.post_http("other", "other.thumb");
    assert_eq!(challenges.http(&path).unwrap(), "token.thumb");
    assert!(challenges.http("/.well-known/acme-challenge").is_none());
    assert!(challenges.http(&format!("{path}/more")).is_none());
    drop(posted);
    assert!(challenges.http(&path).is_none());
    assert!(challenges.http(&format!("{WELL_KNOWN}other")).is_some());
    drop(other);
}

#[test]
fn handshakes_get_certificates_of_posted_names_only() {
    let challenges = Arc::new(Challenges::default());
    assert!(challenges.tls().is_none());
    let a = challenges.post_tls("a.test", &[7; 32]).unwrap();
    let b = challenges.post_tls("b.test", &[8; 32]).unwrap();
    assert_eq!(challenges.tls().unwrap().config.alpn_protocols, [PROTOCOL]);
    assert_eq!(challenges.certificates().len(), 2);
    drop(a);
    assert!(
        challenges.certificates().contains_key("b.test") && challenges.certificates().len() == 1
    );
    drop(b);
    assert!(challenges.tls().is_none(), "nothing is offered without a posted answer");
}

#[test]
fn two_orders_for_one_name_do_not_disturb_each_other() {
    let challenges = Arc::new(Challenges::default());
    let shown = || challenges.certificates().get("a.test").map(|posted| Arc::clone(&posted[0]));
    let first = challenges.post_tls("a.test", &[7; 32]).unwrap();
    let is_first = shown().unwrap();
    let second = challenges.post_tls("a.test", &[8; 32]).unwrap();
    assert!(Arc::ptr_eq(&shown().unwrap(), &is_first), "the first answer stays");
    drop(first);
    assert!(!Arc::ptr_eq(&shown().unwrap(), &is_first), "then the second answer is served");
    drop(second);
    assert!(shown().is_none());
    let path = format!("{WELL_KNOWN}token");
    let first = challenges.post_http("token", "one");
    let _second = challenges.post_http("token", "two");
    drop(first);
    assert_eq!(challenges.http(&path).unwrap(), "two");
}

#[tokio::test]
async fn only_a_client_that_offers_acme_tls_alone_gets_the_challenge() {
    let normal_certificate = tls::self_signed(&["a.test".to_owned()]).unwrap();
    let terms = config::TlsConfig::new(config::CertificateSource::Configured(vec![
        normal_certificate.clone(),
    ]));
    let resolver =
        Arc::new(tls::CertificateResolver::new(std::slice::from_ref(&normal_certificate)));
    let keys = tls::TicketKeys::new(&config::SharedKeys::Generated, &[]).unwrap();
    let normal = tls::Terminator::new(&terms, &["http/1.1"], resolver, &keys).unwrap();
    let challenges = Arc::new(Challenges::default());
    let _posted = challenges.post_tls("a.test", &[7; 32]).unwrap();
    for (name, offered, expected) in [
        ("a.test", &["acme-tls/1"][..], Some(("acme-tls/1", false))),
        ("a.test", &["http/1.1", "acme-tls/1"], Some(("http/1.1", true))),
        ("a.test", &["acme-tls/1", "http/1.1"], Some(("http/1.1", true))),
        ("a.test", &["h2", "acme-tls/1"], None),
        ("b.test", &["acme-tls/1"], None),
        ("a.test", &["http/1.1"], Some(("http/1.1", true))),
    ] {
        let shown = handshake(&normal, challenges.tls(), name, offered).await.ok();
        let shown = shown.map(|(alpn, leaf)| (alpn, leaf == normal_certificate.key.cert[0]));
        let expected = expected.map(|(alpn, normal)| (alpn.as_bytes().to_vec(), normal));
        assert_eq!(shown, expected, "{name} {offered:?}");
    }
}

/// Returns the negotiated protocol, and the certificate that the client gets.
async fn handshake(
    normal: &tls::Terminator,
    alpn_override: Option<AlpnOverride>,
    name: &'static str,
    offered: &[&str],
) -> io::Result<(Vec<u8>, CertificateDer<'static>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = async {
        let (socket, _) = listener.accept().await?;
        normal.accept_with_override(alpn_override, socket, &mut TlsInfo::default()).await
    };
    let seen = Arc::new(AnyCertificate::default());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let client = async {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name).unwrap();
        TlsConnector::from(Arc::new(client)).connect(name, socket).await
    };
    let (server, client) = tokio::join!(server, client);
    client?;
    let alpn = server.map_err(|refused| refused.error)?.session().alpn_protocol().unwrap().to_vec();
    Ok((alpn, seen.0.lock().unwrap().take().unwrap()))
}

/// Accepts and stores every certificate. Webpki rejects unknown critical extensions.
#[derive(Debug, Default)]
struct AnyCertificate(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(leaf.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn challenge_certificate_has_the_extension_of_rfc_8737() {
    let digest: Vec<u8> = (0..32).collect();
    let made = certificate("a.test", &digest).unwrap();
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&made.cert[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"a.test\")]");
    let extension = leaf.extensions().iter().find(|e| e.oid.to_string() == "1.3.6.1.5.5.7.1.31");
    let extension = extension.unwrap();
    assert!(extension.critical);
    let octets = [&[4, 32][..], &digest].concat();
    assert_eq!(extension.value, octets, "an OCTET STRING of the hash");
}
