//! Watched files: changes of links, replaced folders, and changes that inotify does not report are applied
//! without a signal.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tokio::net::TcpStream;

use crate::{
    configuration::drop_ref,
    support::{
        Backend, Proxy, Raw, TIMEOUT, eventually, message, process,
        proxy::{RELOADS_OK, Setup},
        tls::Certificate,
    },
};

/// A layout of files and links in which one version of the files replaces another.
struct Layout {
    /// The folder by which the configuration names the files.
    named: &'static str,
    /// Makes the layout with version 1; arguments: root folder, folder with the files.
    make: fn(&Path, &Path),
    /// Replaces the version; arguments: root folder, folder with the new files, version.
    swap: fn(&Path, &Path, u32),
}

/// `ln/F` → `../live/F` → `../archive/1/F`: the inner link moves.
const INNER_LINK: Layout = Layout {
    named: "ln",
    make: |root, files| {
        folders(root, &["archive", "live", "ln"]);
        copy(files, &root.join("archive/1"));
        for name in names(files) {
            link(&format!("../archive/1/{name}"), &root.join("live").join(&name));
            link(&format!("../live/{name}"), &root.join("ln").join(&name));
        }
    },
    swap: |root, files, version| {
        copy(files, &root.join(format!("archive/{version}")));
        for name in names(files) {
            link(&format!("../archive/{version}/{name}"), &root.join("live").join(&name));
        }
    },
};

/// `current/F`, where `current` → `releases/1`: a link in the middle of the path moves.
const MIDDLE_LINK: Layout = Layout {
    named: "current",
    make: |root, files| {
        fs::create_dir(root.join("releases")).unwrap();
        copy(files, &root.join("releases/1"));
        link("releases/1", &root.join("current"));
    },
    swap: |root, files, version| {
        copy(files, &root.join(format!("releases/{version}")));
        link(&format!("releases/{version}"), &root.join("current"));
    },
};

/// A mounted volume of Kubernetes, and a link to it: `etc/F` → `../volume/F` → `..data/F`, where
/// `..data` → `..1`. The link `..data` is replaced by a rename, and the old folder is removed.
const VOLUME: Layout = Layout {
    named: "etc",
    make: |root, files| {
        folders(root, &["volume", "etc"]);
        copy(files, &root.join("volume/..1"));
        link("..1", &root.join("volume/..data"));
        for name in names(files) {
            link(&format!("..data/{name}"), &root.join("volume").join(&name));
            link(&format!("../volume/{name}"), &root.join("etc").join(&name));
        }
    },
    swap: |root, files, version| {
        copy(files, &root.join(format!("volume/..{version}")));
        link(&format!("..{version}"), &root.join("volume/..data"));
        fs::remove_dir_all(root.join(format!("volume/..{}", version - 1))).unwrap();
    },
};

/// The folder is removed and made again.
const NEW_FOLDER: Layout = Layout {
    named: "files",
    make: |root, files| copy(files, &root.join("files")),
    swap: |root, files, _| {
        fs::remove_dir_all(root.join("files")).unwrap();
        copy(files, &root.join("files"));
    },
};

/// The folder above is moved away, and another one takes its place.
const NEW_PARENT: Layout = Layout {
    named: "above/files",
    make: |root, files| {
        fs::create_dir(root.join("above")).unwrap();
        copy(files, &root.join("above/files"));
    },
    swap: |root, files, version| {
        fs::rename(root.join("above"), root.join(format!("above.{version}"))).unwrap();
        fs::create_dir(root.join("above")).unwrap();
        copy(files, &root.join("above/files"));
    },
};

fn folders(root: &Path, names: &[&str]) {
    names.iter().for_each(|name| fs::create_dir(root.join(name)).unwrap());
}

fn names(files: &Path) -> Vec<String> {
    let entries = fs::read_dir(files).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// Makes a link, or replaces one by a rename.
fn link(target: &str, at: &Path) {
    let mut fresh = at.to_owned().into_os_string();
    fresh.push(".new");
    symlink(target, &fresh).unwrap();
    fs::rename(fresh, at).unwrap();
}

/// Waits until a handshake with this certificate succeeds.
async fn serves(proxy: &Proxy, certificate: &Certificate) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let handshake = async || {
        let tcp = TcpStream::connect(proxy.listener("secure")).await.unwrap();
        certificate.client(tcp).await
    };
    while handshake().await.is_err() {
        let stderr = proxy.stderr_text();
        assert!(tokio::time::Instant::now() < deadline, "the old certificate is served: {stderr}");
    }
}

/// Waits until requests get this response.
async fn answers(proxy: &Proxy, text: &str) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let request = message::get("/", "Connection: close\r\n");
    while Raw::ask(proxy.web(), &request).await.text() != text {
        let stderr = proxy.stderr_text();
        assert!(tokio::time::Instant::now() < deadline, "never {text}: {stderr}");
    }
}

/// Makes a folder with a new certificate, `app.test.pem` and `app.test.key`.
fn certificate(root: &Path, version: u32) -> (PathBuf, Certificate) {
    let folder = root.join(format!("certificate.{version}"));
    fs::create_dir(&folder).unwrap();
    let made = Certificate::make(&folder, "app.test");
    (folder, made)
}

/// Makes a folder with a list of one backend, `backends.txt`.
fn backend_list(root: &Path, version: u32, address: SocketAddr) -> PathBuf {
    let folder = root.join(format!("list.{version}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("backends.txt"), format!("{address}\n")).unwrap();
    folder
}

fn secure(named: &str) -> String {
    format!(
        "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
         certificates = [{{ cert = \"{named}/app.test.pem\", key = \"{named}/app.test.key\" }}]\n"
    )
}

/// Asserts that several new certificates are applied in turn, so that watches are renewed.
async fn certificates_follow(layout: &Layout) {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let root = setup.directory().to_owned();
    let (files, first) = certificate(&root, 1);
    (layout.make)(&root, &files);
    let proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]).table(&secure(layout.named));
        })
        .start()
        .await;
    serves(&proxy, &first).await;
    for version in 2..5 {
        let (files, next) = certificate(&root, version);
        (layout.swap)(&root, &files, version);
        serves(&proxy, &next).await;
    }
    drop(backend);
    proxy.finish().await;
}

/// Asserts that several new lists of backends are applied in turn.
async fn lists_follow(layout: &Layout) {
    let backends = [Backend::replying("1").await, Backend::replying("2").await];
    let setup = Setup::new();
    let root = setup.directory().to_owned();
    (layout.make)(&root, &backend_list(&root, 1, backends[0].address));
    let proxy = setup
        .with(|settings| {
            let list = format!("{{ file = \"{}/backends.txt\" }}", layout.named);
            settings.pool("backends", &list);
        })
        .start()
        .await;
    answers(&proxy, "1").await;
    for (version, at) in [(2, 1), (3, 0), (4, 1)] {
        (layout.swap)(&root, &backend_list(&root, version, backends[at].address), version);
        answers(&proxy, if at == 0 { "1" } else { "2" }).await;
    }
    drop(backends);
    proxy.finish().await;
}

#[tokio::test]
async fn a_replaced_inner_link_is_followed() {
    certificates_follow(&INNER_LINK).await;
    lists_follow(&INNER_LINK).await;
}

#[tokio::test]
async fn a_replaced_link_in_the_middle_of_a_path_is_followed() {
    certificates_follow(&MIDDLE_LINK).await;
    lists_follow(&MIDDLE_LINK).await;
}

#[tokio::test]
async fn a_replaced_data_link_of_a_kubernetes_volume_is_followed() {
    certificates_follow(&VOLUME).await;
    lists_follow(&VOLUME).await;
}

#[tokio::test]
async fn a_folder_that_is_created_again_is_watched_again() {
    certificates_follow(&NEW_FOLDER).await;
    lists_follow(&NEW_FOLDER).await;
}

#[tokio::test]
async fn a_folder_in_a_new_parent_is_watched_again() {
    certificates_follow(&NEW_PARENT).await;
    lists_follow(&NEW_PARENT).await;
}

#[tokio::test]
async fn a_configuration_behind_links_is_followed() {
    let backends = [Backend::replying("1").await, Backend::replying("2").await];
    let setup = Setup::new();
    let root = setup.directory().to_owned();
    let mut settings = setup.settings.clone();
    let mut version = |number: u32, at: usize| {
        let folder = root.join(format!("version.{number}"));
        fs::create_dir(&folder).unwrap();
        settings.backends(&[backends[at].address]);
        fs::write(folder.join("m.toml"), settings.text()).unwrap();
        folder
    };
    (VOLUME.make)(&root, &version(1, 0));
    let file = root.join("etc/m.toml");
    let proxy = setup.arguments(&["run", file.to_str().unwrap()]).run().await;
    answers(&proxy, "1").await;
    for (number, at) in [(2, 1), (3, 0)] {
        (VOLUME.swap)(&root, &version(number, at), number);
        answers(&proxy, if at == 0 { "1" } else { "2" }).await;
    }
    drop((proxy, backends));
}

#[tokio::test]
async fn a_file_of_a_rejected_configuration_is_watched() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let mut proxy = Proxy::for_backends(&[old.address]).await;
    let list = proxy.directory().join("later/backends.txt");
    proxy.rewrite(|settings| {
        drop_ref(settings.pool("backends", "{ file = \"later/backends.txt\" }"));
    });
    proxy.wait_for_stderr("a refusal", |line| line.contains("reload rejected")).await;
    fs::create_dir(list.parent().unwrap()).unwrap();
    fs::write(list, format!("{}\n", new.address)).unwrap();
    answers(&proxy, "new").await;
    drop((old, new));
    proxy.finish().await;
}

/// Each file has a hard link in another folder. A change through the hard link is not reported for the folder
/// of the file.
#[tokio::test]
async fn a_change_that_inotify_does_not_report_is_found_by_comparison() {
    let backends = [Backend::replying("1").await, Backend::replying("2").await];
    let setup = Setup::new();
    let root = setup.directory().to_owned();
    let aside = root.join("aside");
    fs::create_dir(&aside).unwrap();
    let (files, first) = certificate(&root, 1);
    fs::rename(files, root.join("files")).unwrap();
    let key = |seed: &str| seed.repeat(32) + "\n";
    fs::write(root.join("files/backends.txt"), format!("{}\n", backends[0].address)).unwrap();
    fs::write(root.join("files/cookie.key"), key("01")).unwrap();
    fs::write(root.join("files/ticket.keys"), key("02")).unwrap();
    for name in names(&root.join("files")) {
        fs::hard_link(root.join("files").join(&name), aside.join(&name)).unwrap();
    }
    let proxy = setup
        .with(|settings| {
            settings.pool("backends", "{ file = \"files/backends.txt\" }");
            settings.top("cookie_key", "{ file = \"files/cookie.key\" }");
            settings.top("ticket_keys", "{ file = \"files/ticket.keys\" }");
            settings.top("reload", "{ interval = \"200ms\" }").table(&secure("files"));
        })
        .start()
        .await;
    serves(&proxy, &first).await;
    answers(&proxy, "1").await;
    let (files, second) = certificate(&root, 2);
    for name in names(&files) {
        fs::write(aside.join(&name), fs::read(files.join(&name)).unwrap()).unwrap();
    }
    serves(&proxy, &second).await;
    fs::write(aside.join("backends.txt"), format!("{}\n", backends[1].address)).unwrap();
    answers(&proxy, "2").await;
    for (name, seed) in [("cookie.key", "03"), ("ticket.keys", "04")] {
        let before = proxy.metric(RELOADS_OK).await;
        fs::write(aside.join(name), key(seed)).unwrap();
        proxy.wait_for_metric(name, RELOADS_OK, |count| count > before).await;
    }
    // The configuration itself.
    fs::hard_link(proxy.file(), aside.join("m.toml")).unwrap();
    let mut settings = proxy.settings.clone();
    settings.backends(&[backends[0].address]);
    fs::write(aside.join("m.toml"), settings.text()).unwrap();
    answers(&proxy, "1").await;
    drop(backends);
    proxy.finish().await;
}

#[tokio::test]
async fn files_are_compared_if_no_watch_is_available() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    // The limit applies only to a new user namespace.
    let no_watches = "echo 0 > /proc/sys/user/max_inotify_watches && exec \"$@\"";
    let setup = Setup::new().wrapped_in(&["unshare", "-Ur", "sh", "-c", no_watches, "sh"]);
    let mut proxy =
        setup.with(|settings| drop_ref(settings.backends(&[old.address]))).start().await;
    answers(&proxy, "old").await;
    let stderr = proxy.wait_for_stderr("a warning", |line| line.contains("cannot watch")).await;
    assert!(stderr.contains("comparing"), "{stderr}");
    proxy.rewrite(|settings| drop_ref(settings.backends(&[new.address])));
    answers(&proxy, "new").await;
    drop((old, new));
    proxy.finish().await;
}

/// While the process is stopped, more events than the kernel's queue holds come before the edit.
#[tokio::test]
async fn an_edit_behind_lost_events_is_applied() {
    let (old, new) = (Backend::replying("old").await, Backend::replying("new").await);
    let mut proxy = Proxy::for_backends(&[old.address]).await;
    answers(&proxy, "old").await;
    let watched = || process::watched_folders(proxy.pid()) > 0;
    eventually("the folder is watched", watched).await;
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    process::signal(proxy.pid(), "STOP");
    for number in 0..queue.trim().parse::<u32>().unwrap() / 2 + 1 {
        let path = proxy.directory().join(format!("other.{}", number % 2));
        fs::write(&path, "").unwrap();
        fs::remove_file(path).unwrap();
    }
    proxy.rewrite(|settings| drop_ref(settings.backends(&[new.address])));
    process::signal(proxy.pid(), "CONT");
    answers(&proxy, "new").await;
    let lost = |line: &String| line.contains("folder events were lost");
    assert_eq!(proxy.stderr().iter().filter(|line| lost(line)).count(), 1);
    drop((old, new));
    proxy.finish().await;
}
