use std::{fs, io, os::unix::fs::MetadataExt};

use super::{
    UnixSocket,
    places::{DEFAULT_NAME, is_private},
};

#[tokio::test]
async fn only_the_owner_can_open_the_socket_and_its_file_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DEFAULT_NAME);
    let socket = UnixSocket::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced_and_that_of_a_running_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DEFAULT_NAME);
    let first = UnixSocket::bind(&path).unwrap();
    let error = UnixSocket::bind(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    // A killed process does not remove its file.
    first.file.disown();
    drop(first);
    assert!(path.exists());
    let second = UnixSocket::bind(&path).unwrap();
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "text").unwrap();
    let error = UnixSocket::bind(&path).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the file exists and is not a socket; remove it or choose another path"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let error = UnixSocket::bind(&folder.path().join("no/such")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(UnixSocket::bind(&folder.path().join("x".repeat(200))).is_err());
}

#[tokio::test]
async fn the_file_of_a_successor_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DEFAULT_NAME);
    let old = UnixSocket::bind(&path).unwrap();
    fs::rename(&path, folder.path().join("aside")).unwrap();
    let new = UnixSocket::bind(&path).unwrap();
    drop(old);
    assert!(path.exists());
    drop(new);
    assert!(!path.exists());
}

#[test]
fn a_directory_that_other_users_can_write_to_is_not_private() {
    let folder = tempfile::tempdir().unwrap();
    let set = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(folder.path(), mode).unwrap();
    };
    set(0o700);
    assert!(is_private(folder.path()));
    set(0o770);
    assert!(!is_private(folder.path()));
    set(0o701);
    assert!(!is_private(folder.path()));
    assert!(!is_private(&folder.path().join("none")));
}
