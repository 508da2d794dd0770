//! What a TLS handshake says about the client.

/// TLS properties of a client connection, shared by all of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// Server name that the client requested (SNI), in lower case.
    pub sni: Option<Box<str>>,
    /// Protocol negotiated by ALPN. For passthrough connections: the first protocol that the client offers.
    pub alpn: Option<Box<str>>,
    /// Version, such as `TLSv1.3`, and cipher suite by its IANA name; `None` for passthrough connections.
    pub version: Option<(&'static str, &'static str)>,
    /// Verified certificate of the client.
    pub client: Option<ClientCertificate>,
}

/// Begins the names of the fields that describe the certificate to the backend, in lower case.
pub(crate) const CERTIFICATE_FIELDS: &str = "x-client-cert-";

/// Verified certificate of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Distinguished name of the subject (RFC 4514).
    pub subject: Box<str>,
    /// Common name of the subject, if it has one.
    pub common_name: Option<Box<str>>,
    /// SHA-256 fingerprint of the whole certificate, in lower-case hex.
    pub fingerprint: Box<str>,
}
