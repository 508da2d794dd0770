//! Addresses and networks, as in `trusted_proxies`.

use super::{
    DefaultValue::Required,
    FILE, SchemaKey, Section,
    ValueKind::{Array, OneOf, Table, Text},
};

/// Addresses and networks.
pub(super) const NETWORK_LIST: super::ValueKind = OneOf(&[
    Text("IP address, network (`\"10.0.0.0/8\"`) or `\"private\"`"),
    Table(&NETWORKS),
    Array(&OneOf(&[
        Text("IP address, network (`\"10.0.0.0/8\"`) or `\"private\"`"),
        Table(&NETWORKS),
    ])),
]);

/// Among addresses and networks: a file with more of them.
pub(in crate::config) static NETWORKS: Section = Section {
    name: "trusted_proxies",
    heading: "`trusted_proxies`",
    about: "An address (`\"10.0.0.7\"`), a network (`\"10.0.0.0/8\"`), `\"private\"`, a table of a file, or an array \
            of these.",
    keys: &[SchemaKey {
        name: "file",
        kind: FILE,
        default: Required,
        example: r#""proxies.txt""#,
        about: "File with one address, network or `private` per line. `#` starts a comment.",
    }],
    notes: "\
`\"private\"` means loopback (`127.0.0.0/8`, `::1`), link-local (`169.254.0.0/16`, `fe80::/10`), RFC 1918 (`10.0.0.0/8`, \
`172.16.0.0/12`, `192.168.0.0/16`), RFC 4193 (`fc00::/7`) and RFC 6598 (`100.64.0.0/10`) addresses. Use it only if \
clients never connect from these addresses.

The client is the nearest address that is not trusted. Moorline looks at the peer first, then at `X-Forwarded-For`, or \
at the `for` parameters of `Forwarded`, from the end. Ports, brackets and quotes are accepted. The client's address is used in \
logs, for `source-hash` and for recent sessions. An entry that is not an address ends the search and is logged once.

Backends get `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port` and `X-Real-IP`. They get \
`Forwarded` if a trusted proxy sent it, or with `forwarded = \"always\"`. All of these fields are written from one list \
of hops, so that they never contradict each other. Moorline appends the peer to the list. A protocol, host or port that the \
proxy sends once is kept; if the proxy sends one for each address, Moorline appends its own.

If `Forwarded` and `X-Forwarded-*` of a trusted proxy contradict each other, Moorline uses `X-Forwarded-*` and logs a \
warning: most proxies set `X-Forwarded-*` and pass on the `Forwarded` of their client. `X-Forwarded-Prefix` of a trusted \
proxy is passed on. All of these fields are removed from requests of other peers; the first time, a warning names this key.

Backends also get `X-Moorline-Hops`, the number of Moorline processes that a request has passed. After ten, the request gets \
a 508 and the log says `proxy_request_loop`: a backend leads back to the proxy. A backend address that is also an \
address of a listener is an error. If discovery or a host name leads there, Moorline never connects to it and answers with 508.",
};
