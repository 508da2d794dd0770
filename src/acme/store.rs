//! ACME files on disk: the account, and each certificate with its key.
//!
//! There is one file for each account of a directory, and one for each certificate of a directory and a
//! set of names. A chain and its key are in one file, so that one rename replaces both. An unusable file is
//! renamed to `NAME.bad`, logged, and made again. The mode of a file that other users can read is corrected
//! and logged, and the file is used. Failed attempts are stored beside the missing certificate, and so is
//! an order that may already have its certificate, with the key. No file is written before
//! [`Store::open`].

mod files;

use std::{
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use aws_lc_rs::digest::{SHA256, digest};
use instant_acme::AccountCredentials;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use self::files::{read, remove, restrict, set_aside, write};
use super::{challenge_type::ChallengeType, schedule::AttemptHistory};
use crate::config::{Acme, Certificate, InvalidValue};

/// Bytes of a hash in a file name, enough to make collisions improbable.
const NAME_BYTES: usize = 8;

/// The files of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    account: PathBuf,
    certificate: PathBuf,
    history: PathBuf,
    /// An order that may already have its certificate, with the key.
    pending: PathBuf,
    domains: Vec<String>,
    /// Hash of the settings that an attempt depends on, besides names and server. If they change, the
    /// history of attempts does not count.
    terms: String,
}

/// An account as it is stored.
#[derive(Deserialize, Serialize)]
pub(super) struct StoredAccount {
    /// Contact address that the server has.
    pub(super) email: Option<String>,
    /// Key and URL of the account.
    pub(super) credentials: AccountCredentials,
}

/// Contents of a certificate file: the key and the chain.
pub(super) struct Pem(String);

/// Failed attempts as they are stored.
#[derive(Deserialize, Serialize)]
struct StoredHistory {
    terms: String,
    #[serde(rename = "past")]
    history: AttemptHistory,
}

/// An order that may already have its certificate, as it is stored.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct PendingOrder {
    /// URL of the order.
    pub(super) url: String,
    /// Challenge type that proved the names.
    #[serde(rename = "by")]
    pub(super) challenge: ChallengeType,
    /// Private key of the certificate, in PEM.
    pub(super) key: String,
}

/// Prevents other processes from ordering into the folder, until it is dropped.
#[derive(Debug)]
pub(super) struct StorageLock(
    #[expect(dead_code, reason = "closing the descriptor releases the lock")] File,
);

/// Why a stored file could not be changed.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The data cannot be encoded as JSON.
    Encode(serde_json::Error),
    /// The file cannot be written.
    Write(PathBuf, io::Error),
    /// The file cannot be removed.
    Remove(PathBuf, io::Error),
    /// The task that works on the file ended early.
    Task(JoinError),
}

/// Why a chain and a key cannot be used.
#[derive(Debug)]
pub(super) enum UnusableCertificate {
    /// The chain or the key is invalid.
    Invalid(InvalidValue),
    /// The certificate does not cover this name.
    MissingName(String),
}

impl fmt::Debug for PendingOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingOrder").field("url", &self.url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(error) => write!(f, "cannot encode ACME data as JSON: {error}"),
            Self::Write(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::Remove(path, error) => write!(f, "cannot remove {}: {error}", path.display()),
            Self::Task(error) => write!(f, "cannot change ACME files: {error}"),
        }
    }
}

impl fmt::Display for UnusableCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(wrong) => wrong.fmt(f),
            Self::MissingName(name) => write!(f, "the certificate is not valid for {name}"),
        }
    }
}

impl Store {
    /// The files for these settings.
    pub(super) fn new(terms: &Acme) -> Self {
        let folder = terms.storage.clone();
        let mut sorted = terms.domains.clone();
        sorted.sort_unstable();
        let of = |names: &str| hash(&format!("{}\n{names}", terms.directory));
        let first = terms.domains.first().map_or("none", String::as_str);
        let stem = format!("{first}-{}", of(&sorted.join("\n")));
        Self {
            account: folder.join(format!("account-{}.json", of(""))),
            certificate: folder.join(format!("{stem}.pem")),
            history: folder.join(format!("{stem}.tried.json")),
            pending: folder.join(format!("{stem}.order.json")),
            domains: terms.domains.clone(),
            terms: hash(&format!("{:?}\n{:?}", terms.email, terms.ca)),
            folder,
        }
    }

    /// Creates the folder, and corrects the modes of files that other users can read.
    ///
    /// # Errors
    /// The folder cannot be created or written; the message names it.
    pub(super) fn open(&self) -> io::Result<()> {
        let folder = &self.folder;
        self.lock_file()?;
        let about = fs::metadata(folder).map_err(|error| self.unusable_folder(&error))?;
        let mode = about.permissions().mode();
        if mode & 0o022 != 0 {
            let (folder, mode) = (folder.display(), mode & 0o777);
            tracing::warn!(
                "other users can write to {folder} (mode {mode:o}), which contains private keys; run `chmod \
                 700 {folder}`"
            );
        }
        restrict(&self.account);
        restrict(&self.certificate);
        restrict(&self.pending);
        Ok(())
    }

    /// Locks the folder for an order; `None`: another process has locked it. Creates the folder.
    ///
    /// # Errors
    /// The lock file cannot be created or locked; the message names the folder.
    pub(super) fn lock(&self) -> io::Result<Option<StorageLock>> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StorageLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.unusable_folder(&error.into())),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        let folder = &self.folder;
        let create = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let path = folder.join("lock");
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
        };
        create().map_err(|error| self.unusable_folder(&error))
    }

    fn unusable_folder(&self, error: &io::Error) -> io::Error {
        let text = format!("cannot use the ACME storage {}: {error}", self.folder.display());
        io::Error::new(error.kind(), text)
    }

    /// The stored certificate, if it is usable. Changes no file.
    pub(super) fn peek(&self) -> Option<Certificate> {
        self.usable(&fs::read(&self.certificate).ok()?).ok()
    }

    /// The failed attempts for this certificate. Changes no file.
    pub(super) fn history(&self) -> AttemptHistory {
        let read = fs::read(&self.history).ok();
        let stored = read.and_then(|json| serde_json::from_slice::<StoredHistory>(&json).ok());
        let same = stored.filter(|stored| stored.terms == self.terms);
        same.map(|stored| stored.history).unwrap_or_default()
    }

    /// Stores the failed attempts for this certificate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save_history(&self, history: &AttemptHistory) -> Result<(), StoreError> {
        let stored = StoredHistory { terms: self.terms.clone(), history: history.clone() };
        write(&self.history, &serde_json::to_vec(&stored).map_err(StoreError::Encode)?)
    }

    /// The stored certificate, if it is usable. Renames an unusable file.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let pem = read(&self.certificate)?;
        match self.usable(&pem) {
            Ok(certificate) => Some(certificate),
            Err(why) => {
                set_aside(&self.certificate, &why.to_string());
                None
            }
        }
    }

    /// The order that may already have its certificate. Changes no file.
    pub(super) fn pending(&self) -> Option<PendingOrder> {
        serde_json::from_slice(&fs::read(&self.pending).ok()?).ok()
    }

    /// Stores an order, before its certificate is requested.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save_pending(&self, pending: &PendingOrder) -> Result<(), StoreError> {
        write(&self.pending, &serde_json::to_vec(pending).map_err(StoreError::Encode)?)
    }

    /// Removes the stored order: its certificate is stored, or it will bring none.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(super) fn forget_pending(&self) -> Result<(), StoreError> {
        remove(&self.pending)
    }

    /// Makes a certificate and its file from a chain and a key in PEM.
    ///
    /// # Errors
    /// The chain and the key are not a usable certificate for the names.
    pub(super) fn assemble(
        &self,
        chain: &str,
        key: &str,
    ) -> Result<(Certificate, Pem), UnusableCertificate> {
        let pem = format!("{}\n{}\n", key.trim_end(), chain.trim());
        Ok((self.usable(pem.as_bytes())?, Pem(pem)))
    }

    /// Stores a certificate, and removes the order and the failed attempts that led to it.
    ///
    /// # Errors
    /// A file cannot be written or removed.
    pub(super) fn save_certificate(&self, Pem(pem): &Pem) -> Result<(), StoreError> {
        write(&self.certificate, pem.as_bytes())?;
        self.forget_pending()?;
        remove(&self.history)
    }

    fn usable(&self, pem: &[u8]) -> Result<Certificate, UnusableCertificate> {
        let certificate = Certificate::from_pem(pem, pem, "in the same file")
            .map_err(UnusableCertificate::Invalid)?;
        match self.domains.iter().find(|domain| !certificate.names.contains(domain)) {
            Some(missing) => Err(UnusableCertificate::MissingName(missing.clone())),
            None => Ok(certificate),
        }
    }

    /// The stored account.
    pub(super) fn account(&self) -> Option<StoredAccount> {
        let json = read(&self.account)?;
        match serde_json::from_slice(&json) {
            Ok(account) => Some(account),
            Err(error) => {
                // The message of serde may contain a part of the key.
                set_aside(&self.account, &format!("line {} is invalid", error.line()));
                None
            }
        }
    }

    /// Stores an account.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save_account(&self, account: &StoredAccount) -> Result<(), StoreError> {
        write(&self.account, &serde_json::to_vec_pretty(account).map_err(StoreError::Encode)?)
    }

    /// Renames the file of an account that the server does not know.
    pub(super) fn reject_account(&self, why: &str) {
        set_aside(&self.account, why);
    }
}

/// Returns the first bytes of a hash as hexadecimal digits.
fn hash(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref()[..NAME_BYTES].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
