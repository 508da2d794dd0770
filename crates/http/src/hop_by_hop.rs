//! Fields that belong to one connection (RFC 9110 §7.6.1).
//!
//! They are dropped before others are appended, so that no peer can remove the proxy's own fields by naming them in
//! `Connection`.

use std::time::Duration;

use super::{buffer::Buffer, field::FieldId, head::Head, request::HttpVersion};

/// Fields that `Connection` cannot remove: framing, routing, authentication.
const KEPT: [FieldId; 8] = [
    FieldId::Expect,
    FieldId::Host,
    FieldId::ContentLength,
    FieldId::Authorization,
    FieldId::Cookie,
    FieldId::SecWebSocketKey,
    FieldId::SecWebSocketVersion,
    FieldId::Trailer,
];

/// Connection options that are not names of fields, or of fields that are dropped in any case.
const OPTIONS: [&[u8]; 5] = [b"keep-alive", b"close", b"upgrade", b"te", b"http2-settings"];

/// Drops every hop-by-hop field, and those that `Connection` names, except `kept`. `TE: trailers` stays.
pub(crate) fn strip(head: &mut Head, kept: &[FieldId]) {
    if head.has(FieldId::Connection) {
        let is_kept = |name: &[u8]| {
            let id = FieldId::of(name);
            KEPT.contains(&id) || kept.contains(&id)
        };
        let is_option =
            |token: &[u8]| OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(token));
        let named =
            head.tokens(FieldId::Connection).filter(|token| !is_option(token) && !is_kept(token));
        let mut named: Vec<Vec<u8>> = named.map(<[u8]>::to_ascii_lowercase).collect();
        head.remove(FieldId::Connection);
        if !named.is_empty() {
            // One pass, whatever the number of names.
            named.sort_unstable();
            head.retain(|field| named.binary_search(&field.name.to_ascii_lowercase()).is_err());
        }
    }
    if head.has(FieldId::Te) {
        let trailers = head.has_token(FieldId::Te, "trailers");
        head.remove(FieldId::Te);
        if trailers {
            head.append(FieldId::Te, "trailers");
        }
    }
    for id in [
        FieldId::KeepAlive,
        FieldId::ProxyConnection,
        FieldId::ProxyAuthenticate,
        FieldId::ProxyAuthorization,
        FieldId::TransferEncoding,
        FieldId::Upgrade,
        FieldId::Http2Settings,
    ] {
        head.remove(id);
    }
}

/// Writes the fields that switch the connection to another protocol.
pub(crate) fn write_upgrade(out: &mut Buffer, upgrade: Option<&str>) {
    if let Some(protocol) = upgrade {
        for part in ["Connection: Upgrade\r\nUpgrade: ", protocol, "\r\n"] {
            out.push(part.as_bytes());
        }
    }
}

/// Whether the sender wants to keep the connection (RFC 9112 §9.3).
pub(crate) fn keeps_alive(head: &Head, version: HttpVersion) -> bool {
    let has = |option| head.has_token(FieldId::Connection, option);
    !has("close") && (version == HttpVersion::Http11 || has("keep-alive"))
}

/// How long the peer keeps an idle connection, if its `Keep-Alive` field says so.
pub(crate) fn keep_alive_timeout(head: &Head) -> Option<Duration> {
    let seconds =
        head.tokens(FieldId::KeepAlive).find_map(|token| token.strip_prefix(b"timeout="))?;
    std::str::from_utf8(seconds).ok()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Head {
        Head::parse(Buffer::of(format!("G\r\n{fields}\r\n").as_bytes()), 3, 100).unwrap()
    }

    #[test]
    fn connection_drops_named_fields_but_never_framing_host_or_authentication() {
        let mut head = head(
            "Connection: X-Custom, Host, cookie, Authorization, x-real-ip, close\r\nX-Custom: 1\r\nHost: a\r\n\
             Cookie: b\r\nAuthorization: c\r\nX-Real-IP: d\r\nKeep-Alive: timeout=5\r\nTE: gzip, trailers\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: x\r\nTransfer-Encoding: chunked\r\n",
        );
        assert_eq!(keep_alive_timeout(&head), Some(Duration::from_secs(5)));
        strip(&mut head, &[FieldId::XRealIp]);
        let names: Vec<_> =
            head.fields().map(|field| String::from_utf8_lossy(field.name).into_owned()).collect();
        assert_eq!(names, ["Host", "Cookie", "Authorization", "X-Real-IP", "TE"]);
        assert_eq!(head.get(FieldId::Te), Some(&b"trailers"[..]));
    }
}
