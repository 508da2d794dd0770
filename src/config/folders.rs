//! Checks of folders that the process writes to.

use std::path::Path;

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

/// Checks that this process can write to a folder, or create it if it does not exist. Creates nothing.
///
/// # Errors
/// The problem, as the end of a sentence that begins with the folder's name.
pub(super) fn can_be_used(folder: &Path) -> Result<(), &'static str> {
    let there = folder.ancestors().find(|folder| folder.exists());
    // A relative path ends at the current folder.
    let there = there.unwrap_or(Path::new("."));
    let writable = || access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match there == folder {
        _ if there.is_dir() && writable() => Ok(()),
        true if there.is_dir() => Err("is not writable for this process"),
        true => Err("is not a folder"),
        false => Err("does not exist, and this process cannot create it"),
    }
}

/// The name of a user, or its number if it has no name.
pub(crate) fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

/// A command that creates a folder which this process can write to.
pub(super) fn command(folder: &Path) -> String {
    format!("install -d -o {} {}", user_name(geteuid().as_raw()), folder.display())
}
