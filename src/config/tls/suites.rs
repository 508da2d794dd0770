//! Cipher suites and key exchange groups, and whether they fit the TLS versions and certificates.

use rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SignatureAlgorithm, SupportedCipherSuite,
    crypto::aws_lc_rs,
};

use crate::config::{
    CertificateSource, TlsConfig, TlsVersion,
    fault::{InvalidValue, quoted},
    schema, suite_name,
};

/// Checks that the suites, if some are set, fit an accepted version and the key of every certificate.
/// Suites of TLS 1.3 fit every key.
pub(super) fn suites_fit(tls: &TlsConfig) -> Result<(), InvalidValue> {
    let (suites, oldest) = (offered(tls), tls.min_version);
    if tls.cipher_suites.is_empty() || suites.iter().any(|suite| suite.tls13().is_some()) {
        return Ok(());
    }
    if suites.is_empty() {
        let message = format!("none of these suites works with TLS {oldest} or newer");
        return Err(InvalidValue::new(message).help("add \"TLS_AES_128_GCM_SHA256\""));
    }
    let keys = match &tls.certificates {
        CertificateSource::Configured(given) => {
            given.iter().map(|c| c.key.key.algorithm()).collect()
        }
        CertificateSource::Acme(_) => vec![SignatureAlgorithm::ECDSA],
    };
    let fits =
        |key: &SignatureAlgorithm| suites.iter().any(|s| s.usable_for_signature_algorithm(*key));
    match keys.iter().find(|key| !fits(key)) {
        None => Ok(()),
        Some(key) => {
            let key = match *key {
                SignatureAlgorithm::RSA => "RSA",
                SignatureAlgorithm::ECDSA => "ECDSA",
                _ => "Ed25519",
            };
            let message =
                format!("none of these suites works with a certificate that has an {key} key");
            Err(InvalidValue::new(message).help(
                "add a suite of TLS 1.3, which works with every key, or one of TLS 1.2 with the key type \
                 in its name",
            ))
        }
    }
}

/// Checks that one of the key exchange groups, if some are set, fits the offered versions.
pub(super) fn curves_fit(tls: &TlsConfig) -> Result<(), InvalidValue> {
    let old = !offered(tls).iter().any(|suite| suite.tls13().is_some());
    let fits = aws_lc_rs::ALL_KX_GROUPS.iter().any(|group| {
        tls.curves.contains(&group.name()) && group.usable_for_version(ProtocolVersion::TLSv1_2)
    });
    match tls.curves.is_empty() || !old || fits {
        true => Ok(()),
        false => Err(InvalidValue::new(
            "none of these curves works with TLS 1.2, and the suites are for TLS 1.2",
        )
        .help("add \"X25519\"")),
    }
}

/// The suites that these settings offer.
fn offered(tls: &TlsConfig) -> Vec<&'static SupportedCipherSuite> {
    let set = |known: &&SupportedCipherSuite| {
        let wanted = tls.cipher_suites.is_empty() || tls.cipher_suites.contains(&known.suite());
        wanted && (known.tls13().is_some() || tls.min_version == TlsVersion::V1_2)
    };
    aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(set).collect()
}

/// Parses the IANA name of a cipher suite.
pub(super) fn cipher_suite(typed: &str) -> Result<CipherSuite, InvalidValue> {
    let mut known = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite.suite());
    known.find(|suite| suite_name(*suite) == typed).ok_or_else(|| {
        let names = aws_lc_rs::ALL_CIPHER_SUITES.iter().map(|suite| suite_name(suite.suite()));
        let names: Vec<&str> = names.collect();
        let wrong = InvalidValue::new(format!("unsupported cipher suite {}", quoted(typed)));
        match schema::nearest(typed, names.iter().copied()) {
            Some(near) => wrong.help(format!("did you mean \"{near}\"?")),
            None => wrong.help(format!("use one of {}", names.join(", "))),
        }
    })
}

/// Parses the IANA or OpenSSL name of a key exchange group.
pub(super) fn curve(typed: &str) -> Result<NamedGroup, InvalidValue> {
    let known = [
        ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
        ("X25519", NamedGroup::X25519),
        ("secp256r1", NamedGroup::secp256r1),
        ("P-256", NamedGroup::secp256r1),
        ("secp384r1", NamedGroup::secp384r1),
        ("P-384", NamedGroup::secp384r1),
    ];
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(typed));
    found.map(|(_, group)| *group).ok_or_else(|| {
        InvalidValue::new(format!("unsupported curve {}", quoted(typed)))
            .help("use one of X25519MLKEM768, X25519, secp256r1 and secp384r1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Certificate;

    #[test]
    fn suites_and_curves_have_their_usual_names() {
        assert_eq!(
            cipher_suite("TLS_AES_128_GCM_SHA256"),
            Ok(CipherSuite::TLS13_AES_128_GCM_SHA256)
        );
        let old = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(cipher_suite(old), Ok(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256));
        assert!(cipher_suite("TLS_RSA_WITH_AES_128_CBC_SHA").is_err());
        assert_eq!(curve("x25519"), Ok(NamedGroup::X25519));
        assert_eq!(curve("P-256"), Ok(NamedGroup::secp256r1));
        assert!(curve("secp256k1").is_err());
    }

    #[test]
    fn suites_and_curves_fit_versions_and_keys() {
        let rsa = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        let ecdsa = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        let new = CipherSuite::TLS13_AES_128_GCM_SHA256;
        let file =
            |name| std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name);
        let site = Certificate::from_files(&file("site.pem"), &file("site.key")).unwrap();
        let other = Certificate::from_files(&file("other.pem"), &file("other.key")).unwrap();
        let with = |suites: &[CipherSuite], min_version, certificates: &[&Certificate]| {
            let given = certificates.iter().copied().cloned().collect();
            let tls = TlsConfig::new(CertificateSource::Configured(given));
            TlsConfig { cipher_suites: suites.to_vec(), min_version, ..tls }
        };
        let fit = |suites: &[CipherSuite], oldest, certificates: &[&Certificate]| {
            suites_fit(&with(suites, oldest, certificates)).is_ok()
        };
        let (v1_2, v1_3) = (TlsVersion::V1_2, TlsVersion::V1_3);
        assert!(fit(&[], v1_3, &[&site]) && fit(&[new], v1_3, &[&site, &other]));
        assert!(!fit(&[rsa], v1_3, &[&other]), "an older version alone");
        assert!(fit(&[rsa], v1_2, &[&other]) && fit(&[ecdsa], v1_2, &[&site]));
        assert!(!fit(&[rsa], v1_2, &[&site]) && !fit(&[ecdsa], v1_2, &[&site, &other]));
        assert!(fit(&[rsa, ecdsa], v1_2, &[&site, &other]) && fit(&[rsa, new], v1_2, &[&site]));

        let curves = |suites: &[CipherSuite], curves: &[NamedGroup]| {
            let tls = with(suites, v1_2, &[&site]);
            curves_fit(&TlsConfig { curves: curves.to_vec(), ..tls }).is_ok()
        };
        let (hybrid, classic) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
        assert!(curves(&[], &[hybrid]) && curves(&[new], &[hybrid]));
        assert!(!curves(&[ecdsa], &[hybrid]) && curves(&[ecdsa], &[hybrid, classic]));
    }
}
