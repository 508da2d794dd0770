//! Events in the folders on the paths of the watched files.
//!
//! Folders are watched, not files: editors and deployment tools replace a file by a rename. A path is
//! resolved component by component, as the kernel does. Each folder on the path is watched for the name that
//! is looked up in it: a link, the target of a link, or the next folder. So a folder that is moved, removed or
//! created again is noticed in its parent. If a component is missing, the deepest existing folder is watched
//! for its name.
//!
//! A watch belongs to a folder, not to a path, and stays with the folder if another one replaces it. So the
//! paths are resolved again at each load, and watches that no path needs are removed.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::net::unix::pipe::Receiver;

use crate::config::pattern_matches;

/// Maximum number of symbolic links in a path, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The source of events: inotify, if the system has it.
pub(super) struct Folders {
    inotify: io::Result<Receiver>,
    /// inotify has failed, and reports no further events.
    failed: AtomicBool,
    /// An overflow of the event queue was logged, and no load has followed yet.
    overflowed: AtomicBool,
}

/// Names of the watched files and folders, by the watch of their folder. A name may be a pattern.
#[derive(Debug, Default)]
pub(super) struct WatchedNames {
    watched: HashMap<i32, HashSet<OsString>>,
    /// Folders that could not be watched; each is logged once.
    unwatched: HashSet<PathBuf>,
}

/// An event in a folder.
#[derive(Debug)]
pub(super) struct FolderEvent {
    watch: i32,
    what: FolderChange,
}

#[derive(Debug)]
enum FolderChange {
    /// The entry of this name has changed.
    Entry(OsString),
    /// The folder was moved or removed, or its watch has ended.
    Folder,
    /// Events were lost: any file may have changed.
    Lost,
}

impl Folders {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        Self::on(system::open())
    }

    /// Reads events from this descriptor.
    fn on(inotify: io::Result<Receiver>) -> Self {
        Self { inotify, failed: AtomicBool::new(false), overflowed: AtomicBool::new(false) }
    }

    /// A source whose first read fails.
    #[cfg(test)]
    pub(super) fn failing() -> Self {
        use std::{net, os::fd::OwnedFd};
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // The peer resets the connection.
        let peer = socket2::Socket::from(listener.accept().unwrap().0);
        peer.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        socket.set_nonblocking(true).unwrap();
        Self::on(Receiver::from_owned_fd_unchecked(OwnedFd::from(socket)))
    }

    /// Watches the folders on these paths, and no others. Returns whether all of them can be watched. If
    /// not, logs the reason, with `instead` as the time between comparisons.
    pub(super) fn watch(
        &self,
        names: &mut WatchedNames,
        paths: &[PathBuf],
        instead: Duration,
    ) -> bool {
        self.overflowed.store(false, Ordering::Relaxed);
        if self.failed.load(Ordering::Acquire) {
            return paths.is_empty();
        }
        let mut resolution = PathResolution { watched: HashMap::new(), failed: HashMap::new() };
        let inotify = match &self.inotify {
            Ok(inotify) => inotify,
            Err(error) => {
                if !paths.is_empty() && names.unwatched.insert(PathBuf::new()) {
                    let every = humantime::format_duration(instead);
                    tracing::warn!(%error, "cannot watch files; comparing their contents every {every}");
                }
                return paths.is_empty();
            }
        };
        for path in paths {
            resolution.resolve(inotify, path);
        }
        for gone in names.watched.keys().filter(|watch| !resolution.watched.contains_key(watch)) {
            system::remove(inotify, *gone);
        }
        names.watched = resolution.watched;
        names.unwatched.retain(|folder| resolution.failed.contains_key(folder));
        let all = resolution.failed.is_empty();
        for (folder, error) in resolution.failed {
            let shown = folder.display().to_string();
            if names.unwatched.insert(folder) {
                let every = humantime::format_duration(instead);
                tracing::warn!(
                    folder = shown,
                    %error,
                    "cannot watch the folder; comparing the contents of its files every {every}"
                );
            }
        }
        all
    }

    /// Returns the next events. After an error it returns [`FolderChange::Lost`] once, and never resolves
    /// again; without inotify it never resolves. Cancel-safe.
    pub(super) async fn events(&self) -> Vec<FolderEvent> {
        let Ok(inotify) = &self.inotify else { return std::future::pending().await };
        if self.failed.load(Ordering::Acquire) {
            return std::future::pending().await;
        }
        let error = loop {
            if let Err(error) = inotify.readable().await {
                break error;
            }
            match system::read(inotify) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    self.log_overflow(&events);
                    return events;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => break error,
            }
        };
        self.failed.store(true, Ordering::Release);
        tracing::error!(%error, "cannot read folder events; comparing the contents of files instead");
        vec![FolderEvent::lost()]
    }

    /// Logs lost events once until the next load.
    fn log_overflow(&self, events: &[FolderEvent]) {
        let lost = events.iter().any(|event| matches!(event.what, FolderChange::Lost));
        if lost && !self.overflowed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "folder events were lost because the system's queue was full; reading all watched files again"
            );
        }
    }
}

impl FolderEvent {
    /// Events were lost.
    fn lost() -> Self {
        Self { watch: -1, what: FolderChange::Lost }
    }
}

impl WatchedNames {
    /// Whether one of these events may have changed a watched file.
    pub(super) fn are_affected_by(&self, events: &[FolderEvent]) -> bool {
        events.iter().any(|event| match (&event.what, self.watched.get(&event.watch)) {
            (FolderChange::Lost, _) => true,
            (FolderChange::Folder, names) => names.is_some(),
            (FolderChange::Entry(name), names) => names.is_some_and(|names| {
                names.contains(name) || names.iter().any(|known| pattern_matches(known, name))
            }),
        })
    }
}

/// The resolution of all paths.
struct PathResolution {
    watched: HashMap<i32, HashSet<OsString>>,
    failed: HashMap<PathBuf, io::Error>,
}

impl PathResolution {
    /// Watches each folder on the path before the next name is looked up in it, so that no later change is
    /// missed.
    fn resolve(&mut self, inotify: &Receiver, path: &Path) {
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut rest: Vec<PathStep> = steps(path);
        while let Some(step) = rest.pop() {
            let name = match step {
                PathStep::Root => {
                    at = PathBuf::from("/");
                    continue;
                }
                PathStep::Up => {
                    at.pop();
                    continue;
                }
                PathStep::Into(name) => name,
            };
            if !self.add(inotify, &at, &name, rest.is_empty()) {
                return;
            }
            let next = at.join(&name);
            let Ok(about) = fs::symlink_metadata(&next) else { return };
            if !about.is_symlink() {
                at = next;
                continue;
            }
            links += 1;
            let Ok(target) = fs::read_link(&next) else { return };
            if links > MOST_LINKS {
                return;
            }
            rest.extend(steps(&target));
        }
    }

    /// Watches a folder for a name. Returns whether the folder exists.
    fn add(&mut self, inotify: &Receiver, folder: &Path, name: &OsStr, last: bool) -> bool {
        match system::add(inotify, folder, last) {
            Ok(watch) => {
                self.watched.entry(watch).or_default().insert(name.to_owned());
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return false;
            }
            Err(error) => {
                self.failed.insert(folder.to_owned(), error);
            }
        }
        true
    }
}

/// One step of a path.
enum PathStep {
    Root,
    Up,
    Into(OsString),
}

/// Returns the steps of a path in reverse order.
fn steps(path: &Path) -> Vec<PathStep> {
    let step = |component: Component<'_>| match component {
        Component::RootDir => Some(PathStep::Root),
        Component::ParentDir => Some(PathStep::Up),
        Component::Normal(name) => Some(PathStep::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(step).collect()
}

#[cfg(target_os = "linux")]
mod system {
    //! inotify(7).

    use std::{
        ffi::OsStr,
        io,
        os::{fd::AsFd, unix::ffi::OsStrExt as _},
        path::Path,
    };

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use tokio::net::unix::pipe::Receiver;

    use super::{FolderChange, FolderEvent};

    /// Size of the read buffer in bytes; it must hold an event with the longest name.
    const BUFFER: usize = 4096;

    /// Bytes of an event before its name: four numbers of 4 bytes.
    const HEAD: usize = 16;

    /// Opens inotify. The descriptor is read like a pipe: it becomes readable, and a read returns whole events.
    pub(super) fn open() -> io::Result<Receiver> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Receiver::from_owned_fd_unchecked(inotify)
    }

    /// Watches a folder. `content`: also for writes to its files. Reads, and writes to files that stay open,
    /// such as logs, cause no event.
    pub(super) fn add(inotify: &impl AsFd, folder: &Path, content: bool) -> io::Result<i32> {
        let mut flags = WatchFlags::ONLYDIR
            | WatchFlags::MASK_ADD
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        if content {
            flags |= WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
        }
        Ok(inotify::add_watch(inotify, folder, flags)?)
    }

    pub(super) fn remove(inotify: &impl AsFd, watch: i32) {
        // The kernel has removed the watch of a removed folder already.
        let _ = inotify::remove_watch(inotify, watch);
    }

    /// Reads the next queued events.
    pub(super) fn read(inotify: &Receiver) -> io::Result<Vec<FolderEvent>> {
        let mut buffer = [0; BUFFER];
        let length = inotify.try_read(&mut buffer)?;
        Ok(events(&buffer[..length]))
    }

    /// Parses `struct inotify_event`s, one after the other (inotify(7)).
    fn events(mut bytes: &[u8]) -> Vec<FolderEvent> {
        let mut events = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
            let field = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
            let (watch, flags) = (field(0), ReadFlags::from_bits_retain(field(4)));
            let Some((name, next)) = rest.split_at_checked(field(12) as usize) else { break };
            bytes = next;
            // Filled up with zeros.
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if let Some(what) = what(flags, name) {
                events.push(FolderEvent { watch: watch.cast_signed(), what });
            }
        }
        events
    }

    fn what(flags: ReadFlags, name: &[u8]) -> Option<FolderChange> {
        let gone =
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            Some(FolderChange::Lost)
        } else if flags.intersects(gone) {
            Some(FolderChange::Folder)
        } else {
            (!name.is_empty()).then(|| FolderChange::Entry(OsStr::from_bytes(name).to_owned()))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn event(watch: i32, flags: ReadFlags, name: &[u8]) -> Vec<u8> {
            let fields = [watch.cast_unsigned(), flags.bits(), 0, name.len() as u32];
            let head = fields.iter().flat_map(|field| field.to_ne_bytes());
            head.chain(name.iter().copied()).collect()
        }

        #[test]
        fn events_are_parsed_one_after_the_other() {
            let bytes = [
                event(1, ReadFlags::MOVED_TO, b"..data\0\0"),
                event(2, ReadFlags::ATTRIB, b""),
                event(3, ReadFlags::DELETE_SELF, b""),
                event(-1, ReadFlags::QUEUE_OVERFLOW, b""),
                event(4, ReadFlags::CREATE, b"cut off")[..20].to_vec(),
            ]
            .concat();
            let read = format!("{:?}", events(&bytes));
            let expected = "[FolderEvent { watch: 1, what: Entry(\"..data\") }, \
                            FolderEvent { watch: 3, what: Folder }, FolderEvent { watch: -1, what: Lost }]";
            assert_eq!(read, expected);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    //! No inotify: contents are compared.

    use std::{io, os::fd::AsFd, path::Path};

    use tokio::net::unix::pipe::Receiver;

    use super::FolderEvent;

    pub(super) fn open() -> io::Result<Receiver> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn add(_: &impl AsFd, _: &Path, _: bool) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn remove(_: &impl AsFd, _: i32) {}

    pub(super) fn read(_: &Receiver) -> io::Result<Vec<FolderEvent>> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
