//! Flags that are equal to a setting of the file, with the same parsers and messages.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::config::{self, Address, AdminSocket, InvalidValue};

/// Parses an IP address and a port to listen on.
pub(super) fn listen(typed: &str) -> Result<SocketAddr, InvalidValue> {
    config::listen_address(typed.trim())
}

/// A text that is not an IP address.
#[derive(Debug)]
pub(super) struct InvalidIpAddress;

impl fmt::Display for InvalidIpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write an IP address without a port, for example 192.0.2.7 or 2001:db8::7")
    }
}

impl std::error::Error for InvalidIpAddress {}

/// Parses an IP address without a port.
pub(super) fn ip(typed: &str) -> Result<IpAddr, InvalidIpAddress> {
    typed.trim().parse().map_err(|_| InvalidIpAddress)
}

/// Parses a backend; its name is the address as typed.
pub(super) fn backend(typed: &str) -> Result<(String, Address), InvalidValue> {
    let typed = typed.trim();
    typed.parse().map(|address| (typed.to_owned(), address))
}

/// Returns the help of `--admin-socket`.
pub(super) fn admin_socket_help() -> String {
    let default = config::documented_default("admin", "socket");
    format!("Path of the admin API's unix socket, or `off` [default: {default}]")
}

/// Parses the path of the admin API's unix socket, or `off`.
pub(super) fn admin_socket(typed: &str) -> Result<AdminSocket, InvalidValue> {
    if typed == "off" {
        return Ok(AdminSocket::Off);
    }
    let path = PathBuf::from(typed);
    let path = std::path::absolute(&path).unwrap_or(path);
    config::socket_path(typed, &path).map(|()| AdminSocket::At(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice<T: std::fmt::Debug>(parsed: Result<T, InvalidValue>) -> String {
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn flags_have_the_messages_of_the_file() {
        assert!(advice(listen("22300")).contains("\"127.0.0.1:22300\""));
        assert!(advice(listen("localhost:80")).contains("\"127.0.0.1:80\""));
        assert!(advice(backend("22001")).contains("\"127.0.0.1:22001\""));
        assert!(advice(backend("http://a:1/")).contains("write \"a:1\""));
        assert!(advice(admin_socket("folder/")).contains("moorline.sock"));
        assert_eq!(admin_socket("off"), Ok(AdminSocket::Off));
    }
}
