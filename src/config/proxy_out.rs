//! `proxy_protocol` of a pool: the PROXY header for its backends.

use super::{
    fault::InvalidValue,
    file::{TomlTable, TomlValue},
    schema,
};

/// The PROXY header for backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyOut {
    /// One line of text.
    V1,
    /// Binary, with these TLVs.
    V2(Tlvs),
}

/// Data of a version 2 header in addition to the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Tlv {
    /// The stream's id in the access log (type `0x05`).
    UniqueId = 1,
    /// The server name of the client's SNI (`0x02`).
    Authority = 1 << 1,
    /// The ALPN protocol of the connection (`0x01`).
    Alpn = 1 << 2,
    /// Whether the client uses TLS, whether it has a certificate, and the TLS version (`0x20`, `0x21`).
    Ssl = 1 << 3,
    /// The cipher suite (`0x23`, within `0x20`).
    SslCipher = 1 << 4,
    /// The common name of the client's certificate (`0x22`, within `0x20`).
    CertCn = 1 << 5,
    /// The subject of the client's certificate in the form of RFC 4514 (`0xE0`, private use).
    CertSubject = 1 << 6,
    /// SHA-256 of the client's certificate in hex (`0xE1`, private use).
    CertFingerprint = 1 << 7,
    /// The header's checksum (`0x03`).
    Crc32c = 1 << 8,
}

/// TLVs by their names in a configuration. HAProxy's names are used if it has one.
const NAMES: [(&str, Tlv); 9] = [
    ("unique-id", Tlv::UniqueId),
    ("authority", Tlv::Authority),
    ("alpn", Tlv::Alpn),
    ("ssl", Tlv::Ssl),
    ("ssl-cipher", Tlv::SslCipher),
    ("cert-cn", Tlv::CertCn),
    ("cert-subject", Tlv::CertSubject),
    ("cert-fingerprint", Tlv::CertFingerprint),
    ("crc32c", Tlv::Crc32c),
];

/// A set of TLVs, empty by default: some servers, for example nginx 1.22, do not accept a header longer
/// than the 107 bytes of version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(u16);

impl Tlvs {
    /// Every TLV.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// Whether the set has this TLV.
    pub fn has(self, tlv: Tlv) -> bool {
        self.0 & tlv as u16 != 0
    }

    /// Whether the header has the TLS TLV, which contains some of the others.
    pub fn has_ssl(self) -> bool {
        [Tlv::Ssl, Tlv::SslCipher, Tlv::CertCn].into_iter().any(|tlv| self.has(tlv))
    }

    /// The names of the set, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(_, tlv)| self.has(*tlv)).map(|(name, _)| name)
    }
}

impl FromIterator<Tlv> for Tlvs {
    fn from_iter<I: IntoIterator<Item = Tlv>>(tlvs: I) -> Self {
        Self(tlvs.into_iter().fold(0, |set, tlv| set | tlv as u16))
    }
}

/// Reads a version, or a table of a version and TLVs.
pub(super) fn read(value: &TomlValue<'_>) -> Option<ProxyOut> {
    let versions = [("v1", ProxyOut::V1), ("v2", ProxyOut::V2(Tlvs::default()))];
    if !value.node.get_ref().is_table() {
        return value.choice(&versions);
    }
    let table = value.table(&schema::PROXY_OUT, "\"v1\", \"v2\" or a table")?;
    let version = match table.value("version") {
        Some(version) => version.choice(&versions)?,
        None => ProxyOut::V2(Tlvs::default()),
    };
    match version {
        ProxyOut::V1 => {
            table.refuse(&["tlvs"], |_| {
                InvalidValue::new("a PROXY header of version 1 has no TLVs")
                    .help("write `version = \"v2\"`, or remove `tlvs`")
            });
            Some(version)
        }
        ProxyOut::V2(_) => Some(ProxyOut::V2(tlvs(&table))),
    }
}

fn tlvs(table: &TomlTable<'_>) -> Tlvs {
    let Some(value) = table.value("tlvs") else { return Tlvs::default() };
    let known = |typed: &str| {
        let found = NAMES.iter().find(|(name, _)| *name == typed);
        found.map(|(_, tlv)| *tlv).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            InvalidValue::new(format!("unknown TLV `{typed}`"))
                .help(format!("use some of: {}", names.join(", ")))
        })
    };
    value.strings(known).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_tlvs_that_were_added() {
        let set: Tlvs = [Tlv::CertCn, Tlv::UniqueId].into_iter().collect();
        assert!(set.has(Tlv::UniqueId) && set.has_ssl() && !set.has(Tlv::Ssl));
        assert_eq!(set.names().collect::<Vec<_>>(), ["unique-id", "cert-cn"]);
        assert_eq!(Tlvs::ALL.names().count(), NAMES.len());
        assert_eq!(Tlvs::default().names().count(), 0);
        assert!(NAMES.iter().all(|(_, tlv)| Tlvs::ALL.has(*tlv)));
    }
}
