//! The service manager's side: what it is told, the sockets that it passes, and the unit files.

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

/// A service manager's ear: each datagram, as it came.
struct Manager {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn listen(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                all.lock().unwrap().push(text);
            }
        });
        Self { path, heard }
    }

    /// What was heard from the `from`-th on, but for signs of life and how it is.
    fn words(&self, from: usize) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let plain =
            |word: &&String| !word.starts_with("WATCHDOG=1") && !word.starts_with("STATUS=");
        heard[from..].iter().filter(plain).cloned().collect()
    }

    fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    async fn hears(&self, from: usize, what: &str) {
        let is = || self.heard.lock().unwrap()[from..].iter().any(|word| word.starts_with(what));
        eventually(what, is).await;
    }
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let backend = Backend::replying("ok").await;
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]);
    });
    let manager = Manager::listen(setup.directory());
    // As the manager does it: the variable names the process that it starts.
    let wrapper = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"];
    let mut proxy = setup
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "200000")
        .wrapped_in(&wrapper)
        .start()
        .await;
    manager.hears(0, "READY=1").await;
    manager.hears(0, "STATUS=0 sessions, 0 tunnels").await;
    manager.hears(0, "WATCHDOG=1").await;
    assert_eq!(manager.words(0), ["READY=1\n"]);

    let from = manager.count();
    proxy
        .reload(|settings| {
            settings.timeouts("connect = \"3s\"");
        })
        .await;
    eventually("the reload", || manager.words(from).len() >= 2).await;
    let words = manager.words(from);
    assert!(words[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{words:?}");
    assert_eq!(words[1], "READY=1\n");

    // The edit may bring a second one, by the watch over the file.
    let mut quiet = 0;
    let mut seen = manager.words(0).len();
    eventually("no more reloads", || {
        let now = manager.words(0).len();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        quiet > 100
    })
    .await;
    let from = manager.count();
    proxy.upgrade().await;
    let new = proxy.pid();
    eventually("the upgrade", || manager.words(from).len() >= 2).await;
    let words = manager.words(from);
    assert_eq!(words, [format!("MAINPID={new}\n"), format!("MAINPID={new}\nREADY=1\n")]);
    // The new one is alive, and the old one's end is not the service's.
    let from = manager.count();
    proxy.wait_for_predecessors().await;
    manager.hears(from, "WATCHDOG=1").await;
    assert_eq!(manager.words(from), Vec::<String>::new());

    proxy.terminate();
    manager.hears(from, "STOPPING=1").await;
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert_eq!(manager.words(from), ["STOPPING=1\n"]);
    drop(backend);
}

#[tokio::test]
async fn a_stuck_control_task_is_not_alive() {
    // A configuration that is a pipe nobody writes to: reading it takes as long as it is let.
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
    manager.hears(0, "WATCHDOG=1").await;
    fs::remove_file(proxy.file()).unwrap();
    assert!(Command::new("mkfifo").arg(proxy.file()).status().unwrap().success());
    proxy.hangup();
    manager.hears(0, "RELOADING=1").await;
    // Connections are served all the same.
    let reply = Raw::ask(proxy.web(), message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    proxy
        .wait_for_stderr("it is given up", |line| line.contains("nothing was written to it"))
        .await;
    let from = manager.count();
    manager.hears(from, "WATCHDOG=1").await;
    let heard = manager.heard.lock().unwrap().clone();
    let mut reading = false;
    for word in heard {
        reading = word.starts_with("RELOADING=1") || (reading && !word.starts_with("READY=1"));
        assert!(!reading || !word.starts_with("WATCHDOG=1"), "alive while it cannot do anything");
    }
}

#[tokio::test]
async fn passed_sockets_are_listened_on() {
    let backend = Backend::replying("ok").await;
    let (web, metrics, nobody) = (free(), free(), free());
    let setup = Setup::new().with(|settings| {
        settings.backends(&[backend.address]).listener("bind", &format!("\"{web}\""));
        settings.top("admin", &format!("\"{metrics}\""));
    });
    let addresses = [web, nobody, metrics].map(|address| address.to_string());
    let mut wrapper = vec!["systemd-socket-activate", "-E", "RUST_LOG"];
    for address in &addresses {
        wrapper.extend(["-l", address]);
    }
    let setup = setup.wrapped_in(&wrapper);
    // The process starts with the first connection, which waits for it.
    let first = async {
        wait_for("a socket", || std::net::TcpStream::connect(web).ok()).await;
        Raw::ask(web, message::get("/", "Connection: close\r\n")).await
    };
    let (mut proxy, reply) = tokio::join!(setup.start(), first);
    assert_eq!(reply.text(), "ok");
    assert_eq!((proxy.web(), proxy.admin()), (web, metrics));
    let unasked = format!("no listener is configured for {nobody}");
    proxy.wait_for_stderr("the warning", |line| line.contains(&unasked)).await;
    eventually("it is closed", || std::net::TcpStream::connect(nobody).is_err()).await;
    // They are handed on like any others.
    proxy.upgrade().await;
    let reply = Raw::ask(web, message::get("/", "Connection: close\r\n")).await;
    assert_eq!(reply.text(), "ok");
    assert!(TcpStream::connect(metrics).await.is_ok());
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
}

/// A proxy that is started by the first connection to a unix socket that it serves operators at.
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

/// Starts it: the socket has this mode by then.
async fn activate(path: &Path, mode: u32) {
    eventually("the socket", || path.exists()).await;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    wait_for("a connection", || UnixStream::connect(path).ok()).await;
}

#[tokio::test]
async fn fault_127_a_passed_socket_is_its_owner_s_alone() {
    let (setup, path) = passed_socket();
    let (ended, ()) = tokio::join!(setup.fails_to_start(), activate(&path, 0o660));
    assert_eq!(ended.status.code(), Some(1));
    let wanted = "other users can connect to it; set SocketMode=0600";
    assert!(ended.stderr.contains(wanted), "{}", ended.stderr);
}

#[tokio::test]
async fn a_passed_socket_s_file_is_the_service_manager_s() {
    let (setup, path) = passed_socket();
    let (mut proxy, ()) = tokio::join!(setup.start(), activate(&path, 0o600));
    assert!(UnixStream::connect(&path).is_ok());
    // Nor is it the next process's.
    proxy.upgrade().await;
    proxy.wait_for_predecessors().await;
    assert!(UnixStream::connect(&path).is_ok());
    proxy.terminate();
    assert_eq!(proxy.exited().await.code(), Some(0));
    assert!(path.exists());
}

#[tokio::test]
async fn the_admin_socket_is_in_the_unit_s_folder() {
    let setup = Setup::new().with(|settings| {
        settings.backends(&[free()]);
    });
    let folder = setup.directory().join("moorline");
    fs::create_dir(&folder).unwrap();
    let folders = format!("{}:/elsewhere", folder.display());
    let proxy = setup.env("RUNTIME_DIRECTORY", folders).start().await;
    assert!(UnixStream::connect(folder.join("moorline.sock")).is_ok());
    // Its user's shell, which knows no more than the folder above, finds it.
    let said = proxy.command(&["status"]).await.done();
    assert!(said.contains(&format!("process {}", proxy.pid())), "{said}");
    proxy.finish().await;
}

#[test]
fn the_units_are_right() {
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// What the unit says of the watchdog holds for the time that reading a configuration may take.
#[test]
fn the_unit_waits_for_longer_than_a_reload_takes() {
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/moorline.service"))
            .unwrap();
    let seconds = |key: &str| -> u64 {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.strip_suffix('s').unwrap().parse().unwrap()
    };
    assert!(seconds("WatchdogSec=") / 2 > 10);
    assert!(seconds("TimeoutStopSec=") > 30);
}
