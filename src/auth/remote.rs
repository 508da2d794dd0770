//! A document from a URL: fetched at its first use, again after a while, and once for what it does not have.
//!
//! A fetch runs in a separate task, one at a time, so that a client that leaves does not end it. The document stays in use
//! if a fetch fails, or returns what cannot be read.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::watch, time::Instant};

use super::fetch::fetch;
use crate::config::url_without_secrets;

/// Least time between two fetches because something is missing: every client can invent a key id.
const MISSING_PAUSE: Duration = Duration::from_secs(30);

/// Least time between two fetches after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// A document from a URL.
pub(super) struct RemoteDocument<T> {
    source: DocumentSource<T>,
    document: ArcSwapOption<T>,
    /// Whether another document was fetched since the last look.
    changed: AtomicBool,
    state: Mutex<FetchState>,
}

/// The place and the kind of a document.
pub(super) struct DocumentSource<T> {
    pub(super) url: String,
    /// Accepted media types.
    pub(super) accept: &'static str,
    /// Maximum size in bytes.
    pub(super) max_size: usize,
    /// Time after which the document is fetched again.
    pub(super) refresh: Duration,
    /// Deadline of a fetch.
    pub(super) timeout: Duration,
    /// Returns the URL of another document, if that one is to be read instead of this one.
    pub(super) other: fn(&str, &[u8]) -> Result<Option<String>, String>,
    pub(super) read: DocumentReader<T>,
    /// What it is, and what follows without it, for the log.
    pub(super) words: (&'static str, &'static str),
}

/// Reads a document.
pub(super) type DocumentReader<T> = Box<dyn Fn(&[u8]) -> Result<T, String> + Send + Sync>;

#[derive(Debug, Default)]
struct FetchState {
    /// The fetch that runs.
    running: Option<watch::Receiver<()>>,
    /// End of the last fetch, and whether it succeeded.
    last: Option<(Instant, bool)>,
    /// Last fetch because something was missing.
    missing: Option<Instant>,
}

impl FetchState {
    /// The fetch that is under way; a fetch that has panicked is over.
    fn running(&self) -> Option<&watch::Receiver<()>> {
        self.running.as_ref().filter(|running| running.has_changed().is_ok())
    }
}

/// Waits for the end of a fetch.
pub(crate) struct FetchWait(watch::Receiver<()>);

impl FetchWait {
    /// Resolves at the end of the fetch, which has a deadline.
    pub(crate) async fn fetched(mut self) {
        // The sender is dropped at the end.
        let _ = self.0.changed().await;
    }
}

impl<T> fmt::Debug for RemoteDocument<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteDocument({})", url_without_secrets(&self.source.url))
    }
}

impl<T: Send + Sync + 'static> RemoteDocument<T> {
    pub(super) fn new(source: DocumentSource<T>) -> Arc<Self> {
        let (document, changed) = (ArcSwapOption::empty(), AtomicBool::new(false));
        Arc::new(Self { source, document, changed, state: Mutex::default() })
    }

    /// The document that was fetched last.
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.document.load_full()
    }

    /// Whether another document was fetched since the last call.
    pub(super) fn take_change(&self) -> bool {
        self.changed.load(Ordering::Relaxed) && self.changed.swap(false, Ordering::AcqRel)
    }

    /// Fetches the first document. `None`: the last fetch has failed a moment ago.
    pub(super) fn fetch_first(self: &Arc<Self>) -> Option<FetchWait> {
        let mut state = self.state();
        let failed = state.last.is_some_and(|(at, _)| at.elapsed() < FAILURE_PAUSE);
        match state.running() {
            Some(running) => Some(FetchWait(running.clone())),
            None if failed => None,
            None => Some(self.start(&mut state)),
        }
    }

    /// Fetches the document because something is missing in it. `None`: that was done a moment ago.
    pub(super) fn fetch_missing(self: &Arc<Self>) -> Option<FetchWait> {
        let mut state = self.state();
        if let Some(running) = state.running() {
            return Some(FetchWait(running.clone()));
        }
        if state.missing.is_some_and(|at| at.elapsed() < MISSING_PAUSE) {
            return None;
        }
        state.missing = Some(Instant::now());
        Some(self.start(&mut state))
    }

    /// Starts a fetch if the document is old. Nothing waits for it.
    pub(super) fn refresh_if_due(self: &Arc<Self>) {
        let mut state = self.state();
        let refresh = self.source.refresh;
        let pause = |succeeded| if succeeded { refresh } else { MISSING_PAUSE.min(refresh) };
        let due = state.last.is_some_and(|(at, succeeded)| at.elapsed() >= pause(succeeded));
        if due && state.running().is_none() {
            self.start(&mut state);
        }
    }

    fn start(self: &Arc<Self>, state: &mut FetchState) -> FetchWait {
        let (sender, receiver) = watch::channel(());
        state.running = Some(receiver.clone());
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            let fetched = remote.fetch().await;
            remote.finish(fetched);
            drop(sender);
        });
        FetchWait(receiver)
    }

    fn finish(&self, fetched: Result<T, String>) {
        let succeeded = fetched.is_ok();
        let url = url_without_secrets(&self.source.url);
        let (what, without) = self.source.words;
        match fetched {
            Ok(document) => {
                tracing::debug!(url, "fetched {what}");
                self.document.store(Some(Arc::new(document)));
                self.changed.store(true, Ordering::Release);
            }
            Err(reason) if self.document.load().is_some() => {
                tracing::warn!(url, reason, "cannot fetch {what}; what is known stays in use");
            }
            Err(reason) => tracing::error!(url, reason, "cannot fetch {what}; {without}"),
        }
        let mut state = self.state();
        state.running = None;
        state.last = Some((Instant::now(), succeeded));
    }

    async fn fetch(&self) -> Result<T, String> {
        let DocumentSource { url, accept, max_size, timeout, other, read, .. } = &self.source;
        let mut document = fetch(url, accept, *max_size, *timeout).await?;
        if let Some(url) = other(url, &document)? {
            document = fetch(&url, accept, *max_size, *timeout).await?;
        }
        read(&document)
    }

    fn state(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
