//! Reloads when a watched file changes.
//!
//! Changes are found in two ways. The system reports events in every folder on the files' paths, including
//! symbolic links; see [`folders`]. And a slow timer compares the files' contents with the loaded ones, for
//! changes that the system does not report: on a network file system, behind a hard link, or beyond the limit
//! of watches; see [`contents`].
//!
//! Each load renews both, also if the configuration is rejected. A file that is written in pieces is loaded
//! once: a reload waits until the folders are quiet.
//!
//! No change is lost. [`Watcher::changed`] stays ready until the control task takes it, however long that
//! task is busy; several changes are one. Lost events and a failure of inotify count as a change of every
//! file, and after a failure the contents are compared more often.

mod contents;
mod folders;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, watch},
    task::spawn_blocking,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    contents::Contents,
    folders::{FolderEvent, Folders},
};
use super::until;
use crate::config::{
    Config, Reload,
    check::{CheckedConfig, Faults},
};

/// How long the folders must be quiet before a reload.
const QUIET: Duration = Duration::from_millis(200);

/// Longest time that a reload waits for quiet.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Longest time between two comparisons while a folder cannot be watched.
const UNWATCHED: Duration = Duration::from_secs(5);

/// Watches the files of a configuration and reports changes until it is dropped.
pub(super) struct Watcher {
    files: WatchedFiles,
    _task: AbortOnDropHandle<()>,
}

/// The watched files. Clones share them.
#[derive(Clone)]
pub(super) struct WatchedFiles(Arc<WatchShared>);

struct WatchShared {
    state: Mutex<WatchState>,
    folders: Folders,
    /// Time between two comparisons; `None`: nothing is watched.
    every: watch::Sender<Option<Duration>>,
    /// A file has changed while it was loaded.
    overtaken: AtomicBool,
    wake: Notify,
    /// Holds a permit while a change is not taken.
    changed: Notify,
}

#[derive(Default)]
struct WatchState {
    watch: bool,
    interval: Duration,
    contents: Contents,
    names: folders::WatchedNames,
}

impl Watcher {
    /// Watches nothing until [`WatchedFiles::watch_checked`] loads a configuration. `settings` apply until
    /// then.
    pub(super) fn new(settings: Reload) -> Self {
        Self::on(Folders::new(), settings)
    }

    fn on(folders: Folders, settings: Reload) -> Self {
        let Reload { watch, interval, .. } = settings;
        let shared = WatchShared {
            state: Mutex::new(WatchState { watch, interval, ..WatchState::default() }),
            folders,
            every: watch::Sender::new(None),
            overtaken: AtomicBool::new(false),
            wake: Notify::new(),
            changed: Notify::new(),
        };
        let files = WatchedFiles(Arc::new(shared));
        let task = tokio::spawn(run(files.clone()));
        Self { files, _task: AbortOnDropHandle::new(task) }
    }

    /// Resolves when a file has changed since the last call. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.files.0.changed.notified().await;
    }

    /// The watched files.
    pub(super) fn files(&self) -> WatchedFiles {
        self.files.clone()
    }
}

impl WatchedFiles {
    /// Runs `check`, and watches the files that it has read. Files of a rejected configuration are watched in
    /// addition to the current ones. Blocks.
    ///
    /// # Errors
    /// The faults that `check` found.
    pub(super) fn watch_checked(
        &self,
        check: impl FnOnce() -> CheckedConfig,
    ) -> Result<Config, Faults> {
        // Events of new watches are handled only after this lock is released.
        let mut state = self.0.state.blocking_lock();
        let CheckedConfig { outcome, readings } = check();
        if let Ok(config) = &outcome {
            (state.watch, state.interval) = (config.reload.watch, config.reload.interval);
            state.contents.clear();
        }
        if state.watch {
            state.contents.add(readings);
        } else {
            state.contents.clear();
        }
        let paths: Vec<PathBuf> = state.contents.paths().cloned().collect();
        let instead = state.interval.min(UNWATCHED);
        let all = self.0.folders.watch(&mut state.names, &paths, instead);
        let every = if all { state.interval } else { instead };
        // A file may have changed after it was read and before its folder was watched.
        if state.contents.compare() {
            self.0.overtaken.store(true, Ordering::Release);
        }
        self.0.every.send_replace((!paths.is_empty()).then_some(every));
        self.0.wake.notify_one();
        outcome
    }

    /// Whether one of these events may have changed a watched file.
    async fn are_affected_by(&self, events: &[FolderEvent]) -> bool {
        self.0.state.lock().await.names.are_affected_by(events)
    }

    /// Whether a file has changed since it was last loaded or compared.
    async fn compare(&self) -> bool {
        let files = self.clone();
        let compared = spawn_blocking(move || files.0.state.blocking_lock().contents.compare());
        compared.await.unwrap_or(false)
    }
}

/// Reports each change when the folders are quiet.
async fn run(files: WatchedFiles) {
    let mut every = files.0.every.subscribe();
    let mut compared = Instant::now();
    let mut wait: Option<QuietPeriod> = None;
    loop {
        let interval = *every.borrow_and_update();
        tokio::select! {
            events = files.0.folders.events() => {
                if files.are_affected_by(&events).await {
                    wait = Some(QuietPeriod::after(wait));
                }
            }
            () = files.0.wake.notified() => {
                if files.0.overtaken.swap(false, Ordering::AcqRel) {
                    wait = Some(QuietPeriod::after(wait));
                }
            }
            () = until(wait.map(|wait| wait.until)) => {
                wait = None;
                files.0.changed.notify_one();
            }
            () = until(interval.map(|interval| compared + interval)) => {
                if files.compare().await {
                    wait = Some(QuietPeriod::after(wait));
                }
                compared = Instant::now();
            }
        }
    }
}

/// How long a reload waits for quiet.
#[derive(Clone, Copy)]
struct QuietPeriod {
    until: Instant,
    latest: Instant,
}

impl QuietPeriod {
    /// Starts or extends the period after a change.
    fn after(before: Option<Self>) -> Self {
        let now = Instant::now();
        let latest = before.map_or(now + LONGEST_WAIT, |before| before.latest);
        Self { until: (now + QUIET).min(latest), latest }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tokio::time::timeout;

    use super::*;
    use crate::config::{Content, Reading};

    /// Settings under which only events report changes.
    const SETTINGS: Reload =
        Reload { watch: true, interval: Duration::from_secs(3600), max_disconnects: None };

    /// Loads a file with the content `one`.
    async fn load(watcher: &Watcher, path: &Path) {
        let (files, path) = (watcher.files(), path.to_owned());
        let load = move || {
            let readings = vec![Reading { path, content: Content::of(b"one") }];
            files.watch_checked(|| CheckedConfig { outcome: Err(Faults(Vec::new())), readings })
        };
        spawn_blocking(load).await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_change_waits_until_it_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one").unwrap();
        let watcher = Watcher::new(SETTINGS);
        load(&watcher, &path).await;
        fs::write(&path, "two").unwrap();
        // The change is not taken while the folders become quiet.
        tokio::time::sleep(QUIET * 3).await;
        watcher.changed().await;
        assert!(timeout(QUIET * 3, watcher.changed()).await.is_err(), "taken once");
    }

    #[tokio::test]
    async fn a_failure_of_inotify_is_a_change_and_contents_are_compared_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one").unwrap();
        let watcher = Watcher::on(Folders::failing(), SETTINGS);
        load(&watcher, &path).await;
        timeout(LONGEST_WAIT, watcher.changed()).await.expect("a failure of inotify was ignored");
        load(&watcher, &path).await;
        assert_eq!(*watcher.files.0.every.borrow(), Some(UNWATCHED));
        let events = watcher.files.0.folders.events();
        assert!(timeout(QUIET, events).await.is_err(), "the failure is reported once");
    }
}
