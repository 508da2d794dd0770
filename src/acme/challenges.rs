//! Answers to the challenges of ACME servers.
//!
//! Orders post answers here, and listeners serve them: HTTP-01 at a path (RFC 8555 §8.3), TLS-ALPN-01 with a
//! certificate for handshakes that offer only `acme-tls/1` (RFC 8737). Without a posted answer, both
//! lookups are one load of a pointer. An answer is removed when its [`PostedChallenge`] is dropped. If two
//! orders post an answer for the same name, the first answer is served until it is removed.

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

/// Path prefix of HTTP-01; the token follows.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// ALPN protocol of TLS-ALPN-01.
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// All posted answers.
#[derive(Debug, Default)]
pub struct Challenges {
    /// HTTP-01 answers by token. Each change replaces the whole map.
    http: ArcSwap<HashMap<Box<str>, Bytes>>,
    /// Certificates for handshakes with [`PROTOCOL`]; `None`: no answer is posted.
    tls: ArcSwapOption<TlsChallenges>,
    /// Locked while one of the two is replaced.
    writing: Mutex<()>,
}

/// An answer that is served until this is dropped.
#[derive(Debug)]
pub(super) struct PostedChallenge {
    challenges: Arc<Challenges>,
    answer: PostedAnswer,
}

#[derive(Debug)]
enum PostedAnswer {
    /// Token and response body.
    Http(Box<str>, Bytes),
    /// Server name and certificate.
    Tls(Box<str>, Arc<CertifiedKey>),
}

/// Certificates by server name, in the order in which they were posted.
type ByName = HashMap<Box<str>, Vec<Arc<CertifiedKey>>>;

struct TlsChallenges {
    certificates: ByName,
    config: Arc<ServerConfig>,
}

/// Resolves to the first posted certificate for the server name.
#[derive(Debug)]
struct ChallengeResolver(ByName);

impl Challenges {
    /// The response body for a `GET` of this path, if an answer is posted for it.
    pub fn http(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        self.http.load().get(token).cloned()
    }

    /// TLS settings for handshakes that offer only [`PROTOCOL`], while an answer is posted.
    pub fn tls(&self) -> Option<AlpnOverride> {
        let posted = self.tls.load();
        let config = Arc::clone(&posted.as_ref()?.config);
        Some(AlpnOverride { protocol: PROTOCOL, config })
    }

    /// Posts an answer for HTTP-01.
    pub(super) fn post_http(self: &Arc<Self>, token: &str, answer: &str) -> PostedChallenge {
        let _writing = self.lock();
        let mut all = HashMap::clone(&self.http.load());
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        all.insert(token.into(), answer.clone());
        self.http.store(Arc::new(all));
        PostedChallenge {
            challenges: Arc::clone(self),
            answer: PostedAnswer::Http(token.into(), answer),
        }
    }

    /// Posts an answer for TLS-ALPN-01. `digest` is the SHA-256 of the key authorization.
    ///
    /// # Errors
    /// A certificate cannot be made for the name.
    pub(super) fn post_tls(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<PostedChallenge, Box<dyn std::error::Error + Send + Sync>> {
        let certificate = certificate(name, digest)?;
        let _writing = self.lock();
        let mut all = self.certificates();
        all.entry(name.into()).or_default().push(Arc::clone(&certificate));
        self.replace_certificates(all)?;
        Ok(PostedChallenge {
            challenges: Arc::clone(self),
            answer: PostedAnswer::Tls(name.into(), certificate),
        })
    }

    fn certificates(&self) -> ByName {
        self.tls.load().as_ref().map(|posted| posted.certificates.clone()).unwrap_or_default()
    }

    fn replace_certificates(&self, certificates: ByName) -> Result<(), rustls::Error> {
        let challenges = match certificates.is_empty() {
            true => None,
            false => Some(Arc::new(TlsChallenges {
                config: config(certificates.clone())?,
                certificates,
            })),
        };
        self.tls.store(challenges);
        Ok(())
    }

    fn remove(&self, answer: &PostedAnswer) {
        let _writing = self.lock();
        match answer {
            PostedAnswer::Http(token, body) => {
                let mut all = HashMap::clone(&self.http.load());
                // Compare addresses: another order may have posted equal bytes.
                if all.get(token).is_some_and(|posted| posted.as_ptr() == body.as_ptr()) {
                    all.remove(token);
                    self.http.store(Arc::new(all));
                }
            }
            PostedAnswer::Tls(name, certificate) => {
                let mut all = self.certificates();
                if let Some(posted) = all.get_mut(name) {
                    posted.retain(|posted| !Arc::ptr_eq(posted, certificate));
                }
                all.retain(|_, posted| !posted.is_empty());
                if self.replace_certificates(all).is_err() {
                    self.tls.store(None);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PostedChallenge {
    fn drop(&mut self) {
        self.challenges.remove(&self.answer);
    }
}

impl fmt::Debug for TlsChallenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.certificates.keys()).finish()
    }
}

impl ResolvesServerCert for ChallengeResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?)?.first().cloned()
    }
}

/// Makes a self-signed certificate for the name, with the digest in an extension (RFC 8737 §3).
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
    // `CertifiedKey::from_der` rejects a certificate with this critical extension.
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn config(certificates: ByName) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ChallengeResolver(certificates)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // No data follows these handshakes, so that their sessions are never resumed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
