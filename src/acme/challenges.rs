//! What the ACME server is to find here while it looks whether a name is ours.
//!
//! Shared by the orders, which put answers in, and by listeners, which give them out: HTTP-01 by a
//! path (RFC 8555 §8.3), TLS-ALPN-01 by a certificate that only a handshake for `acme-tls/1` gets (RFC
//! 8737). While nothing is asked, both are one load of a pointer. What was put in goes with its
//! [`Posted`], and nothing else does: of two orders for one name the first is answered, then the other.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;

use crate::net::tls::{self, AlpnOverride};

/// Where HTTP-01 looks; a token follows.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// The protocol that TLS-ALPN-01 is done by.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// Every answer that may be asked for.
#[derive(Debug, Default)]
pub struct Challenges {
    /// By token; swapped whole.
    http: ArcSwap<HashMap<Box<str>, Bytes>>,
    /// How handshakes for [`PROTOCOL`] are answered; `None`: nobody is to ask.
    tls: ArcSwapOption<Asked>,
    /// Held while either is replaced.
    writing: Mutex<()>,
}

/// An answer that may be asked for until this is dropped.
#[derive(Debug)]
pub(super) struct Posted {
    challenges: Arc<Challenges>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// By token.
    Http(Box<str>, Bytes),
    /// By server name.
    Tls(Box<str>, Arc<CertifiedKey>),
}

/// Certificates by the server name that is asked for, in the order in which they were put in.
type ByName = HashMap<Box<str>, Vec<Arc<CertifiedKey>>>;

struct Asked {
    certificates: ByName,
    config: Arc<ServerConfig>,
}

/// Gives out the certificate of a server name that is being asked for, and no other.
#[derive(Debug)]
struct Proving(ByName);

impl Challenges {
    /// The answer to a `GET` of this path, where it is one of ours.
    pub fn http(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        self.http.load().get(token).cloned()
    }

    /// How to answer a handshake for [`PROTOCOL`] alone, while one is to be expected.
    pub fn tls(&self) -> Option<AlpnOverride> {
        let asked = self.tls.load();
        let config = Arc::clone(&asked.as_ref()?.config);
        Some(AlpnOverride { protocol: PROTOCOL, config })
    }

    /// Answers HTTP-01.
    pub(super) fn post_http(self: &Arc<Self>, token: &str, answer: &str) -> Posted {
        let _writing = self.writing();
        let mut all = HashMap::clone(&self.http.load());
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        all.insert(token.into(), answer.clone());
        self.http.store(Arc::new(all));
        Posted { challenges: Arc::clone(self), what: What::Http(token.into(), answer) }
    }

    /// Answers TLS-ALPN-01 for a name; `digest` is the SHA-256 of the key authorization.
    ///
    /// # Errors
    /// No certificate can be made for the name.
    pub(super) fn post_tls(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<Posted, Box<dyn std::error::Error + Send + Sync>> {
        let certificate = certificate(name, digest)?;
        let _writing = self.writing();
        let mut all = self.asked();
        all.entry(name.into()).or_default().push(Arc::clone(&certificate));
        self.put_tls(all)?;
        Ok(Posted { challenges: Arc::clone(self), what: What::Tls(name.into(), certificate) })
    }

    fn asked(&self) -> ByName {
        self.tls.load().as_ref().map(|asked| asked.certificates.clone()).unwrap_or_default()
    }

    fn put_tls(&self, certificates: ByName) -> Result<(), rustls::Error> {
        let asked = match certificates.is_empty() {
            true => None,
            false => Some(Arc::new(Asked { config: config(certificates.clone())?, certificates })),
        };
        self.tls.store(asked);
        Ok(())
    }

    fn take_away(&self, what: &What) {
        let _writing = self.writing();
        match what {
            What::Http(token, answer) => {
                let mut all = HashMap::clone(&self.http.load());
                // The same bytes, not equal ones.
                if all.get(token).is_some_and(|posted| posted.as_ptr() == answer.as_ptr()) {
                    all.remove(token);
                    self.http.store(Arc::new(all));
                }
            }
            What::Tls(name, certificate) => {
                let mut all = self.asked();
                if let Some(posted) = all.get_mut(name) {
                    posted.retain(|posted| !Arc::ptr_eq(posted, certificate));
                }
                all.retain(|_, posted| !posted.is_empty());
                if self.put_tls(all).is_err() {
                    self.tls.store(None);
                }
            }
        }
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.challenges.take_away(&self.what);
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.certificates.keys()).finish()
    }
}

impl ResolvesServerCert for Proving {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?)?.first().cloned()
    }
}

/// Self-signed, for the one name, with what proves that we know the answer (RFC 8737 §3).
fn certificate(
    name: &str,
    digest: &[u8],
) -> Result<Arc<CertifiedKey>, Box<dyn std::error::Error + Send + Sync>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let chain = vec![params.self_signed(&key)?.der().clone()];
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = tls::provider().key_provider.load_private_key(key)?;
    // Not by what looks whether they match: that reads no certificate with such an extension.
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn config(certificates: ByName) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Proving(certificates)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Nothing is said in such a session, and none is resumed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
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
    fn an_answer_is_there_for_as_long_as_it_is_posted() {
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
    fn handshakes_are_answered_for_names_that_are_asked_for() {
        let challenges = Arc::new(Challenges::default());
        assert!(challenges.tls().is_none());
        let a = challenges.post_tls("a.test", &[7; 32]).unwrap();
        let b = challenges.post_tls("b.test", &[8; 32]).unwrap();
        assert_eq!(challenges.tls().unwrap().config.alpn_protocols, [PROTOCOL]);
        assert_eq!(challenges.asked().len(), 2);
        drop(a);
        assert!(challenges.asked().contains_key("b.test") && challenges.asked().len() == 1);
        drop(b);
        assert!(challenges.tls().is_none(), "nothing is offered when nothing is asked");
    }

    #[test]
    fn two_orders_for_one_name_leave_each_other_alone() {
        let challenges = Arc::new(Challenges::default());
        let shown = || challenges.asked().get("a.test").map(|posted| Arc::clone(&posted[0]));
        let first = challenges.post_tls("a.test", &[7; 32]).unwrap();
        let is_first = shown().unwrap();
        let second = challenges.post_tls("a.test", &[8; 32]).unwrap();
        assert!(Arc::ptr_eq(&shown().unwrap(), &is_first), "who is being looked at stays");
        drop(first);
        assert!(!Arc::ptr_eq(&shown().unwrap(), &is_first), "and then it is the other's turn");
        drop(second);
        assert!(shown().is_none());
        let path = format!("{WELL_KNOWN}token");
        let first = challenges.post_http("token", "one");
        let _second = challenges.post_http("token", "two");
        drop(first);
        assert_eq!(challenges.http(&path).unwrap(), "two");
    }

    #[tokio::test]
    async fn only_a_client_that_offers_nothing_else_gets_the_challenge() {
        let given = tls::self_signed(&["a.test".to_owned()]).unwrap();
        let terms = config::TlsConfig::new(config::CertificateSource::Given(vec![given.clone()]));
        let resolver = Arc::new(tls::CertificateResolver::new(std::slice::from_ref(&given)));
        let keys = tls::TicketKeys::new(&config::SharedKeys::Made, &[]).unwrap();
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
            let shown = shake(&normal, challenges.tls(), name, offered).await.ok();
            let shown = shown.map(|(alpn, leaf)| (alpn, leaf == given.key.cert[0]));
            let expected = expected.map(|(alpn, normal)| (alpn.as_bytes().to_vec(), normal));
            assert_eq!(shown, expected, "{name} {offered:?}");
        }
    }

    /// The protocol agreed on, and the certificate that the client sees.
    async fn shake(
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
        let seen = Arc::new(Seen::default());
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
        let alpn =
            server.map_err(|refused| refused.error)?.get_ref().1.alpn_protocol().unwrap().to_vec();
        Ok((alpn, seen.0.lock().unwrap().take().unwrap()))
    }

    /// Takes every certificate and keeps it: webpki takes none with a critical extension.
    #[derive(Debug, Default)]
    struct Seen(Mutex<Option<CertificateDer<'static>>>);

    impl ServerCertVerifier for Seen {
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
    fn the_certificate_of_a_challenge_says_what_the_rfc_wants() {
        let digest: Vec<u8> = (0..32).collect();
        let made = certificate("a.test", &digest).unwrap();
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&made.cert[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"a.test\")]");
        let proof = leaf.extensions().iter().find(|e| e.oid.to_string() == "1.3.6.1.5.5.7.1.31");
        let proof = proof.unwrap();
        assert!(proof.critical);
        let octets = [&[4, 32][..], &digest].concat();
        assert_eq!(proof.value, octets, "an OCTET STRING of the hash");
    }
}
