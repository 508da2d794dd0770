//! What ACME leaves on disk: the account, and each certificate with its key.
//!
//! One file for an account of a directory, one for a certificate of a directory and a set of names. A
//! chain and its key are one file, so that both are replaced by one rename: written under another
//! name, synced, renamed, and the folder synced. The folder is made with mode 0700, files with 0600.
//! A file that is of no use is put aside as `NAME.bad`, said, and made anew; one that others may read
//! is closed to them, said, and used. Beside a certificate that cannot be had lies what was tried for
//! it, and the order that may have it already with the key to it. Nothing is touched, nor made, before [`Store::open`]. Knows nothing of orders.

use std::{
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use instant_acme::AccountCredentials;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{issue::PendingOrder, schedule::AttemptHistory};
use crate::config::{Acme, Certificate};

/// Bytes of a hash that are in a file's name: enough for no two to meet by chance.
const NAME_BYTES: usize = 8;

/// The files of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
    history: PathBuf,
    /// An order that may have its certificate already, and the key to it.
    pending: PathBuf,
    domains: Vec<String>,
    /// What an attempt is made on besides names and server: if this changes, the history is ignored.
    terms: String,
}

/// An account as it is stored.
#[derive(Deserialize, Serialize)]
pub(super) struct StoredAccount {
    /// Whom its server was told it may write to.
    pub(super) email: Option<String>,
    /// Its key and place.
    pub(super) credentials: AccountCredentials,
}

/// The text of a certificate's file: its key and its chain.
pub(super) struct Pem(String);

/// What was tried for a certificate, as it is stored.
#[derive(Deserialize, Serialize)]
struct StoredHistory {
    terms: String,
    #[serde(rename = "past")]
    history: AttemptHistory,
}

/// Keeps every other process from ordering into the folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked(#[expect(dead_code, reason = "the lock goes with the descriptor")] File);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

impl Store {
    /// The files of these terms.
    pub(super) fn new(terms: &Acme) -> Self {
        let folder = terms.storage.clone();
        let mut sorted = terms.domains.clone();
        sorted.sort_unstable();
        let of = |names: &str| hex(&format!("{}\n{names}", terms.directory));
        let first = terms.domains.first().map_or("none", String::as_str);
        let stem = format!("{first}-{}", of(&sorted.join("\n")));
        Self {
            account: folder.join(format!("account-{}.json", of(""))),
            certificate: folder.join(format!("{stem}.pem")),
            history: folder.join(format!("{stem}.tried.json")),
            pending: folder.join(format!("{stem}.order.json")),
            domains: terms.domains.clone(),
            terms: hex(&format!("{:?}\n{:?}", terms.email, terms.ca)),
            folder,
        }
    }

    /// Makes the folder, and closes what others may read.
    ///
    /// # Errors
    /// The folder cannot be made or written; the text names it.
    pub(super) fn open(&self) -> io::Result<()> {
        let folder = &self.folder;
        let named = |error: io::Error| {
            let text = format!("ACME storage {}: {error}", folder.display());
            io::Error::new(error.kind(), text)
        };
        self.lock_file().map(drop).map_err(named)?;
        let mode = fs::metadata(folder).map_err(named)?.permissions().mode();
        if mode & 0o022 != 0 {
            let (folder, mode) = (folder.display(), mode & 0o777);
            tracing::warn!("others may write into {folder} (mode {mode:o}), which holds keys");
        }
        close(&self.account);
        close(&self.certificate);
        close(&self.pending);
        Ok(())
    }

    /// Keeps others from ordering; `None`: another process does at present. Makes the folder.
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
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.folder.join("lock");
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
    }

    /// The certificate that is stored, where it is of use; touches nothing.
    pub(super) fn look(&self) -> Option<Certificate> {
        self.usable(&fs::read(&self.certificate).ok()?).ok()
    }

    /// What was tried for it in vain; touches nothing.
    pub(super) fn history(&self) -> AttemptHistory {
        let read = fs::read(&self.history).ok();
        let stored = read.and_then(|json| serde_json::from_slice::<StoredHistory>(&json).ok());
        let same = stored.filter(|stored| stored.terms == self.terms);
        same.map(|stored| stored.history).unwrap_or_default()
    }

    /// Stores what was tried for it.
    ///
    /// # Errors
    /// Why it cannot be written; the text names the file.
    pub(super) fn save_history(&self, history: &AttemptHistory) -> Result<(), String> {
        let stored = StoredHistory { terms: self.terms.clone(), history: history.clone() };
        let json = serde_json::to_vec(&stored).map_err(|error| error.to_string())?;
        self.write(&self.history, &json)
    }

    /// The certificate that is stored, where it is of use; puts one aside that is not.
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

    /// The order that may have its certificate already; touches nothing.
    pub(super) fn pending(&self) -> Option<PendingOrder> {
        serde_json::from_slice(&fs::read(&self.pending).ok()?).ok()
    }

    /// Stores an order before its certificate is asked for.
    ///
    /// # Errors
    /// Why it cannot be written; the text names the file.
    pub(super) fn keep_pending(&self, pending: &PendingOrder) -> Result<(), String> {
        let json = serde_json::to_vec(pending).map_err(|error| error.to_string())?;
        self.write(&self.pending, &json)
    }

    /// Forgets the order: its certificate is stored, or there will be none.
    ///
    /// # Errors
    /// Why the file cannot be removed; the text names it.
    pub(super) fn forget_pending(&self) -> Result<(), String> {
        remove(&self.pending)
    }

    /// A certificate of a chain and its key, both PEM, and the text of the file that holds both.
    ///
    /// # Errors
    /// What they are of no use for.
    pub(super) fn made(&self, chain: &str, key: &str) -> Result<(Certificate, Pem), String> {
        let pem = format!("{}\n{}\n", key.trim_end(), chain.trim());
        Ok((self.usable(pem.as_bytes())?, Pem(pem)))
    }

    /// Stores a certificate's file in place of what was there, and forgets its order and what was tried for
    /// it.
    ///
    /// # Errors
    /// Why it cannot be written; the text names the file.
    pub(super) fn keep(&self, Pem(pem): &Pem) -> Result<(), String> {
        self.write(&self.certificate, pem.as_bytes())?;
        self.forget_pending()?;
        remove(&self.history)
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
    }

    /// Puts an account aside that its server does not know.
    pub(super) fn refuse_account(&self, why: &str) {
        set_aside(&self.account, why);
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        self.replace(path, bytes)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
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

/// Removes a file if it exists.
fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A file's bytes; what keeps them from being read is said.
fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot be read; it is made anew");
            None
        }
    }
}

/// Closes a file to others, where there is one and they may read it.
fn close(path: &Path) {
    let Ok(about) = fs::metadata(path) else { return };
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    let shown = path.display();
    tracing::warn!(
        "others may read {shown} (mode {mode:o}), which holds a key; now mode 0600; if another user may \
         have read it, delete it and a new one is ordered"
    );
    if let Err(error) = fs::set_permissions(path, Permissions::from_mode(0o600)) {
        tracing::error!(%error, "{shown} cannot be closed");
    }
}

fn set_aside(path: &Path, why: &str) {
    let aside = with_suffix(path, ".bad");
    let (shown, kept) = (path.display(), aside.display());
    tracing::error!("{shown} is of no use: {why}; it is kept as {kept}, and made anew");
    if let Err(error) = fs::rename(path, &aside) {
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
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::acme::schedule::Pace;

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

    fn opened(terms: &Acme) -> Store {
        let store = Store::new(terms);
        store.open().unwrap();
        store
    }

    fn kept(store: &Store, (chain, key): &(String, String)) -> Certificate {
        let (certificate, pem) = store.made(chain, key).unwrap();
        store.keep(&pem).unwrap();
        certificate
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_there_again_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&terms(folder.path(), &["b.test", "a.test"]));
        assert!(store.certificate().is_none() && store.account().is_none());
        assert_eq!(mode(&store.folder), 0o700);

        let kept = kept(&store, &made(&["a.test", "b.test", "c.test"]));
        assert_eq!(store.certificate().unwrap(), kept);
        assert_eq!(store.look().unwrap(), kept);
        assert_eq!(mode(&store.certificate), 0o600);
        let in_order = opened(&terms(folder.path(), &["a.test", "b.test"]));
        assert_ne!(in_order.certificate, store.certificate, "the first one's name is in it");
        let other = opened(&terms(folder.path(), &["b.test", "c.test"]));
        assert!(other.certificate().is_none());
    }

    #[test]
    fn what_is_of_no_use_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&terms(folder.path(), &["a.test"]));
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
            assert!(store.look().is_none() && store.certificate.exists(), "{why}");
            assert!(store.certificate().is_none(), "{why}");
            assert!(!store.certificate.exists(), "{why}");
            let aside = with_suffix(&store.certificate, ".bad");
            assert_eq!(fs::read_to_string(aside).unwrap(), text, "{why}");
        }
        assert!(store.made(&chain, &others).is_err());
        assert!(store.made(&foreign.0, &foreign.1).unwrap_err().contains("a.test"));
        kept(&store, &(chain, key));

        fs::write(&store.account, "{").unwrap();
        assert!(store.account().is_none() && !store.account.exists());
    }

    #[test]
    fn a_file_that_others_may_read_is_closed_to_them_and_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&terms(folder.path(), &["a.test"]));
        kept(&store, &made(&["a.test"]));
        fs::set_permissions(&store.certificate, Permissions::from_mode(0o644)).unwrap();
        assert!(store.look().is_some());
        assert_eq!(mode(&store.certificate), 0o644, "to look touches nothing");
        store.open().unwrap();
        assert_eq!(mode(&store.certificate), 0o600);
    }

    #[test]
    fn a_crash_in_the_middle_of_writing_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&terms(folder.path(), &["a.test"]));
        let first = kept(&store, &made(&["a.test"]));
        let fresh = with_suffix(&store.certificate, ".new");
        fs::write(&fresh, "half of").unwrap();
        assert_eq!(store.certificate().unwrap(), first);
        kept(&store, &made(&["a.test"]));
        assert!(!fresh.exists());
        assert_eq!(mode(&store.certificate), 0o600);
    }

    #[test]
    fn one_at_a_time_orders() {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&terms(folder.path(), &["a.test"]));
        let other = opened(&terms(folder.path(), &["b.test"]));
        let lock = store.lock().unwrap();
        assert!(lock.is_some());
        assert!(other.lock().unwrap().is_none());
        drop(lock);
        assert!(other.lock().unwrap().is_some());
    }

    #[test]
    fn what_was_tried_counts_until_a_certificate_is_there_or_other_terms_are() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = terms(folder.path(), &["a.test"]);
        assert_eq!(Store::new(&wanted).history(), AttemptHistory::default());
        assert!(!wanted.storage.exists(), "to look makes nothing");
        let store = opened(&wanted);
        let mut history = AttemptHistory::default();
        history.begin(&Pace::default(), SystemTime::now(), 0.5);
        store.save_history(&history).unwrap();
        assert_eq!(opened(&wanted).history(), history);
        let other = Acme { email: Some("ops@example.com".to_owned()), ..wanted.clone() };
        assert_eq!(Store::new(&other).history(), AttemptHistory::default());
        kept(&store, &made(&["a.test"]));
        assert_eq!(store.history(), AttemptHistory::default());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("deep"), "a file").unwrap();
        let error = Store::new(&terms(folder.path(), &["a.test"])).open().unwrap_err().to_string();
        assert!(error.contains("deep/acme"), "{error}");
    }
}
