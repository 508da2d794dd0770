//! `backends = { dns | srv | http = … }`: discovery of a pool's backends.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;

use super::{
    Address, BackendSource, Dns, HttpSource, address,
    defaults::{POLL_INTERVAL, POLL_TIMEOUT, TTL},
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
};

/// Minimum time between two requests to a server.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Port of a name server.
const DNS_PORT: u16 = 53;

/// A URL without the user information before its host and without its query, for display.
pub(crate) fn url_without_secrets(url: &str) -> String {
    let Ok(uri) = url.parse::<Uri>() else { return "-".to_owned() };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let query = if uri.query().is_some() { "?-" } else { "" };
    format!("{}://{host}{}{query}", uri.scheme_str().unwrap_or("http"), uri.path())
}

/// Reads the source `dns`.
pub(super) fn dns(table: &TomlTable<'_>, named: &TomlValue<'_>) -> Option<BackendSource> {
    let typed: Option<Address> = named.parsed(|text| {
        let address: Address = text.parse()?;
        if !address.has_name() {
            let wrong = InvalidValue::new(format!("{} is an address, not a name", quoted(text)));
            return Err(wrong.help(format!("write `backends = [\"{address}\"]`")));
        }
        Ok(address)
    });
    let terms = terms(table);
    typed.map(|Address { host, port }| BackendSource::Dns(Dns { name: host, port, ..terms }))
}

/// Reads the source `srv`.
pub(super) fn srv(table: &TomlTable<'_>, named: &TomlValue<'_>) -> Option<BackendSource> {
    let name = named.parsed(|text| {
        if text.contains(':') {
            return Err(InvalidValue::new(format!(
                "{} has a port, but SRV records contain the port",
                quoted(text)
            ))
            .help("write the name alone: \"_chat._tcp.internal\""));
        }
        address::dns_name(text)
    });
    let terms = terms(table);
    name.map(|name| BackendSource::Srv(Dns { name, ..terms }))
}

/// Reads the keys of lookups. The name is filled in by the caller.
fn terms(table: &TomlTable<'_>) -> Dns {
    let ttl = |key, default| {
        table.value(key).and_then(|value| value.duration(SHORTEST_PAUSE)).unwrap_or(default)
    };
    let (least, most) = TTL;
    let min_ttl = ttl("min_ttl", least);
    // A long `min_ttl` without `max_ttl` raises the default maximum.
    let max_ttl = ttl("max_ttl", most.max(min_ttl));
    if let Some(typed) = table.value("max_ttl").filter(|_| max_ttl < min_ttl) {
        let least = humantime::format_duration(min_ttl);
        let message = format!("`max_ttl` is shorter than `min_ttl`, {least}");
        typed.fault(InvalidValue::new(message).help("write at least `min_ttl`"));
    }
    let resolver = table.value("resolver").and_then(|value| value.parsed(resolver));
    Dns { name: String::new(), port: 0, resolver, min_ttl, max_ttl }
}

/// A name server: an IP address, with a port if it is not 53.
fn resolver(text: &str) -> Result<SocketAddr, InvalidValue> {
    let whole = text.parse::<SocketAddr>();
    let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
    match whole.or_else(|_| bare()) {
        Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => Ok(address),
        _ => Err(InvalidValue::new(format!("invalid name server {}", quoted(text)))
            .help("write an IP address, with a port if it is not 53: \"127.0.0.1:5353\"")),
    }
}

/// Reads the source `http`.
pub(super) fn http(table: &TomlTable<'_>, named: &TomlValue<'_>) -> Option<BackendSource> {
    let url = named.parsed(url);
    let pause = |value: TomlValue<'_>| value.duration(SHORTEST_PAUSE);
    let interval = table.value("interval").and_then(pause).unwrap_or(POLL_INTERVAL);
    // A short interval without a timeout shortens the default timeout.
    let timeout = table.deadline("timeout", POLL_TIMEOUT.min(interval));
    if let Some(typed) = table.value("timeout").filter(|_| timeout > interval) {
        let interval = humantime::format_duration(interval);
        let message = format!("`timeout` is longer than `interval`, {interval}");
        typed.fault(
            InvalidValue::new(message).help("write at most `interval`, or a longer `interval`"),
        );
    }
    url.map(|url| BackendSource::Http(HttpSource { url, interval, timeout }))
}

/// An `http` or `https` URL that can be requested.
pub(super) fn url(text: &str) -> Result<String, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid URL {}", quoted(text)));
    let example = "write \"http://127.0.0.1:8500/v1/health/service/chat?passing\"";
    let typed_authority =
        text.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    if typed_authority.is_some_and(|authority| authority.contains('@')) {
        // The message does not show the URL: it may contain a password.
        return Err(InvalidValue::new("this URL contains a user name, which is not supported")
            .help("remove everything before the `@`"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong().help(example))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong().help(example));
    };
    if !["http", "https"].contains(&scheme) {
        return Err(wrong().help("write a URL that starts with `http://` or `https://`"));
    }
    if text.contains('#') {
        return Err(wrong().help("remove the fragment (`#…`)"));
    }
    let port = authority.port_u16();
    // The `http` crate accepts any digits, and none, as a port.
    let typed_port = authority.as_str() != authority.host();
    if authority.host().is_empty() || port == Some(0) || (port.is_none() && typed_port) {
        return Err(wrong().help("write a host name or an address, and a port from 1 to 65535"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{resolver, url};

    #[test]
    fn name_servers_have_an_address_and_a_port() {
        assert_eq!(resolver("127.0.0.1").unwrap().to_string(), "127.0.0.1:53");
        assert_eq!(resolver("127.0.0.1:5353").unwrap().to_string(), "127.0.0.1:5353");
        assert_eq!(resolver("::1").unwrap().to_string(), "[::1]:53");
        assert_eq!(resolver("[::1]:5353").unwrap().to_string(), "[::1]:5353");
        for bad in ["", "dns.internal", "127.0.0.1:0", "0.0.0.0:53", "127.0.0.1:", "127.0.0.1:x"] {
            assert!(resolver(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_can_be_requested() {
        for good in [
            "http://127.0.0.1:8500/v1/health/service/chat?passing",
            "https://list.example.com",
            "http://[::1]:80/",
        ] {
            assert_eq!(url(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "/path",
            "127.0.0.1:80",
            "ftp://a/",
            "http://",
            "http://:80/",
            "http://a:0/",
            "http://a:/",
            "http://a:99999/",
            "http://a/#x",
            "http://a b/",
            "http://a/\r\nX: y",
            "http://user:secret@a/",
            "http://user:secret@a:x/",
        ] {
            let shown = url(bad).expect_err(bad).to_string();
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
