//! Certificate chains and their keys, from PEM files.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use webpki::{BorrowedCertRevocationList, EndEntityCert};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, time::ASN1Time};

use super::{
    Certificate, bytes,
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    staple, text,
};

/// Reads `{ cert, key, ocsp }`. All files are read even if one of them has a fault. An OCSP response
/// about another certificate, or an expired one, is not a fault: it must not block a renewed certificate.
pub(super) fn certificate(table: &TomlTable<'_>) -> Option<Certificate> {
    let typed = table.value("ocsp");
    let read = |value: &TomlValue<'_>| value.checked(response(contents(value)?));
    let response = typed.as_ref().map(read);
    let certificate = pair(table)?;
    let Some(response) = response else { return Some(certificate) };
    let mut key = CertifiedKey::clone(&certificate.key);
    key.ocsp = Some(response?);
    Some(Certificate { key: Arc::new(key), ..certificate })
}

/// Reads the `{ cert, key }` of a table.
pub(super) fn pair(table: &TomlTable<'_>) -> Option<Certificate> {
    let cert = table.need("cert", "`cert = \"certs/site.pem\"`");
    let key = table.need("key", "`key = \"certs/site.key\"`");
    let chain = cert.and_then(|value| value.checked(chain(&contents(&value)?)));
    let signing = key.and_then(|value| value.checked(signing_key(&contents(&value)?)));
    let (cert, key, chain, signing) = (cert?, key?, chain?, signing?);
    let names = cert.checked(names(&chain[0]))?;
    let key = key.checked(matched(chain, signing, cert.string()?))?;
    Some(Certificate { names, key: Arc::new(key) })
}

impl Certificate {
    /// Reads two PEM files that are not named by a configuration.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, InvalidValue> {
        let read = |path: &Path| {
            bytes::bytes(path).map(text::unmarked_pem).map_err(|error| {
                InvalidValue::new(format!("cannot read {}: {error}", path.display()))
            })
        };
        Self::from_pem(&read(cert)?, &read(key)?, &cert.display().to_string())
    }

    /// Parses the contents of two PEM files, which may be the same file. `file` is its name in
    /// messages.
    ///
    /// # Errors
    /// What is wrong with the chain or the key.
    pub(crate) fn from_pem(cert: &[u8], key: &[u8], file: &str) -> Result<Self, InvalidValue> {
        let chain = chain(cert)?;
        let names = names(&chain[0])?;
        let key = matched(chain, signing_key(key)?, file)?;
        Ok(Self { names, key: Arc::new(key) })
    }

    /// Start and end of its validity; `None`: they cannot be parsed.
    pub fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        let (_, leaf) = X509Certificate::from_der(self.key.cert.first()?).ok()?;
        let at = |time: ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        Some((at(leaf.validity().not_before)?, at(leaf.validity().not_after)?))
    }
}

/// Reads certificates of authorities.
pub(super) fn authorities(value: &TomlValue<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let chain = value.checked(chain(&contents(value)?))?;
    let mut roots = RootCertStore::empty();
    for (n, certificate) in chain.iter().enumerate() {
        if let Err(error) = roots.add(certificate.clone()) {
            let message =
                format!("certificate {} of this file cannot be used as a CA: {error}", n + 1);
            value.fault(
                InvalidValue::new(message).help("name a PEM file of the authority's certificates"),
            );
            return None;
        }
    }
    Some(chain)
}

/// Reads certificate revocation lists.
pub(super) fn revocations(
    value: &TomlValue<'_>,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let pem = contents(value)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    let lists = value.checked(lists.map_err(broken_pem))?;
    if lists.is_empty() {
        let wrong = InvalidValue::new("there is no revocation list in this file");
        value.fault(wrong.help("name a file in PEM form; it starts with -----BEGIN X509 CRL-----"));
        return None;
    }
    for list in &lists {
        if let Err(error) = BorrowedCertRevocationList::from_der(list) {
            let wrong = InvalidValue::new(format!(
                "a revocation list in this file cannot be used: {error}"
            ));
            value.fault(wrong.help("ask the authority for a list of version 2"));
            return None;
        }
    }
    Some(lists)
}

/// A signed OCSP response in DER (RFC 6960 §4.2.1), as `openssl ocsp -respout` writes it.
fn response(bytes: Vec<u8>) -> Result<Vec<u8>, InvalidValue> {
    match staple::read(&bytes).is_some() || staple::is_refusal(&bytes) {
        true => Ok(bytes),
        false => Err(InvalidValue::new("this file is not an OCSP response in DER form")
            .help("make it with `openssl ocsp … -respout FILE`")),
    }
}

/// The bytes of the file that a value names.
fn contents(value: &TomlValue<'_>) -> Option<Vec<u8>> {
    let path = value.resolve(value.string()?);
    value.checked(value.read(&path)).map(text::unmarked_pem)
}

/// The certificates of a PEM file, at least one.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidValue> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(broken_pem)?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    let wrong = InvalidValue::new("there is no certificate in this file");
    Err(if holds(pem, "PRIVATE KEY-----") {
        wrong.help("it holds a private key: are `cert` and `key` swapped?")
    } else {
        wrong.help(
            "a certificate in PEM form starts with -----BEGIN CERTIFICATE-----; convert DER with \
             `openssl x509 -inform der -in FILE -out FILE.pem`",
        )
    })
}

/// The first private key of a PEM file.
fn signing_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, InvalidValue> {
    if holds(pem, "ENCRYPTED") {
        return Err(InvalidValue::new("the key in this file is encrypted")
            .help("Moorline cannot ask for a passphrase; decrypt it: `openssl pkey -in FILE -out FILE.key`"));
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        if !matches!(error, pem::Error::NoItemsFound) {
            return broken_pem(error);
        }
        let wrong = InvalidValue::new("there is no private key in this file");
        if holds(pem, "-----BEGIN CERTIFICATE-----") {
            wrong.help("it holds a certificate: are `cert` and `key` swapped?")
        } else {
            wrong.help("a key in PEM form starts with -----BEGIN PRIVATE KEY-----")
        }
    })?;
    let provider = aws_lc_rs::default_provider();
    provider.key_provider.load_private_key(key).map_err(|_| {
        InvalidValue::new("the key in this file cannot be used")
            .help("use an RSA key of 2048 bits or more, an ECDSA key or an Ed25519 key")
    })
}

fn holds(pem: &[u8], marker: &str) -> bool {
    pem.windows(marker.len()).any(|window| window == marker.as_bytes())
}

fn broken_pem(error: pem::Error) -> InvalidValue {
    InvalidValue::new(match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section of this file has no -----END line",
        pem::Error::Base64Decode(_) => "a PEM section of this file is not valid base64",
        _ => "this file is not valid PEM",
    })
    .help("is the file truncated? Copy it again; `openssl x509 -in FILE -noout` must accept it")
}

/// The DNS names that a certificate is valid for, in lower case.
fn names(leaf: &CertificateDer<'_>) -> Result<Vec<String>, InvalidValue> {
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| unusable(&format!("{error:?}")))?;
    Ok(leaf.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

fn unusable(why: &str) -> InvalidValue {
    InvalidValue::new(format!("the first certificate of this file cannot be used: {why}"))
        .help("use an X.509 certificate of version 3")
}

/// The chain with its key, if they match. `file` is the file of the chain.
fn matched(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    file: &str,
) -> Result<CertifiedKey, InvalidValue> {
    let fits = |chain: Vec<CertificateDer<'static>>| {
        let certified = CertifiedKey::new(chain, Arc::clone(&key));
        match certified.keys_match() {
            // The public half of some keys is unknown, so that there is nothing to compare.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Some(certified),
            Err(_) => None,
        }
    };
    if let Some(certified) = fits(chain.clone()) {
        return Ok(certified);
    }
    let wrong =
        InvalidValue::new(format!("this key does not match the certificate in {}", quoted(file)));
    Err(match chain.into_iter().skip(1).position(|other| fits(vec![other]).is_some()) {
        Some(_) => {
            wrong.help("it matches a later certificate of that file; put the server's own first")
        }
        None => wrong.help("name the key that the certificate was requested with"),
    })
}
