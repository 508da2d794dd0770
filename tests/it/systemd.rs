//! systemd: the notifications that it gets, the sockets that it passes, and the unit files.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use tokio::net::TcpStream;

use crate::support::{Backend, Raw, eventually, message, proxy::Setup, wait_for};

/// A service manager that records all notifications.
struct Manager {
    path: PathBuf,
    received: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&received);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                all.lock().unwrap().push(text);
            }
        });
        Self { path, received }
    }

    /// Notifications after the first `from`, without watchdog and status messages.
    fn changes(&self, from: usize) -> Vec<String> {
        let received = self.received.lock().unwrap();
        let is_change =
            |text: &&String| !text.starts_with("WATCHDOG=1") && !text.starts_with("STATUS=");
        received[from..].iter().filter(is_change).cloned().collect()
    }

    fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    async fn receives(&self, from: usize, start: &str) {
        let arrived =
            || self.received.lock().unwrap()[from..].iter().any(|text| text.starts_with(start));
        eventually(start, arrived).await;
    }
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn service_manager_is_notified() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]);
    });
    let manager = Manager::listen(setup.directory());
    // The service manager sets the variable to the process that it starts.
    let wrapper = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"];
    let mut proxy = setup
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .wrapped_in(&wrapper)
        .start()
        .await;
    manager.receives(0, "READY=1").await;
    manager.receives(0, "STATUS=0 sessions, 0 tunnels").await;
    manager.receives(0, "WATCHDOG=1").await;
    assert_eq!(manager.changes(0), ["READY=1\n"]);

    let from = manager.count();
    proxy
        .reload(|settings| {
            settings.timeouts("connect = \"3s\"");
        })
        .await;
    eventually("the reload", || manager.changes(from).len() >= 2).await;
    let changes = manager.changes(from);
    assert!(changes[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{changes:?}");
    assert_eq!(changes[1], "READY=1\n");

    // The watcher may reload a second time because of the edit.
    let mut quiet = 0;
    let mut seen = manager.changes(0).len();
    eventually("no more reloads", || {
        let now = manager.changes(0).len();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        quiet > 100
    })
    .await;
    let from = manager.count();
    proxy.upgrade().await;
    let new = proxy.pid();
    eventually("the upgrade", || manager.changes(from).len() >= 2).await;
    let changes = manager.changes(from);
    assert_eq!(changes, [format!("MAINPID={new}\n"), format!("MAINPID={new}\nREADY=1\n")]);
    // The new process sends watchdog messages. The end of the old process is not reported.
    let from = manager.count();
    proxy.wait_for_predecessors().await;
    manager.receives(from, "WATCHDOG=1").await;
    assert_eq!(manager.changes(from), Vec::<String>::new());

    proxy.terminate();
    manager.receives(from, "STOPPING=1").await;
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert_eq!(manager.changes(from), ["STOPPING=1\n"]);
    drop(backend);
}

#[tokio::test]
async fn stuck_control_task_sends_no_watchdog_messages() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]);
    });
    let manager = Manager::listen(setup.directory());
    let proxy = setup
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "100000")
        .env("MOORLINE_TEST_STALL_CONTROL", "1")
        .start()
        .await;
    manager.receives(0, "WATCHDOG=1").await;
    proxy.hangup();
    proxy.wait_for_stderr("a stuck task", |line| line.contains("control task is stuck")).await;
    let from = manager.count();
    let continues = || proxy.stderr_text().contains("control task continues");
    let mut sent = from;
    eventually("the task continues", || {
        let stuck = !continues();
        if stuck {
            sent = manager.count();
        }
        !stuck
    })
    .await;
    let messages = manager.received.lock().unwrap()[from..sent].to_vec();
    assert!(!messages.iter().any(|text| text.starts_with("WATCHDOG=1")), "{messages:?}");
    let from = manager.count();
    manager.receives(from, "WATCHDOG=1").await;
    drop(backend);
}

/// The configuration file is a pipe without a writer: reading it blocks until the timeout.
#[tokio::test]
async fn a_reload_that_reads_a_slow_file_does_not_stop_watchdog_messages() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]);
    });
    let manager = Manager::listen(setup.directory());
    let proxy = setup
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "100000")
        .start()
        .await;
    fs::remove_file(proxy.file()).unwrap();
    assert!(Command::new("mkfifo").arg(proxy.file()).status().unwrap().success());
    let from = manager.count();
    proxy.hangup();
    manager.receives(from, "RELOADING=1").await;
    let from = manager.count();
    manager.receives(from, "WATCHDOG=1").await;
    let ended = manager.received.lock().unwrap()[from..].iter().any(|text| text == "READY=1\n");
    assert!(!ended, "the reload had ended");
    drop(backend);
}

#[tokio::test]
async fn passed_sockets_are_used() {
    let backend = Backend::replying("ok").await;
    let (web, metrics, unused) = (free(), free(), free());
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).listener("bind", &format!("\"{web}\""));
        settings.top("admin", &format!("\"{metrics}\""));
    });
    let addresses = [web, unused, metrics].map(|address| address.to_string());
    let mut wrapper = vec!["systemd-socket-activate", "-E", "RUST_LOG"];
    for address in &addresses {
        wrapper.extend(["-l", address]);
    }
    let setup = setup.wrapped_in(&wrapper);
    // The first connection starts the process, and waits for it.
    let first = async {
        wait_for("a socket", || std::net::TcpStream::connect(web).ok()).await;
        Raw::ask(web, message::get("/", "Connection: close\r\n")).await
    };
    let (mut proxy, reply) = tokio::join!(setup.start(), first);
    assert_eq!(reply.text(), "ok");
    assert_eq!((proxy.web(), proxy.admin()), (web, metrics));
    let warning = format!("no listener is configured for {unused}");
    proxy.wait_for_stderr("the warning", |line| line.contains(&warning)).await;
    eventually("the socket is closed", || std::net::TcpStream::connect(unused).is_err()).await;
    // An upgrade hands them over like other sockets.
    proxy.upgrade().await;
    let reply = Raw::ask(web, message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    assert!(TcpStream::connect(metrics).await.is_ok());
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

/// A proxy that the first connection to its admin socket starts.
fn passed_socket() -> (Setup, PathBuf) {
    let setup = Setup::new();
    let path = setup.directory().join("passed.sock");
    let shown = path.to_str().unwrap();
    let wrapper = ["systemd-socket-activate", "-E", "RUST_LOG", "-l", shown];
    let setup = setup.wrapped_in(&wrapper).with(|settings| {
        settings.backends(&[free()]).top("admin", &format!("{{ socket = {path:?} }}"));
    });
    (setup, path)
}

/// Sets the mode of the socket and starts the proxy.
async fn activate(path: &Path, mode: u32) {
    eventually("the socket", || path.exists()).await;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    wait_for("a connection", || UnixStream::connect(path).ok()).await;
}

#[tokio::test]
async fn fault_127_passed_socket_must_not_be_open_to_other_users() {
    let (setup, path) = passed_socket();
    let (ended, ()) = tokio::join!(setup.fails_to_start(), activate(&path, 0o660));
    assert_eq!(ended.status.code(), Some(1));
    let wanted = "other users can connect to it; set SocketMode=0600";
    assert!(ended.stderr.contains(wanted), "{}", ended.stderr);
}

#[tokio::test]
async fn file_of_a_passed_socket_is_not_removed() {
    let (setup, path) = passed_socket();
    let (mut proxy, ()) = tokio::join!(setup.start(), activate(&path, 0o600));
    assert!(UnixStream::connect(&path).is_ok());
    // The next process does not remove it either.
    proxy.upgrade().await;
    proxy.wait_for_predecessors().await;
    assert!(UnixStream::connect(&path).is_ok());
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert!(path.exists());
}

#[tokio::test]
async fn admin_socket_is_in_the_runtime_directory() {
    let setup = Setup::new().with(|settings| {
        settings.backends(&[free()]);
    });
    let folder = setup.directory().join("moorline");
    fs::create_dir(&folder).unwrap();
    let folders = format!("{}:/elsewhere", folder.display());
    let proxy = setup.env("RUNTIME_DIRECTORY", folders).start().await;
    assert!(UnixStream::connect(folder.join("moorline.sock")).is_ok());
    // A command finds it below the runtime directory of the user.
    let output = proxy.command(&["status"]).await.done();
    assert!(output.contains(&format!("process {}", proxy.pid())), "{output}");
    proxy.finish().await;
}

#[test]
fn unit_files_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for name in ["moorline.service", "moorline.socket"] {
        let unit = fs::read_to_string(deploy.join(name)).unwrap();
        let unit = unit.replace("/usr/bin/moorline", env!("CARGO_BIN_EXE_moorline"));
        fs::write(folder.path().join(name), unit).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(["moorline.service", "moorline.socket"].map(|name| folder.path().join(name)))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.trim().is_empty(), "{errors}");
}

/// A drain may take 30 s by default.
#[test]
fn the_units_stop_timeout_is_longer_than_a_drain() {
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/moorline.service"))
            .unwrap();
    let seconds = |key: &str| -> u64 {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.strip_suffix('s').unwrap().parse().unwrap()
    };
    assert!(seconds("TimeoutStopSec=") > 30);
}
