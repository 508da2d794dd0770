//! Passwords of Basic authentication (RFC 7617): from a name and a password to an identity.
//!
//! A slow hash protects the passwords, so a check takes milliseconds of a core. It runs on a blocking thread, few at a
//! time in the whole process. A password that was right is not hashed again for a while. A check goes on if its client
//! leaves, so that clients that leave at once do not start more checks.

use std::{collections::HashMap, str, sync::Arc, time::Duration};

use argon2::{
    Argon2,
    password_hash::{PasswordVerifier as _, phc::PasswordHash},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{
    AuthFault, AuthMethod, Identity,
    credential_cache::{CredentialCache, CredentialHash, KeyedHash},
};
use crate::config::BasicConfig;

/// Seconds for which a password that was right is not hashed again.
const FRESH: u64 = 60;

/// Checks that run at a time.
const AT_ONCE: usize = 2;

/// Longest wait for the check of other passwords.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest name and password together, in bytes.
const LONGEST: usize = 1024;

/// Turns for checks, shared by all users of the process.
#[derive(Clone, Debug)]
pub(super) struct PasswordTurns(Arc<Semaphore>);

impl Default for PasswordTurns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// The users of a route.
#[derive(Debug)]
pub(crate) struct Passwords {
    users: HashMap<Box<str>, PasswordUser>,
    /// The hash that is checked for a name that does not exist: the reply takes as long as for any other.
    decoy: Arc<str>,
    verified: CredentialCache<Arc<Identity>>,
    hash: KeyedHash,
    turns: PasswordTurns,
}

#[derive(Debug)]
struct PasswordUser {
    hash: Arc<str>,
    identity: Arc<Identity>,
}

/// Result of a check.
pub(crate) enum PasswordCheck {
    /// The password was checked.
    Done(Result<Arc<Identity>, AuthFault>),
    /// The password must be hashed.
    Waits(PasswordWork),
}

/// A password that must be hashed.
pub(crate) struct PasswordWork {
    passwords: Arc<Passwords>,
    key: CredentialHash,
    password: Vec<u8>,
    /// Its user, if there is one.
    user: Option<(Arc<str>, Arc<Identity>)>,
}

impl Passwords {
    pub(super) fn new(config: &BasicConfig, turns: PasswordTurns) -> Self {
        let identity = |name: &str| Identity {
            method: AuthMethod::Password,
            subject: name.into(),
            ..Identity::default()
        };
        let users = config.users.iter().map(|(name, hash)| {
            let identity = Arc::new(identity(name));
            (name.as_str().into(), PasswordUser { hash: hash.as_str().into(), identity })
        });
        let decoy = config.users.first().map_or("", |(_, hash)| hash).into();
        let (verified, hash) = (CredentialCache::default(), KeyedHash::new());
        Self { users: users.collect(), decoy, verified, hash, turns }
    }

    /// Checks the credentials of an `Authorization` field, behind `Basic`.
    pub(crate) fn check(self: &Arc<Self>, credentials: &[u8], now: u64) -> PasswordCheck {
        match self.prepare(credentials, now) {
            Ok(check) => check,
            Err(fault) => PasswordCheck::Done(Err(fault)),
        }
    }

    fn prepare(self: &Arc<Self>, credentials: &[u8], now: u64) -> Result<PasswordCheck, AuthFault> {
        if credentials.len() > LONGEST * 2 {
            return Err(AuthFault::TooLong);
        }
        let decoded =
            STANDARD.decode(credentials).map_err(|_| AuthFault::Malformed("not base64"))?;
        let key = self.hash.of(&decoded);
        if let Some(identity) = self.verified.find(&key, now) {
            return Ok(PasswordCheck::Done(Ok(identity)));
        }
        let colon = decoded.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or(AuthFault::Malformed("no colon behind the name"))?;
        let (name, password) = (&decoded[..colon], &decoded[colon + 1..]);
        let user = str::from_utf8(name).ok().and_then(|name| self.users.get(name));
        let user = user.map(|user| (Arc::clone(&user.hash), Arc::clone(&user.identity)));
        let (passwords, password) = (Arc::clone(self), password.to_vec());
        Ok(PasswordCheck::Waits(PasswordWork { passwords, key, password, user }))
    }
}

impl PasswordWork {
    /// Hashes the password, when it is its turn.
    ///
    /// # Errors
    /// The name or the password is wrong, or there are too many checks.
    pub(crate) async fn done(self) -> Result<Arc<Identity>, AuthFault> {
        let turns = Arc::clone(&self.passwords.turns.0);
        let turn = match timeout(PATIENCE, turns.acquire_owned()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) | Err(_) => return Err(AuthFault::Busy),
        };
        let work = spawn_blocking(move || {
            // Held until the work is done, even if its client leaves.
            let _turn = turn;
            self.verify()
        });
        work.await.unwrap_or(Err(AuthFault::Busy))
    }

    fn verify(self) -> Result<Arc<Identity>, AuthFault> {
        let hash = self.user.as_ref().map_or(&self.passwords.decoy, |(hash, _)| hash);
        let is_right = is_password(hash, &self.password);
        let (_, identity) = self.user.filter(|_| is_right).ok_or(AuthFault::Password)?;
        let now = super::now();
        self.passwords.verified.insert(self.key, Arc::clone(&identity), now + FRESH, now);
        Ok(identity)
    }
}

/// Whether a password has this hash of Argon2 or bcrypt.
fn is_password(hash: &str, password: &[u8]) -> bool {
    match PasswordHash::new(hash) {
        Ok(parsed) if hash.starts_with("$argon2") => {
            Argon2::default().verify_password(password, &parsed).is_ok()
        }
        _ => bcrypt::verify(password, hash).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of `secret`.
    const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
    const ARGON2: &str = "$argon2id$v=19$m=16,t=2,p=1$MTIzNDU2Nzg$ZlgCW0V2GfYHJSpwaUWU1w";

    fn passwords() -> Arc<Passwords> {
        let users = [("anna", BCRYPT), ("bert", ARGON2)];
        let users = users.map(|(name, hash)| (name.to_owned(), hash.to_owned()));
        let config = BasicConfig { path: "users".into(), users: Arc::new(users) };
        Arc::new(Passwords::new(&config, PasswordTurns::default()))
    }

    async fn check(passwords: &Arc<Passwords>, text: &str) -> Result<Box<str>, AuthFault> {
        let checked = match passwords.check(STANDARD.encode(text).as_bytes(), 0) {
            PasswordCheck::Done(checked) => checked,
            PasswordCheck::Waits(work) => work.done().await,
        };
        checked.map(|identity| identity.subject.clone())
    }

    #[tokio::test]
    async fn only_the_right_password_is_that_of_its_user() {
        let passwords = passwords();
        for name in ["anna", "bert"] {
            assert_eq!(&*check(&passwords, &format!("{name}:secret")).await.unwrap(), name);
        }
        for text in
            ["anna:Secret", "anna:", "anna:secret:", "anna:secret\0x", "carl:secret", ":secret"]
        {
            assert!(matches!(check(&passwords, text).await, Err(AuthFault::Password)), "{text}");
        }
        assert!(matches!(check(&passwords, "anna").await, Err(AuthFault::Malformed(_))));
        let bad = passwords.check(b"%%%", 0);
        assert!(matches!(bad, PasswordCheck::Done(Err(AuthFault::Malformed(_)))));
    }

    #[tokio::test]
    async fn a_right_password_is_hashed_once_in_a_while() {
        let passwords = passwords();
        let credentials = STANDARD.encode("anna:secret");
        check(&passwords, "anna:secret").await.unwrap();
        let again = passwords.check(credentials.as_bytes(), crate::auth::now());
        assert!(matches!(again, PasswordCheck::Done(Ok(_))));
        let later = passwords.check(credentials.as_bytes(), crate::auth::now() + FRESH + 1);
        assert!(matches!(later, PasswordCheck::Waits(_)));
    }
}
