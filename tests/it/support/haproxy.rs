//! A real HAProxy on a free port.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::io::{FdFlags, fcntl_setfd};

/// A running HAProxy; dropping it kills the process.
pub(crate) struct Haproxy {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    process: Child,
    log_file: PathBuf,
}

impl Haproxy {
    /// Starts HAProxy with one frontend and other `sections`. `bind` has the options of the frontend's `bind`
    /// line, `frontend` its other lines. [`log`](Self::log) returns the log.
    pub(crate) fn start(directory: &Path, bind: &str, frontend: &str, sections: &str) -> Self {
        // HAProxy inherits the socket, so no other process can take the port before it listens.
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        let fd = socket.as_raw_fd();
        let text = format!(
            "global\n  log stdout format raw local0\n  maxconn 100\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n\
             defaults\n  log global\n  timeout connect 10s\n  timeout client 20s\n  timeout server 20s\n\
             frontend front\n  bind fd@{fd} {bind}\n{frontend}\n{sections}\n"
        );
        let file = directory.join("haproxy.cfg");
        fs::write(&file, text).unwrap();
        let log_file = directory.join("haproxy.log");
        let log = File::create(&log_file).unwrap();
        let process = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("haproxy is installed by tests/setup");
        let address = socket.local_addr().unwrap();
        Self { address, process, log_file }
    }

    /// Log lines so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
