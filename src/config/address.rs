//! Parsers of addresses, hosts and networks. No name is looked up.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    Address, HostPattern,
    admin::LONGEST_PATH,
    fault::{InvalidValue, quoted},
    types::UNIX,
};

impl FromStr for Address {
    type Err = InvalidValue;

    /// `HOST:PORT`, or `unix:PATH`; an IPv6 address is in brackets.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return unix(path).map(|()| Self { host: text.to_owned(), port: 0 });
        }
        if let Some((_, rest)) = text.split_once("://") {
            let bare = rest.split(['/', '?', '#']).next().unwrap_or(rest);
            let tls = text.starts_with("https:") || text.starts_with("wss:");
            let with = if tls { ", and `tls = true` in the pool" } else { "" };
            let port = if bare.contains(':') { "" } else { ":3000" };
            return Err(InvalidValue::new(format!("{} is a URL, not an address", quoted(text)))
                .help(format!("write \"{bare}{port}\"{with}")));
        }
        if several(text) {
            return Err(InvalidValue::new(format!("{} is more than one address", quoted(text))).help(
                "write each address as a separate string: \"10.0.0.11:3000\", \"10.0.0.12:3000\"",
            ));
        }
        if text.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(InvalidValue::new(format!("{} has a port, but no host", quoted(text)))
                .help(format!("write \"127.0.0.1:{text}\"")));
        }
        if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            return Err(no_port(text, &format!("[{text}]")));
        }
        if text.starts_with('[') && text.ends_with(']') {
            return Err(no_port(text, text));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| no_port(text, text))?;
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && !typed_sign(text) => port,
            _ => {
                let message = format!("invalid port {} in {}", quoted(port), quoted(text));
                return Err(InvalidValue::new(message).help("a port is a number from 1 to 65535"));
            }
        };
        Ok(Self { host: host_of_address(host)?, port })
    }
}

/// Checks the path of a Unix socket.
fn unix(path: &str) -> Result<(), InvalidValue> {
    let wrong = |why: &str, help: String| {
        Err(InvalidValue::new(format!("invalid Unix socket {}: {why}", quoted(path))).help(help))
    };
    // `unix://PATH` is how other programs write it.
    let bare = path.trim_start_matches('/');
    let folder = if path.contains('/') { "/" } else { "/run/" };
    let help = format!("write \"unix:{folder}{bare}\"");
    if path.starts_with("//") {
        return wrong("it begins with several slashes", help);
    }
    if !path.starts_with('/') {
        return wrong("the path is not absolute", help);
    }
    if path.ends_with('/') || path.split('/').any(|part| part == "..") {
        return wrong("it is not the path of a socket", "write \"unix:/run/app.sock\"".to_owned());
    }
    if path.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return wrong("it contains whitespace", "use a path without whitespace".to_owned());
    }
    if path.len() > LONGEST_PATH {
        let why = format!("it is longer than {LONGEST_PATH} bytes");
        return wrong(&why, "use a shorter path".to_owned());
    }
    Ok(())
}

/// Whether a text is a list of addresses.
fn several(text: &str) -> bool {
    let mut parts = text.split([',', ' ']).filter(|part| !part.is_empty());
    text.contains(',') || (text.contains(' ') && parts.all(|part| part.contains(':')))
}

/// Rust parses integers with a leading plus, which is not valid in an address.
fn typed_sign(text: &str) -> bool {
    text.contains(":+")
}

fn no_port(text: &str, host: &str) -> InvalidValue {
    InvalidValue::new(format!("{} has no port", quoted(text)))
        .help(format!("write \"{host}:3000\""))
}

/// An IP address, IPv6 without its brackets, or a DNS name in lower case.
fn host_of_address(host: &str) -> Result<String, InvalidValue> {
    if let Some(inner) = host.strip_prefix('[') {
        let ip = inner.strip_suffix(']').and_then(|ip| ip.parse::<Ipv6Addr>().ok());
        let message = || format!("invalid IPv6 address {}", quoted(host));
        return ip.map(|ip| ip.to_string()).ok_or_else(|| {
            InvalidValue::new(message()).help("write it as \"[2001:db8::1]:3000\"")
        });
    }
    if host.contains(':') {
        return Err(InvalidValue::new(format!("invalid host {}", quoted(host)))
            .help("write an IPv6 address in brackets: \"[::1]:3000\""));
    }
    host.parse::<Ipv4Addr>().map_or_else(|_| dns_name(host), |ip| Ok(ip.to_string()))
}

/// A DNS name in lower case. Underscores are accepted: container networks use them.
pub(super) fn dns_name(typed: &str) -> Result<String, InvalidValue> {
    let wrong = |why: &str, help: &str| {
        Err(InvalidValue::new(format!("invalid host name {}: {why}", quoted(typed))).help(help))
    };
    let name = typed.strip_suffix('.').unwrap_or(typed);
    if name.is_empty() {
        return wrong("it is empty", "write a name or an IP address: \"node-1.example.com\"");
    }
    if !name.is_ascii() {
        return wrong("it has letters outside ASCII", "write the name in punycode: \"xn--…\"");
    }
    if name.len() > 253 {
        return wrong("it is longer than 253 characters", "use a shorter name");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return wrong("there is nothing between two dots", "remove one of the dots");
        }
        if label.len() > 63 {
            let help = "use a shorter name";
            return wrong("the part between two dots is longer than 63 characters", help);
        }
        if label.starts_with('-') || label.ends_with('-') {
            let help = "remove the hyphen; names have letters, digits and hyphens between them";
            return wrong("a part begins or ends with a hyphen", help);
        }
        if let Some(bad) =
            label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
        {
            let help = "names have letters, digits, hyphens, underscores and dots";
            return wrong(&format!("{} is not allowed", quoted(&bad.to_string())), help);
        }
    }
    // A name that ends in a number is a misspelt IPv4 address (WHATWG URL §3.5).
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidValue::new(format!("invalid IPv4 address {}", quoted(typed)))
            .help("an IPv4 address is four numbers from 0 to 255: \"10.0.0.11\""));
    }
    Ok(typed.to_ascii_lowercase())
}

/// An address to listen on: IP address and port, port 0 for a free one.
pub(crate) fn bind(text: &str) -> Result<SocketAddr, InvalidValue> {
    text.parse().map_err(|_| {
        let wrong = InvalidValue::new(format!("invalid address to listen on {}", quoted(text)));
        if several(text) {
            return wrong
                .help("write each address as a separate string: \"0.0.0.0:80\", \"[::]:80\"");
        }
        if let Some((_, rest)) = text.split_once("://") {
            let bare = rest.split(['/', '?', '#']).next().unwrap_or(rest);
            return wrong.help(format!("write the address without the scheme: \"{bare}\""));
        }
        let port = text.rsplit(':').next().unwrap_or_default();
        let parts = text.rsplit_once(':').filter(|(ip, port)| is_ip_part(ip) && !port.is_empty());
        if let Some((ip, port)) = parts.filter(|(_, port)| port.parse::<u16>().is_err()) {
            let message = format!("invalid port {} in {}", quoted(port), quoted(text));
            return InvalidValue::new(message)
                .help(format!("write a port from 1 to 65535, for example \"{ip}:8080\""));
        }
        match (port.parse::<u16>(), text.parse::<IpAddr>()) {
            (_, Ok(IpAddr::V4(ip))) => wrong.help(format!("add a port: \"{ip}:8080\"")),
            (_, Ok(IpAddr::V6(ip))) => wrong.help(format!("write \"[{ip}]:8080\"")),
            (Ok(port), _) if text.starts_with("localhost:") => {
                wrong.help(format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""))
            }
            (Ok(port), _) => wrong.help(format!(
                "write an IP address and a port: \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for \
                 every IPv4 address of this machine"
            )),
            _ => wrong.help("write an IP address and a port: \"0.0.0.0:8080\" or \"[::]:8080\""),
        }
    })
}

/// Whether a connection to `address` reaches a socket that listens on `own`. A socket that listens on
/// every address of a family is reached through each address of this machine.
pub(crate) fn reaches(own: SocketAddr, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let every = || {
        own.ip().is_unspecified()
            && own.is_ipv4() == ip.is_ipv4()
            && (ip.is_unspecified() || is_local(ip))
    };
    own.port() == address.port()
        && own.port() != 0
        && (own.ip().to_canonical() == ip || ip.is_unspecified() || every())
}

/// Whether this machine has the address: the system then uses it as the source address, too. Nothing
/// is sent.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // Connecting a datagram socket sets its address without sending anything.
        socket.connect((ip, 9)).ok()?;
        socket.local_addr().ok()
    };
    ip.is_loopback() || from().is_some_and(|from| from.ip() == ip)
}

/// Whether a text is an IP address, IPv6 in brackets.
fn is_ip_part(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<Ipv4Addr>().is_ok(),
    }
}

/// A network in CIDR notation, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, InvalidValue> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    // Without host bits, equal networks compare equal.
    let net = one.or_else(|_| text.parse::<IpNet>().map(|net| net.trunc())).map(canonical);
    net.map_err(|_| {
        InvalidValue::new(format!("invalid IP address or network {}", quoted(text)))
            .help(network_help(text))
    })
}

fn network_help(text: &str) -> &'static str {
    match text.split_once('/') {
        Some((ip, _)) if ip.parse::<Ipv4Addr>().is_ok() => {
            "write the number of network bits after the slash, from 0 to 32: \"10.0.0.0/8\""
        }
        Some((ip, _)) if ip.parse::<Ipv6Addr>().is_ok() => {
            "write the number of network bits after the slash, from 0 to 128: \"2001:db8::/32\""
        }
        _ if text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !text.contains(':') => {
            "host names are not supported here; write an address or a network: \"10.0.0.7\" or \
             \"10.0.0.0/8\""
        }
        _ => "write an address or a network: \"10.0.0.7\" or \"10.0.0.0/8\"",
    }
}

/// An IPv4-mapped IPv6 network as IPv4, in which peers are compared.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok()).map_or(net, IpNet::V4)
}

/// A route's host: a name, an IP address, or `*.` and a name.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, InvalidValue> {
    let wrong = || InvalidValue::new(format!("invalid host {}", quoted(text)));
    if text == "*" {
        return Err(wrong().help("remove the key to match every host"));
    }
    if text.contains("://") || text.contains('/') {
        return Err(wrong().help("write the host alone; the path belongs in `path`"));
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(HostPattern::Wildcard(plain_name(suffix)?));
    }
    if text.contains('*') {
        return Err(
            wrong().help("a wildcard replaces the first parts of a name: \"*.example.com\"")
        );
    }
    if text.starts_with('[') && text.ends_with(']') {
        return host_of_address(text).map(|ip| HostPattern::Exact(format!("[{ip}]")));
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        return Err(match port.parse::<u16>() {
            Ok(_) if !host.contains(':') => wrong().help(format!("remove the port: \"{host}\"")),
            _ => wrong().help("write an IPv6 address in brackets: \"[::1]\""),
        });
    }
    let literal = text.parse::<Ipv4Addr>();
    literal.map_or_else(|_| plain_name(text), |ip| Ok(ip.to_string())).map(HostPattern::Exact)
}

/// A DNS name without the final dot.
fn plain_name(text: &str) -> Result<String, InvalidValue> {
    dns_name(text.strip_suffix('.').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::{Address, HostPattern, InvalidValue, bind, host_pattern, network};

    fn address(text: &str) -> Result<String, InvalidValue> {
        text.parse::<Address>().map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_ip_or_name_and_port() {
        assert_eq!(address("10.0.0.1:3000").unwrap(), "10.0.0.1:3000");
        assert_eq!(address("[::1]:3000").unwrap(), "[::1]:3000");
        assert_eq!(address("[0:0::1]:3000").unwrap(), "[::1]:3000");
        assert_eq!(address("Node-1.Example.com:80").unwrap(), "node-1.example.com:80");
        assert_eq!(address("chat_node:80").unwrap(), "chat_node:80");
        assert_eq!(address("svc.cluster.local.:80").unwrap(), "svc.cluster.local.:80");
        let socket: Address = "unix:/run/App.sock".parse().unwrap();
        assert_eq!(socket.to_string(), "unix:/run/App.sock");
        assert_eq!(socket.unix_path(), Some(std::path::Path::new("/run/App.sock")));
        assert!(socket.literal().is_none() && !socket.has_name());
        assert!(address(&format!("unix:/{}", "a".repeat(107))).is_err());
        let literal = "[::1]:3000".parse::<Address>().unwrap().literal().unwrap();
        assert_eq!(literal.to_string(), "[::1]:3000");
    }

    #[test]
    fn invalid_addresses_get_advice() {
        for (text, part) in [
            ("10.0.0.1", "write \"10.0.0.1:3000\""),
            ("::1", "write \"[::1]:3000\""),
            ("[::1]", "write \"[::1]:3000\""),
            ("http://10.0.0.1:3000/x", "write \"10.0.0.1:3000\""),
            ("10.0.0.1:0", "invalid port `0` in `10.0.0.1:0`"),
            ("10.0.0.1:65536", "invalid port `65536`"),
            ("10.0.0.1:+80", "invalid port `+80`"),
            ("10.0.0.1:", "invalid port ``"),
            ("10.0.0.256:80", "invalid IPv4 address `10.0.0.256`"),
            (":80", "it is empty"),
            ("", "has no port"),
            ("22001", "write \"127.0.0.1:22001\""),
            ("a:1, b:2", "a separate string"),
            ("https://a", "`tls = true`"),
            ("fe80::1:80:x:80", "in brackets"),
            ("[fe80::1%eth0]:80", "invalid IPv6 address"),
            ("a b:80", "` ` is not allowed"),
            ("a..b:80", "two dots"),
            ("-a:80", "hyphen"),
            ("bücher.example:80", "punycode"),
            ("unix:app.sock", "write \"unix:/run/app.sock\""),
            ("unix:///run/app.sock", "write \"unix:/run/app.sock\""),
            ("unix:/run/a b.sock", "without whitespace"),
            ("unix:/run/../app.sock", "not the path of a socket"),
            ("unix:/run/", "not the path of a socket"),
        ] {
            let message = address(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(address(&format!("{}:80", "a".repeat(64))).is_err());
        assert!(address(&format!("{}:80", "a.".repeat(128))).is_err());
    }

    #[test]
    fn listening_needs_an_ip_address() {
        assert!(bind("0.0.0.0:0").is_ok() && bind("[::]:80").is_ok());
        for (text, part) in [
            ("localhost:80", "write \"127.0.0.1:80\""),
            (":8080", "\"0.0.0.0:8080\""),
            ("8080", "\"0.0.0.0:8080\""),
            ("::1", "\"[::1]:8080\""),
            ("10.0.0.1", "\"10.0.0.1:8080\""),
            ("", "write an IP address"),
        ] {
            let message = bind(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits() {
        assert_eq!(network("10.1.2.3/8").unwrap(), network("10.0.0.0/8").unwrap());
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert!(network("10.0.0.0/33").is_err() && network("lan").is_err());
    }

    #[test]
    fn hosts_are_exact_or_a_leading_wildcard() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.to_owned()));
        assert_eq!(host_pattern("Chat.Example.com."), exact("chat.example.com"));
        assert_eq!(host_pattern("localhost"), exact("localhost"));
        assert_eq!(host_pattern("127.0.0.1"), exact("127.0.0.1"));
        assert_eq!(host_pattern("[::1]"), exact("[::1]"));
        let wildcard = HostPattern::Wildcard("example.com".to_owned());
        assert_eq!(host_pattern("*.Example.com"), Ok(wildcard));
        for bad in [
            "*",
            "a.*.com",
            "*x.com",
            "*.",
            "",
            "a.com:80",
            "a.com/x",
            "https://a.com",
            "::1",
            "a b",
        ] {
            assert!(host_pattern(bad).is_err(), "{bad}");
        }
    }
}
