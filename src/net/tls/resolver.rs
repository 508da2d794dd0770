//! Selects the certificate for a client.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::validity::unstapled;
use crate::config::{Certificate, staple};

/// Selects a certificate by the client's server name: exact names, then wildcards, then the default.
///
/// A name can have several certificates, for example ECDSA and RSA, exact or by wildcard. The first in this order
/// whose key the client can verify is used; rustls offers only signature schemes that match a common cipher suite.
/// The default is the first certificate; certificates that share a name with it, and those without names, are its
/// alternatives. Certificates can be replaced while connections arrive. An OCSP response is sent until it expires,
/// because a client rejects a connection with an expired response.
#[derive(Debug, Default)]
pub struct CertificateResolver(ArcSwap<Chains>);

#[derive(Debug, Default)]
struct Chains {
    exact: HashMap<Box<str>, Vec<Chain>>,
    /// Keyed by the name without `*.`.
    wildcard: HashMap<Box<str>, Vec<Chain>>,
    /// The first certificate, then the certificates that share a name with it or have none.
    default: Vec<Chain>,
}

/// A certificate with its key, ready to be served.
#[derive(Clone, Debug)]
struct Chain {
    key: Arc<CertifiedKey>,
    /// Expiry of the OCSP response, and the certificate without it for the time after.
    afterwards: Option<(SystemTime, Arc<CertifiedKey>)>,
}

impl CertificateResolver {
    /// Creates a resolver for these certificates, in order of preference. Without certificates every handshake fails
    /// until [`serve`](Self::serve) provides some.
    pub fn new(certificates: &[Certificate]) -> Self {
        Self(ArcSwap::from_pointee(Chains::new(certificates)))
    }

    /// Replaces all certificates.
    pub fn serve(&self, certificates: &[Certificate]) {
        self.0.store(Arc::new(Chains::new(certificates)));
    }

    /// Whether there are no certificates.
    pub fn is_empty(&self) -> bool {
        self.0.load().default.is_empty()
    }

    /// Whether a certificate covers this server name, given in lower case.
    pub fn knows(&self, name: &str) -> bool {
        self.0.load().named(name).is_some()
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let chains = self.0.load();
        let named = name.and_then(|name| chains.named(name));
        let (exact, wildcard) = named.unwrap_or((&chains.default, &[]));
        let mut candidates = exact.iter().chain(wildcard);
        let usable = candidates.clone().find(|c| c.key.key.choose_scheme(schemes).is_some());
        // If no key is usable, the first one lets rustls send the proper alert.
        usable.or_else(|| candidates.next()).map(Chain::now)
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls provides the name in lower case.
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl Chain {
    fn new(key: &Arc<CertifiedKey>) -> Self {
        let bare = || Arc::new(CertifiedKey { ocsp: None, ..CertifiedKey::clone(key) });
        if unstapled(key).is_some() {
            return Self { key: bare(), afterwards: None };
        }
        let until = key.ocsp.as_deref().and_then(staple::until);
        Self { key: Arc::clone(key), afterwards: until.map(|until| (until, bare())) }
    }

    /// Returns the certificate as it is served now.
    fn now(&self) -> Arc<CertifiedKey> {
        match &self.afterwards {
            Some((until, bare)) if *until < SystemTime::now() => Arc::clone(bare),
            _ => Arc::clone(&self.key),
        }
    }
}

impl Chains {
    fn new(certificates: &[Certificate]) -> Self {
        let Some(first) = certificates.first() else { return Self::default() };
        let default = certificates
            .iter()
            .enumerate()
            .filter(|(n, other)| {
                let shares = || other.names.iter().any(|name| first.names.contains(name));
                *n == 0 || other.names.is_empty() || shares()
            })
            .map(|(_, certificate)| Chain::new(&certificate.key))
            .collect();
        let mut chains = Self { exact: HashMap::new(), wildcard: HashMap::new(), default };
        for Certificate { names, key } in certificates {
            let chain = Chain::new(key);
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut chains.wildcard, parent),
                    None => (&mut chains.exact, name.as_str()),
                };
                map.entry(name.into()).or_default().push(chain.clone());
            }
        }
        chains
    }

    /// Returns the exact and wildcard matches of a lower-case server name; `None` if there is no match.
    fn named(&self, name: &str) -> Option<(&[Chain], &[Chain])> {
        // A wildcard matches exactly one label (RFC 6125 section 6.4.3).
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let exact = self.exact.get(name).map_or(&[][..], Vec::as_slice);
        let wildcard = parent.and_then(|parent| self.wildcard.get(parent));
        let wildcard = wildcard.map_or(&[][..], Vec::as_slice);
        (!exact.is_empty() || !wildcard.is_empty()).then_some((exact, wildcard))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SignatureAlgorithm};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::net::tls::{provider::PROVIDER, self_signed};

    const BOTH: [SignatureScheme; 2] =
        [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];

    fn certificate(names: &[&str]) -> Certificate {
        self_signed(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn with_algorithm(name: &str, algorithm: &'static SignatureAlgorithm) -> Certificate {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = CertifiedKey::from_der(chain, private, &PROVIDER).unwrap();
        Certificate { names: vec![name.to_owned()], key: Arc::new(key) }
    }

    #[test]
    fn exact_beats_wildcard_beats_default() {
        let all = [
            certificate(&["default.test"]),
            certificate(&["*.example.com", "example.com"]),
            certificate(&["chat.example.com"]),
        ];
        let resolver = CertificateResolver::new(&all);
        let chosen = |name| {
            let key = resolver.choose(name, &BOTH).unwrap();
            all.iter().position(|other| Arc::ptr_eq(&other.key, &key)).unwrap()
        };
        assert_eq!(chosen(Some("chat.example.com")), 2);
        assert_eq!(chosen(Some("other.example.com")), 1);
        assert_eq!(chosen(Some("example.com")), 1);
        assert_eq!(chosen(Some("a.b.example.com")), 0, "a wildcard matches one label");
        assert_eq!(chosen(Some("unknown.test")), 0);
        assert_eq!(chosen(Some("com")), 0);
        assert_eq!(chosen(None), 0);
        for (name, known) in [("chat.example.com", true), ("x.example.com", true), ("com", false)] {
            assert_eq!(resolver.knows(name), known, "{name}");
        }
    }

    #[test]
    fn client_gets_a_certificate_that_it_can_verify() {
        let name = "chat.example.com";
        let ecdsa = with_algorithm(name, &rcgen::PKCS_ECDSA_P256_SHA256);
        let rsa = with_algorithm(name, &PKCS_RSA_SHA256);
        let other = certificate(&["other.test"]);
        let resolver = CertificateResolver::new(&[ecdsa.clone(), rsa.clone(), other]);
        for name in [Some(name), None] {
            let chosen = |schemes: &[SignatureScheme]| resolver.choose(name, schemes).unwrap();
            assert!(Arc::ptr_eq(&chosen(&BOTH), &ecdsa.key), "file order decides");
            assert!(Arc::ptr_eq(&chosen(&BOTH[..1]), &ecdsa.key));
            assert!(Arc::ptr_eq(&chosen(&BOTH[1..]), &rsa.key));
            let none = chosen(&[SignatureScheme::ED25519]);
            assert!(Arc::ptr_eq(&none, &ecdsa.key), "the client must get an alert");
        }
    }

    #[test]
    fn wildcard_serves_clients_that_cannot_use_the_exact_certificate() {
        let default = certificate(&["default.test"]);
        let exact = with_algorithm("x.w.test", &rcgen::PKCS_ECDSA_P256_SHA256);
        let wildcard = with_algorithm("*.w.test", &PKCS_RSA_SHA256);
        let resolver =
            CertificateResolver::new(&[default.clone(), wildcard.clone(), exact.clone()]);
        let chosen = |name, schemes: &[SignatureScheme]| {
            let key = resolver.choose(Some(name), schemes).unwrap();
            [&default, &exact, &wildcard].iter().position(|c| Arc::ptr_eq(&c.key, &key)).unwrap()
        };
        assert_eq!(chosen("x.w.test", &BOTH), 1, "exact comes first");
        assert_eq!(chosen("x.w.test", &BOTH[..1]), 1);
        assert_eq!(chosen("x.w.test", &BOTH[1..]), 2);
        assert_eq!(chosen("y.w.test", &BOTH[..1]), 2, "the client must get an alert");
        assert_eq!(chosen("z.test", &BOTH), 0);
    }

    #[test]
    fn certificate_without_names_is_an_alternative_to_the_default() {
        let first = with_algorithm("a.test", &rcgen::PKCS_ECDSA_P256_SHA256);
        let mut nameless = with_algorithm("b.test", &PKCS_RSA_SHA256);
        nameless.names.clear();
        let resolver = CertificateResolver::new(&[first.clone(), nameless.clone()]);
        let rsa = resolver.choose(None, &BOTH[1..]).unwrap();
        assert!(Arc::ptr_eq(&rsa, &nameless.key));
        assert!(Arc::ptr_eq(&resolver.choose(None, &BOTH).unwrap(), &first.key));
    }

    #[test]
    fn certificates_are_replaced_in_place() {
        let resolver = CertificateResolver::new(&[]);
        assert!(resolver.is_empty() && resolver.choose(Some("a.test"), &BOTH).is_none());
        let made = certificate(&["a.test"]);
        resolver.serve(std::slice::from_ref(&made));
        assert!(Arc::ptr_eq(&resolver.choose(Some("a.test"), &BOTH).unwrap(), &made.key));
    }
}
