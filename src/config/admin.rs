//! `admin`: the admin API and the metrics.

use std::{net::SocketAddr, path::Path};

use super::{
    Admin, AdminRemote, AdminSocket,
    address::{bind, reaches},
    fault::{InvalidValue, quoted},
    file::{TomlTable, TomlValue},
    listeners::AddressClaims,
    schema, secrets,
};

/// Longest path of a unix socket: Linux has 108 bytes for it, with the final NUL.
pub(super) const LONGEST_PATH: usize = 107;

/// Reads an address for the metrics, or a table.
pub(super) fn admin(value: &TomlValue<'_>, claims: &mut AddressClaims) -> Option<Admin> {
    if value.node.get_ref().is_str() {
        return Some(Admin { metrics: address(value, claims), ..Admin::default() });
    }
    if let Some(port) = value.typed_number() {
        value.wrong_type_with_help("an address such as \"127.0.0.1:9090\"", || {
            Some(format!("write \"127.0.0.1:{port}\""))
        });
        return None;
    }
    let table = value.table(&schema::ADMIN, "an address or a table, `[admin]`")?;
    Some(Admin {
        metrics: table.value("metrics").and_then(|value| address(&value, claims)),
        socket: table.value("socket").and_then(|value| socket(&value)).unwrap_or_default(),
        remote: remote(&table, claims),
    })
}

fn address(value: &TomlValue<'_>, claims: &mut AddressClaims) -> Option<SocketAddr> {
    let address = value.parsed(bind)?;
    claims.claim(value, address);
    Some(address)
}

/// Reads the API over TCP, which needs both an address and a token.
fn remote(table: &TomlTable<'_>, claims: &mut AddressClaims) -> Option<AdminRemote> {
    let listen = table.value("listen");
    let address = listen.and_then(|value| address(&value, claims));
    let token = table.value("token");
    if let (Some(listen), None) = (listen, token) {
        let wrong = InvalidValue::new("the admin API over TCP (`listen`) needs a token")
            .help("add `token = { file = \"admin.token\" }`");
        table.file().missing(&listen.at(), wrong);
    }
    if listen.is_none() {
        table.refuse(&["token"], |key| {
            InvalidValue::new(format!("`{key}` is not used without `listen`"))
                .help("remove it, or add `listen`; file permissions protect the unix socket")
        });
    }
    Some(AdminRemote { address: address?, token: secrets::token(&token?)? })
}

/// Reads the path of the socket, or whether there is a socket.
fn socket(value: &TomlValue<'_>) -> Option<AdminSocket> {
    if let Some(on) = value.switch() {
        return Some(if on { AdminSocket::Default } else { AdminSocket::Off });
    }
    if !value.node.get_ref().is_str() {
        value.wrong_type("false or a path such as \"moorline.sock\"");
        return None;
    }
    let typed = value.string()?;
    let path = value.resolve(typed);
    let path = std::path::absolute(&path).unwrap_or(path);
    value.checked(socket_path(typed, &path)).map(|()| AdminSocket::At(path))
}

/// Checks that a socket can be created at a path. `typed` is the path in messages.
///
/// # Errors
/// The problem with the path.
pub(crate) fn socket_path(typed: &str, path: &Path) -> Result<(), InvalidValue> {
    let shown = path.to_string_lossy();
    if typed.is_empty() || typed.ends_with('/') || typed.contains('\0') {
        return Err(InvalidValue::new(format!("invalid path of a socket {}", quoted(typed)))
            .help("write a file name, for example \"moorline.sock\", or false for no socket"));
    }
    if shown.len() > LONGEST_PATH {
        let message = format!(
            "the path of the socket has {} bytes, more than the {LONGEST_PATH} that the system allows",
            shown.len()
        );
        return Err(InvalidValue::new(message).help("use a folder with a shorter path"));
    }
    match path.parent() {
        Some(folder) if !folder.is_dir() => {
            // The message has the path as typed, not the absolute path.
            let folder = Path::new(typed).parent().unwrap_or(Path::new(""));
            let folder = folder.to_string_lossy();
            Err(InvalidValue::new(format!("there is no folder {}", quoted(&folder)))
                .help("create it with `mkdir -p`; relative paths start at the folder of the file that they are in"))
        }
        _ => Ok(()),
    }
}

impl Admin {
    /// Whether a connection to this address reaches the API or the metrics. No backend may have
    /// this address: proxied traffic must not reach them.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let own = self.metrics.into_iter().chain(self.remote.as_ref().map(|remote| remote.address));
        own.into_iter().any(|own| reaches(own, address))
    }

    /// Whether a path is that of the API's socket, as configured.
    pub fn is_at_path(&self, path: &Path) -> bool {
        matches!(&self.socket, AdminSocket::At(own) if own == path)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Admin, socket_path};

    #[test]
    fn sockets_have_a_name_of_bounded_length() {
        let check = |typed: &str| socket_path(typed, &Path::new("/").join(typed));
        assert!(check("moorline.sock").is_ok());
        assert!(check(&"s".repeat(106)).is_ok() && check(&"s".repeat(107)).is_err());
        for bad in ["", "folder/", "a\0b", "absent-folder/a.sock"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let umlauts: PathBuf = format!("/{}", "ü".repeat(54)).into();
        assert!(socket_path("ü", &umlauts).is_err());
    }

    #[test]
    fn the_admin_address_is_recognized_in_other_spellings() {
        let at = |own: &str, address: &str| {
            Admin { metrics: own.parse().ok(), ..Admin::default() }.is_at(address.parse().unwrap())
        };
        assert!(at("127.0.0.1:9090", "127.0.0.1:9090"));
        assert!(at("127.0.0.1:9090", "[::ffff:127.0.0.1]:9090"));
        assert!(at("127.0.0.1:9090", "0.0.0.0:9090"));
        assert!(at("0.0.0.0:9090", "127.0.0.2:9090"));
        assert!(at("[::]:9090", "[::1]:9090"));
        assert!(!at("127.0.0.1:9090", "127.0.0.1:9091"));
        assert!(!at("127.0.0.1:9090", "10.0.0.1:9090"));
        assert!(!at("0.0.0.0:9090", "10.0.0.1:9090"));
        assert!(!at("none", "127.0.0.1:9090"));
    }
}
