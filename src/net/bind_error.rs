//! Explains why an address cannot be bound and what to do: names the process that holds the port, the
//! capability that a low port needs, or the missing interface.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// State `listen` in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// EAFNOSUPPORT: the address family is not available on this system.
const NO_FAMILY: i32 = 97;
/// Maximum open files inspected per process.
const MOST_LINKS: usize = 10_000;
/// First unprivileged port if the system does not report one.
const FIRST_FREE_PORT: u16 = 1024;

/// Adds the cause and the remedy to a bind error. `owner` names the listener that wanted the address, for
/// example `listener web`.
pub fn explained(owner: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    let text = format!("{owner}: cannot listen on {address}: {}", why(address, error));
    io::Error::new(error.kind(), text)
}

fn why(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => match holder(address) {
            Some(holder) => format!("{holder}; stop it, or choose another port"),
            None => format!(
                "the address is already in use by another process; find it with \
                 `sudo ss -ltnp 'sport = :{port}'`, or choose another port"
            ),
        },
        ErrorKind::PermissionDenied if port < first_free_port() => format!(
            "ports below {} need the capability CAP_NET_BIND_SERVICE: put \
             `AmbientCapabilities=CAP_NET_BIND_SERVICE` into the systemd unit (deploy/moorline.service has \
             it), or run `sudo setcap cap_net_bind_service=+ep {}`, or choose a higher port",
            first_free_port(),
            std::env::current_exe().unwrap_or_else(|_| "moorline".into()).display()
        ),
        ErrorKind::AddrNotAvailable => format!(
            "no network interface of this machine has the address {}; `ip address` lists them, and {} stands \
             for all of them",
            address.ip(),
            if address.is_ipv4() { "0.0.0.0" } else { "[::]" }
        ),
        _ if error.raw_os_error() == Some(NO_FAMILY) => {
            "this system has no IPv6; remove the address".to_owned()
        }
        _ => error.to_string(),
    }
}

fn first_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(FIRST_FREE_PORT)
}

/// Describes the listener that conflicts with `wanted`, as far as this process may see it.
fn holder(wanted: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    let (at, inode) = lines.filter_map(listening).find(|(at, _)| conflicts(*at, wanted))?;
    Some(match process_with(&inode) {
        Some((pid, name)) => format!("process {pid} ({name}) already listens on {at}"),
        None => format!(
            "a process of another user already listens on {at} (`sudo ss -ltnp 'sport = :{}'` names it)",
            at.port()
        ),
    })
}

/// Returns address and inode of a listening socket from a line of `/proc/net/tcp`.
fn listening(line: &str) -> Option<(SocketAddr, String)> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some((SocketAddr::new(ip_of(ip)?, port), inode.to_owned()))
}

/// Parses an address as the kernel prints it: 32-bit words in the byte order of the host.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn conflicts(at: SocketAddr, wanted: SocketAddr) -> bool {
    let same = at.ip().to_canonical() == wanted.ip().to_canonical();
    // `[::]` may accept IPv4 as well.
    let all = at.ip().is_unspecified() || wanted.ip().is_unspecified();
    at.port() == wanted.port() && (same || all)
}

/// Returns pid and name of the process that holds the socket.
fn process_with(inode: &str) -> Option<(u32, String)> {
    let socket = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut links = links.take(MOST_LINKS).filter_map(|link| fs::read_link(link.path()).ok());
        if links.any(|link| link == Path::new(&socket)) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
            return Some((pid, name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_for_port_in_use_names_the_process() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let text = explained("listener web", address, &error).to_string();
        let pid = std::process::id();
        assert!(
            text.starts_with(&format!("listener web: cannot listen on {address}: process {pid} (")),
            "{text}"
        );
        assert!(text.contains("choose another port"), "{text}");
    }

    #[test]
    fn kernel_address_tables_are_parsed() {
        let line =
            "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1";
        let (at, inode) = listening(line).unwrap();
        assert_eq!((at.to_string().as_str(), inode.as_str()), ("127.0.0.1:8080", "4242"));
        assert_eq!(ip_of("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert!(listening(&line.replace(" 0A ", " 01 ")).is_none());
    }

    #[test]
    fn error_for_low_port_names_the_capability() {
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        if first_free_port() > 80 {
            let text = why("0.0.0.0:80".parse().unwrap(), &denied);
            assert!(text.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{text}");
        }
        let absent = io::Error::from(ErrorKind::AddrNotAvailable);
        assert!(why("192.0.2.1:80".parse().unwrap(), &absent).contains("ip address"));
    }
}
