use std::{fs::Permissions, path::Path, time::SystemTime};

use rcgen::{CertificateParams, KeyPair};

use super::files::with_suffix;
use super::*;
use crate::acme::schedule::Backoff;

fn terms(folder: &Path, domains: &[&str]) -> Acme {
    Acme {
        directory: "https://ca.test/dir".to_owned(),
        email: None,
        domains: domains.iter().map(|&name| name.to_owned()).collect(),
        storage: folder.join("deep/acme"),
        ca: None,
    }
}

fn issue(names: &[&str]) -> (String, String) {
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

fn saved(store: &Store, (chain, key): &(String, String)) -> Certificate {
    let (certificate, pem) = store.assemble(chain, key).unwrap();
    store.save_certificate(&pem).unwrap();
    certificate
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn stored_certificate_is_loaded_again_with_a_private_mode() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&terms(folder.path(), &["b.test", "a.test"]));
    assert!(store.certificate().is_none() && store.account().is_none());
    assert_eq!(mode(&store.folder), 0o700);

    let saved_certificate = saved(&store, &issue(&["a.test", "b.test", "c.test"]));
    assert_eq!(store.certificate().unwrap(), saved_certificate);
    assert_eq!(store.peek().unwrap(), saved_certificate);
    assert_eq!(mode(&store.certificate), 0o600);
    let in_order = opened(&terms(folder.path(), &["a.test", "b.test"]));
    assert_ne!(in_order.certificate, store.certificate, "the first name is in the file name");
    let other = opened(&terms(folder.path(), &["b.test", "c.test"]));
    assert!(other.certificate().is_none());
}

#[test]
fn unusable_files_are_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&terms(folder.path(), &["a.test"]));
    let (chain, key) = issue(&["a.test"]);
    let (_, others) = issue(&["a.test"]);
    let foreign = issue(&["b.test"]);
    for (text, why) in [
        (String::new(), "empty"),
        (chain.clone(), "no key"),
        (format!("{others}{chain}"), "another's key"),
        (format!("{}{}", foreign.1, foreign.0), "another's name"),
    ] {
        fs::write(&store.certificate, &text).unwrap();
        assert!(store.peek().is_none() && store.certificate.exists(), "{why}");
        assert!(store.certificate().is_none(), "{why}");
        assert!(!store.certificate.exists(), "{why}");
        let aside = with_suffix(&store.certificate, ".bad");
        assert_eq!(fs::read_to_string(aside).unwrap(), text, "{why}");
    }
    assert!(store.assemble(&chain, &others).is_err());
    assert!(store.assemble(&foreign.0, &foreign.1).unwrap_err().to_string().contains("a.test"));
    saved(&store, &(chain, key));

    fs::write(&store.account, "{").unwrap();
    assert!(store.account().is_none() && !store.account.exists());
}

#[test]
fn mode_of_a_file_that_others_can_read_is_corrected() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&terms(folder.path(), &["a.test"]));
    saved(&store, &issue(&["a.test"]));
    fs::set_permissions(&store.certificate, Permissions::from_mode(0o644)).unwrap();
    assert!(store.peek().is_some());
    assert_eq!(mode(&store.certificate), 0o644, "peek changes nothing");
    store.open().unwrap();
    assert_eq!(mode(&store.certificate), 0o600);
}

#[test]
fn crash_while_writing_keeps_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&terms(folder.path(), &["a.test"]));
    let first = saved(&store, &issue(&["a.test"]));
    let fresh = with_suffix(&store.certificate, ".new");
    fs::write(&fresh, "half of").unwrap();
    assert_eq!(store.certificate().unwrap(), first);
    saved(&store, &issue(&["a.test"]));
    assert!(!fresh.exists());
    assert_eq!(mode(&store.certificate), 0o600);
}

#[test]
fn only_one_process_can_lock_the_folder() {
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
fn history_counts_until_a_certificate_is_stored_or_settings_change() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = terms(folder.path(), &["a.test"]);
    assert_eq!(Store::new(&wanted).history(), AttemptHistory::default());
    assert!(!wanted.storage.exists(), "reading creates nothing");
    let store = opened(&wanted);
    let mut history = AttemptHistory::default();
    history.begin(&Backoff::default(), SystemTime::now(), 0.5);
    store.save_history(&history).unwrap();
    assert_eq!(opened(&wanted).history(), history);
    let other = Acme { email: Some("ops@example.com".to_owned()), ..wanted.clone() };
    assert_eq!(Store::new(&other).history(), AttemptHistory::default());
    saved(&store, &issue(&["a.test"]));
    assert_eq!(store.history(), AttemptHistory::default());
}

#[test]
fn error_names_a_folder_that_cannot_be_created() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("deep"), "a file").unwrap();
    let error = Store::new(&terms(folder.path(), &["a.test"])).open().unwrap_err().to_string();
    assert!(error.contains("deep/acme"), "{error}");
}
