//! Files whose change asks for a reload.
//!
//! Folders are watched, not files: editors and deployment tools replace a file by renaming another
//! over it, and mounted configuration changes through a link beside it. Changes are gathered for a
//! moment, so that a file written in pieces is read once.

use std::{
    collections::HashSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{
    DebounceEventResult, DebouncedEvent, Debouncer, RecommendedCache, new_debouncer,
};
use tokio::sync::mpsc;

use super::Request;

/// How long a folder must be quiet.
const QUIET: Duration = Duration::from_millis(200);

/// Watches folders and asks for reloads.
pub(super) struct Watcher {
    debouncer: Option<Debouncer<RecommendedWatcher, RecommendedCache>>,
    folders: HashSet<PathBuf>,
    files: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Watcher {
    /// Watches nothing yet. Where the system offers no watching, SIGHUP remains.
    pub(super) fn new(requests: mpsc::WeakSender<Request>) -> Self {
        let files = Arc::new(Mutex::new(HashSet::new()));
        let watched = Arc::clone(&files);
        let debouncer = new_debouncer(QUIET, None, move |outcome: DebounceEventResult| {
            let Ok(events) = outcome else { return };
            let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if events.iter().any(|event| concerns(event, &watched))
                && let Some(requests) = requests.upgrade()
            {
                // Full means that a reload is asked for already.
                let _ = requests.try_send(Request::Reload);
            }
        });
        let debouncer = debouncer
            .inspect_err(|error| tracing::warn!(%error, "files cannot be watched; use SIGHUP"))
            .ok();
        Self { debouncer, folders: HashSet::new(), files }
    }

    /// Watches these files from now on, and no others.
    pub(super) fn watch(&mut self, files: &[PathBuf]) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) =
            files.iter().cloned().collect();
        let Some(debouncer) = &mut self.debouncer else { return };
        let folders: HashSet<PathBuf> =
            files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        for gone in self.folders.difference(&folders) {
            let _ = debouncer.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = debouncer.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "cannot be watched; use SIGHUP");
            }
        }
        self.folders = folders;
    }
}

/// Whether an event may have changed a watched file. Reading one is no change, and neither is the
/// access log growing beside it.
fn concerns(event: &DebouncedEvent, watched: &HashSet<PathBuf>) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let link = OsString::from("..data");
    event.paths.iter().any(|path| watched.contains(path) || path.file_name() == Some(&link))
}
