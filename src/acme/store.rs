//! What ACME leaves on disk: the account, and each certificate with its key.
//!
//! One file for an account of a directory, one for a certificate of a directory and a set of names. A
//! chain and its key are one file, so that both are replaced by one rename: written under another
//! name, synced, renamed, and the folder synced. The folder is made with mode 0700, files with 0600.
//! A file that is of no use is put aside as `NAME.bad`, said, and made anew; one that others may read
//! is closed to them, said, and used. Knows nothing of orders.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use instant_acme::AccountCredentials;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::{Acme, Certificate};

/// Bytes of a hash that are in a file's name: enough for no two to meet by chance.
const NAME_BYTES: usize = 8;

/// The files of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
    domains: Vec<String>,
}

/// An account as it is stored.
#[derive(Deserialize, Serialize)]
pub(super) struct StoredAccount {
    /// Whom its server was told it may write to.
    pub(super) email: Option<String>,
    /// Its key and place.
    pub(super) credentials: AccountCredentials,
}

/// Keeps every other process from ordering into the folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(#[expect(dead_code, reason = "the lock goes with the descriptor")] File);

impl Store {
    /// The files of these terms; makes their folder.
    ///
    /// # Errors
    /// The folder cannot be made or written; the text names it.
    pub(super) fn open(terms: &Acme) -> io::Result<Self> {
        let folder = terms.storage.clone();
        let named = |error: io::Error| {
            let text = format!("ACME storage {}: {error}", folder.display());
            io::Error::new(error.kind(), text)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(named)?;
        let mode = fs::metadata(&folder).map_err(named)?.permissions().mode();
        if mode & 0o022 != 0 {
            let (folder, mode) = (folder.display(), mode & 0o777);
            tracing::warn!("others may write into {folder} (mode {mode:o}), which holds keys");
        }
        let mut sorted = terms.domains.clone();
        sorted.sort_unstable();
        let of = |names: &str| hex(&format!("{}\n{names}", terms.directory));
        let first = terms.domains.first().map_or("none", String::as_str);
        let store = Self {
            account: folder.join(format!("account-{}.json", of(""))),
            certificate: folder.join(format!("{first}-{}.pem", of(&sorted.join("\n")))),
            domains: terms.domains.clone(),
            folder: folder.clone(),
        };
        store.lock_file().map(drop).map_err(named)?;
        Ok(store)
    }

    /// Keeps others from ordering; `None`: another process does at present.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub(super) fn lock(&self) -> io::Result<Option<Locked>> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Locked(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        let path = self.folder.join("lock");
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    }

    /// The certificate that is stored, where it is of use.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let pem = read(&self.certificate)?;
        match self.usable(&pem) {
            Ok(certificate) => Some(certificate),
            Err(why) => {
                set_aside(&self.certificate, &why);
                None
            }
        }
    }

    /// Stores a chain and its key, both PEM, in place of what was there.
    ///
    /// # Errors
    /// What they are of no use for, or why they cannot be written.
    pub(super) fn keep(&self, chain: &str, key: &str) -> Result<Certificate, String> {
        let mut pem = key.trim_end().to_owned();
        let _ = write!(pem, "\n{}\n", chain.trim());
        let certificate = self.usable(pem.as_bytes())?;
        self.write(&self.certificate, pem.as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", self.certificate.display()))?;
        Ok(certificate)
    }

    fn usable(&self, pem: &[u8]) -> Result<Certificate, String> {
        let certificate = Certificate::from_pem(pem, pem, "in the same file")
            .map_err(|wrong| wrong.to_string())?;
        match self.domains.iter().find(|domain| !certificate.names.contains(domain)) {
            Some(missing) => Err(format!("it is not for {missing}")),
            None => Ok(certificate),
        }
    }

    /// The account that is stored.
    pub(super) fn account(&self) -> Option<StoredAccount> {
        let json = read(&self.account)?;
        match serde_json::from_slice(&json) {
            Ok(account) => Some(account),
            Err(error) => {
                // What serde says may hold a piece of what it read.
                let at = format!("line {} is no account", error.line());
                set_aside(&self.account, &at);
                None
            }
        }
    }

    /// Stores an account in place of what was there.
    ///
    /// # Errors
    /// Why it cannot be written; the text names the file.
    pub(super) fn keep_account(&self, account: &StoredAccount) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(account).map_err(|error| error.to_string())?;
        self.write(&self.account, &json)
            .map_err(|error| format!("cannot write {}: {error}", self.account.display()))
    }

    /// Puts an account aside that its server does not know.
    pub(super) fn refuse_account(&self, why: &str) {
        set_aside(&self.account, why);
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let fresh = with_suffix(path, ".new");
        // One that a crash has left may have another mode.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A file's bytes; what keeps them from being read is said.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::metadata(path).and_then(|about| {
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let shown = path.display();
            tracing::warn!(
                "others may read {shown} (mode {mode:o}), which holds a key: closed to them now, but \
                 who has read it may have it; removed, it is made anew"
            );
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
        }
        fs::read(path)
    });
    match bytes {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot be read; it is made anew");
            None
        }
    }
}

fn set_aside(path: &Path, why: &str) {
    let aside = with_suffix(path, ".bad");
    let (path, kept) = (path.display(), aside.display());
    tracing::error!("{path} is of no use: {why}; it is kept as {kept}, and made anew");
    if let Err(error) = fs::rename(path.to_string(), &aside) {
        tracing::error!(%error, "it cannot be kept");
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The beginning of a hash, in hexadecimal digits.
fn hex(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref()[..NAME_BYTES].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn terms(folder: &Path, domains: &[&str]) -> Acme {
        Acme {
            directory: "https://ca.test/dir".to_owned(),
            email: None,
            domains: domains.iter().map(|&name| name.to_owned()).collect(),
            storage: folder.join("deep/acme"),
            ca: None,
        }
    }

    fn made(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_there_again_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&terms(folder.path(), &["b.test", "a.test"])).unwrap();
        assert!(store.certificate().is_none() && store.account().is_none());
        assert_eq!(mode(&store.folder), 0o700);

        let (chain, key) = made(&["a.test", "b.test", "c.test"]);
        let kept = store.keep(&chain, &key).unwrap();
        assert_eq!(store.certificate().unwrap(), kept);
        assert_eq!(mode(&store.certificate), 0o600);
        let in_order = Store::open(&terms(folder.path(), &["a.test", "b.test"])).unwrap();
        assert_ne!(in_order.certificate, store.certificate, "the first one's name is in it");
        let other = Store::open(&terms(folder.path(), &["b.test", "c.test"])).unwrap();
        assert!(other.certificate().is_none());
    }

    #[test]
    fn what_is_of_no_use_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&terms(folder.path(), &["a.test"])).unwrap();
        let (chain, key) = made(&["a.test"]);
        let (_, others) = made(&["a.test"]);
        let foreign = made(&["b.test"]);
        for (text, why) in [
            (String::new(), "empty"),
            (chain.clone(), "no key"),
            (format!("{others}{chain}"), "another's key"),
            (format!("{}{}", foreign.1, foreign.0), "another's name"),
        ] {
            fs::write(&store.certificate, &text).unwrap();
            assert!(store.certificate().is_none(), "{why}");
            assert!(!store.certificate.exists(), "{why}");
            let aside = with_suffix(&store.certificate, ".bad");
            assert_eq!(fs::read_to_string(aside).unwrap(), text, "{why}");
        }
        assert!(store.keep(&chain, &others).is_err());
        assert!(store.keep(&foreign.0, &foreign.1).unwrap_err().contains("a.test"));
        store.keep(&chain, &key).unwrap();

        fs::write(&store.account, "{").unwrap();
        assert!(store.account().is_none() && !store.account.exists());
    }

    #[test]
    fn a_file_that_others_may_read_is_closed_to_them_and_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&terms(folder.path(), &["a.test"])).unwrap();
        let (chain, key) = made(&["a.test"]);
        store.keep(&chain, &key).unwrap();
        fs::set_permissions(&store.certificate, Permissions::from_mode(0o644)).unwrap();
        assert!(store.certificate().is_some());
        assert_eq!(mode(&store.certificate), 0o600);
    }

    #[test]
    fn a_crash_in_the_middle_of_writing_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&terms(folder.path(), &["a.test"])).unwrap();
        let (chain, key) = made(&["a.test"]);
        let first = store.keep(&chain, &key).unwrap();
        let fresh = with_suffix(&store.certificate, ".new");
        fs::write(&fresh, "half of").unwrap();
        assert_eq!(store.certificate().unwrap(), first);
        let (chain, key) = made(&["a.test"]);
        store.keep(&chain, &key).unwrap();
        assert!(!fresh.exists());
        assert_eq!(mode(&store.certificate), 0o600);
    }

    #[test]
    fn one_at_a_time_orders() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&terms(folder.path(), &["a.test"])).unwrap();
        let other = Store::open(&terms(folder.path(), &["b.test"])).unwrap();
        let lock = store.lock().unwrap();
        assert!(lock.is_some());
        assert!(other.lock().unwrap().is_none());
        drop(lock);
        assert!(other.lock().unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("deep"), "a file").unwrap();
        let error = Store::open(&terms(folder.path(), &["a.test"])).unwrap_err().to_string();
        assert!(error.contains("deep/acme"), "{error}");
    }
}
