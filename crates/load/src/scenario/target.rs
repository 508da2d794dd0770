//! Where clients connect: the reading of a URL.

use std::net::{SocketAddr, ToSocketAddrs};

use http::{
    Uri,
    uri::{Authority, Scheme},
};

use super::{ClientKind, Target};

/// Where a Socket.IO server answers unless it was told otherwise.
const SOCKET_IO: &str = "/socket.io/";

impl Target {
    /// As in a request line.
    pub(crate) fn path_and_query(&self) -> String {
        match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    /// Reads `url` for clients of a kind, and looks its host up.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(crate) fn read(url: &str, client: ClientKind) -> Result<Self, String> {
        // `localhost:8080` reads as a scheme of its own, and no port is ever meant so.
        if !url.contains("://") {
            return Err(format!("{url} has no scheme: did you mean http://{url} ?"));
        }
        let uri: Uri = url.parse().map_err(|e| format!("invalid URL {url}: {e}"))?;
        let tls = match uri.scheme().map(Scheme::as_str) {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(format!("{url} must start with http://, https://, ws:// or wss://")),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(format!("{url} holds a user name: send credentials with --header"));
        }
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(format!("{url} names no host"));
        }
        let usual = if tls { 443 } else { 80 };
        let authority = uri.authority().map_or("", Authority::as_str);
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            Some(typed) => {
                typed.parse().ok().filter(|&port| port > 0).ok_or_else(|| no_port(url))?
            }
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
    /// Whether it speaks Engine.IO with Socket.IO over it.
    pub(crate) fn speaks_socket_io(self) -> bool {
        match self {
            Self::PollingUpgrade | Self::WebSocket | Self::Polling => true,
            Self::Ws | Self::Bulk | Self::Http | Self::Connect => false,
        }
    }

    /// Its name on the command line.
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

fn no_port(url: &str) -> String {
    format!("invalid port in {url}: use a port from 1 to 65535")
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = (host, port).to_socket_addrs();
    let mut addresses: Vec<_> =
        found.map_err(|e| format!("the name {host} cannot be looked up: {e}"))?.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(format!("the name {host} has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Target, String> {
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
    fn what_is_no_target_is_told_in_a_sentence() {
        for (url, part) in [
            ("localhost:8080", "did you mean http://localhost:8080"),
            ("ftp://127.0.0.1", "must start with http://"),
            ("http://user:secret@127.0.0.1", "--header"),
            ("http://127.0.0.1:99999", "invalid port in"),
            ("http://[::1]:0", "invalid port in"),
            ("http://", "invalid URL"),
        ] {
            let fault = read(url).unwrap_err();
            assert!(fault.contains(part), "{url}: {fault}");
        }
    }
}
