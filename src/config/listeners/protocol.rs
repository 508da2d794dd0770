//! `protocol` of a listener, and the keys that each protocol does not use.

use crate::config::{fault::InvalidValue, file::TomlTable};

/// The value of `protocol`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum ProtocolKind {
    Http,
    Https,
    Tcp,
    Tls,
    Passthrough,
}

/// Names of the protocols.
pub(super) const PROTOCOLS: [(&str, ProtocolKind); 5] = [
    ("http", ProtocolKind::Http),
    ("https", ProtocolKind::Https),
    ("tcp", ProtocolKind::Tcp),
    ("tls", ProtocolKind::Tls),
    ("tls-passthrough", ProtocolKind::Passthrough),
];

impl ProtocolKind {
    /// The name in the file.
    pub(super) fn name(self) -> &'static str {
        PROTOCOLS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether the listener terminates TLS.
    pub(super) fn terminates(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether the listener reads requests.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Keys that have no effect with this protocol.
    fn unused_keys(self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if !self.terminates() {
            keys.extend(["certificates", "tls"]);
        }
        if matches!(self, Self::Http | Self::Tcp) {
            keys.push("passthrough");
        }
        if !self.is_http() {
            keys.extend([
                "header_timeout",
                "keep_alive",
                "header_size",
                "header_fields",
                "redirect",
            ]);
        }
        keys
    }
}

/// Notes keys that have no effect with this protocol.
pub(super) fn refuse_unused_keys(protocol: ProtocolKind, table: &TomlTable<'_>) {
    let unused = |key: &str, unless: &str| {
        let name = protocol.name();
        InvalidValue::new(format!("`{key}` is not used when `protocol` is \"{name}\"{unless}"))
    };
    table.refuse(&protocol.unused_keys(), |key| {
        let wrong = unused(key, "");
        match (key, protocol) {
            ("certificates" | "tls", ProtocolKind::Http) => {
                wrong.help("write `protocol = \"https\"`, or remove it")
            }
            ("certificates" | "tls", ProtocolKind::Tcp) => {
                wrong.help("write `protocol = \"tls\"`, or remove it")
            }
            _ => wrong.help("remove it"),
        }
    });
    if protocol.is_http() {
        table.refuse(&["pool"], |_| {
            InvalidValue::new("`pool` is not used by http and https listeners")
                .help("remove it, and write `[[routes]]` with this `pool`")
        });
    }
    if protocol == ProtocolKind::Https {
        table.refuse(&["redirect"], |_| {
            InvalidValue::new("`redirect` leads to https, and this is an https listener")
                .help("remove it, or set it on the http listener")
        });
    }
    let plain = matches!(protocol, ProtocolKind::Http | ProtocolKind::Tcp);
    if plain && table.value("proxy_protocol").is_none() {
        table.refuse(&["handshake_timeout"], |key| {
            unused(key, " and `proxy_protocol` is not set").help("remove it")
        });
    }
}
