//! Parses the URL of the target.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context as _, anyhow, bail, ensure};
use http::{
    Uri,
    uri::{Authority, Scheme},
};

use super::{ClientKind, Target};

/// Default path of a Socket.IO server.
const SOCKET_IO: &str = "/socket.io/";

impl Target {
    /// Path and query as in a request line.
    pub(crate) fn path_and_query(&self) -> String {
        match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    /// Parses `url` for clients of a kind, and resolves its host.
    ///
    /// # Errors
    ///
    /// The URL is invalid, or its host has no address.
    pub(crate) fn read(url: &str, client: ClientKind) -> anyhow::Result<Self> {
        // The URL parser takes the host of `localhost:8080` as a scheme.
        ensure!(url.contains("://"), "no scheme in {url}: did you mean http://{url} ?");
        let uri: Uri = url.parse().with_context(|| format!("invalid URL {url}"))?;
        let tls = match uri.scheme().map(Scheme::as_str) {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => bail!("invalid scheme in {url}: use http://, https://, ws:// or wss://"),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            bail!("user name in {url}: send credentials with --header instead");
        }
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        ensure!(!bare.is_empty(), "no host in {url}: give a URL such as http://127.0.0.1:8080");
        let usual = if tls { 443 } else { 80 };
        let authority = uri.authority().map_or("", Authority::as_str);
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            Some(typed) => typed
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or_else(|| anyhow!("invalid port in {url}: use a port from 1 to 65535"))?,
            None => usual,
        };
        let authority = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
        let path = match uri.path() {
            "" | "/" if client.speaks_socket_io() => SOCKET_IO,
            "" => "/",
            path => path,
        };
        Ok(Self {
            url: url.to_owned(),
            tls,
            host: bare.to_owned(),
            port,
            authority,
            path: path.to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            addresses: look_up(bare, port)?,
        })
    }
}

impl ClientKind {
    /// Whether this kind of client uses Socket.IO.
    pub(crate) fn speaks_socket_io(self) -> bool {
        match self {
            Self::PollingUpgrade | Self::WebSocket | Self::Polling => true,
            Self::Ws | Self::Bulk | Self::Http | Self::Connect => false,
        }
    }

    /// Name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PollingUpgrade => "polling-upgrade",
            Self::WebSocket => "websocket",
            Self::Polling => "polling",
            Self::Ws => "ws",
            Self::Bulk => "bulk",
            Self::Http => "http",
            Self::Connect => "connect",
        }
    }
}

fn look_up(host: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let found = (host, port).to_socket_addrs();
    let mut addresses: Vec<_> = found.with_context(|| format!("cannot resolve {host}"))?.collect();
    addresses.dedup();
    ensure!(!addresses.is_empty(), "{host} has no address");
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> anyhow::Result<Target> {
        Target::read(url, ClientKind::PollingUpgrade)
    }

    #[test]
    fn schemes_ports_and_paths() {
        let target = read("http://127.0.0.1:8080").unwrap();
        assert_eq!((target.tls, target.port, &*target.path), (false, 8080, "/socket.io/"));
        assert_eq!(target.authority, "127.0.0.1:8080");
        assert_eq!(target.addresses, ["127.0.0.1:8080".parse().unwrap()]);

        let target = read("wss://[::1]/chat/?a=b").unwrap();
        assert_eq!((target.tls, target.port, &*target.path), (true, 443, "/chat/"));
        assert_eq!((&*target.host, &*target.authority, &*target.query), ("::1", "[::1]", "a=b"));

        let plain = Target::read("http://127.0.0.1", ClientKind::Http).unwrap();
        assert_eq!(plain.path, "/");
    }

    #[test]
    fn invalid_urls_are_rejected_with_a_reason() {
        for (url, part) in [
            ("localhost:8080", "did you mean http://localhost:8080"),
            ("ftp://127.0.0.1", "invalid scheme in"),
            ("http://user:secret@127.0.0.1", "--header"),
            ("http://127.0.0.1:99999", "invalid port in"),
            ("http://[::1]:0", "invalid port in"),
            ("http://", "invalid URL"),
        ] {
            let fault = read(url).unwrap_err().to_string();
            assert!(fault.contains(part), "{url}: {fault}");
        }
    }
}
