//! Keys from a URL: fetched at the first token, again after a while, and once for an unknown key id.
//!
//! A fetch runs in a separate task, one at a time, so that a client that leaves does not end it. Keys stay in use if
//! a fetch fails or returns none. Before the first success, every token is refused.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};

use super::fetch::fetch;
use crate::config::{self, VerificationKey, url_without_secrets};

/// Maximum size of a JWK set.
const MAX_SET: usize = 256 << 10;

/// Types of a set of keys, and of the metadata of a provider.
const ACCEPT: &str = "application/jwk-set+json, application/json";

/// Least time between two fetches because of unknown key ids: every client can invent one.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);

/// Least time between two fetches after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Keys from a URL.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    url: String,
    refresh: Duration,
    timeout: Duration,
    keys: ArcSwapOption<Vec<VerificationKey>>,
    /// Whether other keys were fetched since the last look.
    changed: AtomicBool,
    state: Mutex<FetchState>,
}

#[derive(Debug, Default)]
struct FetchState {
    /// The fetch that runs.
    running: Option<watch::Receiver<()>>,
    /// End of the last fetch, and whether it succeeded.
    last: Option<(Instant, bool)>,
    /// Last fetch because of an unknown key id.
    unknown: Option<Instant>,
}

/// Waits for the end of a fetch.
pub(crate) struct KeyWait(watch::Receiver<()>);

impl KeyWait {
    /// Resolves at the end of the fetch, which has a deadline.
    pub(crate) async fn fetched(mut self) {
        // The sender is dropped at the end.
        let _ = self.0.changed().await;
    }
}

impl RemoteKeys {
    pub(super) fn new(url: String, refresh: Duration, timeout: Duration) -> Arc<Self> {
        let (keys, changed, state) =
            (ArcSwapOption::empty(), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { url, refresh, timeout, keys, changed, state })
    }

    /// The keys that were fetched last.
    pub(super) fn current(&self) -> Option<Arc<Vec<VerificationKey>>> {
        self.keys.load_full()
    }

    /// Whether other keys were fetched since the last call.
    pub(super) fn take_change(&self) -> bool {
        self.changed.load(Ordering::Relaxed) && self.changed.swap(false, Ordering::AcqRel)
    }

    /// Fetches the first keys. `None`: the last fetch has failed a moment ago.
    pub(super) fn fetch_first(self: &Arc<Self>) -> Option<KeyWait> {
        let mut state = self.state();
        let failed = state.last.is_some_and(|(at, _)| at.elapsed() < FAILURE_PAUSE);
        match &state.running {
            Some(running) => Some(KeyWait(running.clone())),
            None if failed => None,
            None => Some(self.start(&mut state)),
        }
    }

    /// Fetches keys because no known one fits. `None`: that was done a moment ago.
    pub(super) fn fetch_unknown(self: &Arc<Self>) -> Option<KeyWait> {
        let mut state = self.state();
        if let Some(running) = &state.running {
            return Some(KeyWait(running.clone()));
        }
        if state.unknown.is_some_and(|at| at.elapsed() < UNKNOWN_PAUSE) {
            return None;
        }
        state.unknown = Some(Instant::now());
        Some(self.start(&mut state))
    }

    /// Starts a fetch if the keys are old. Nothing waits for it.
    pub(super) fn refresh_if_due(self: &Arc<Self>) {
        let mut state = self.state();
        let pause =
            |succeeded| if succeeded { self.refresh } else { UNKNOWN_PAUSE.min(self.refresh) };
        let due = state.last.is_some_and(|(at, succeeded)| at.elapsed() >= pause(succeeded));
        if due && state.running.is_none() {
            self.start(&mut state);
        }
    }

    fn start(self: &Arc<Self>, state: &mut FetchState) -> KeyWait {
        let (sender, receiver) = watch::channel(());
        state.running = Some(receiver.clone());
        let keys = Arc::clone(self);
        tokio::spawn(async move {
            let fetched = keys.fetch().await;
            keys.finish(fetched);
            drop(sender);
        });
        KeyWait(receiver)
    }

    fn finish(&self, fetched: Result<Vec<VerificationKey>, String>) {
        let succeeded = fetched.is_ok();
        match fetched {
            Ok(keys) => {
                tracing::debug!(
                    url = url_without_secrets(&self.url),
                    keys = keys.len(),
                    "fetched keys"
                );
                self.keys.store(Some(Arc::new(keys)));
                self.changed.store(true, Ordering::Release);
            }
            Err(reason) => {
                let url = url_without_secrets(&self.url);
                match self.keys.load().is_some() {
                    true => {
                        tracing::warn!(url, reason, "cannot fetch keys; the known ones stay in use")
                    }
                    false => tracing::error!(url, reason, "cannot fetch keys; tokens are refused"),
                }
            }
        }
        let mut state = self.state();
        state.running = None;
        state.last = Some((Instant::now(), succeeded));
    }

    async fn fetch(&self) -> Result<Vec<VerificationKey>, String> {
        let mut answer = fetch(&self.url, ACCEPT, MAX_SET, self.timeout).await?;
        if let Some(url) = config::key_url_of_provider(&self.url, &answer)? {
            answer = fetch(&url, ACCEPT, MAX_SET, self.timeout).await?;
        }
        let keys = config::verification_keys_of_set(&answer)?;
        match keys.is_empty() {
            true => Err("the JWK set has no key that can verify tokens".to_owned()),
            false => Ok(keys),
        }
    }

    fn state(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
