//! A real nginx on a free port.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{dns::free_port, wait_for};

/// A running nginx; dropping it kills the process.
pub(crate) struct Nginx {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Nginx {
    /// Starts nginx with one server: `listen` follows the address of its `listen` directive, `server` is the rest
    /// of its block.
    pub(crate) async fn start(directory: &Path, listen: &str, server: &str) -> Self {
        let folder = directory.join("nginx");
        fs::create_dir_all(&folder).unwrap();
        let (shown, address) = (folder.display(), free_port());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {shown}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {shown}/pid;\nerror_log {shown}/error.log notice;\n\
             events {{}}\nhttp {{\n  access_log off;\n{temporary}\
             server {{\n    listen {address} {listen};\n{server}\n  }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let log = File::create(folder.join("said.log")).unwrap();
        let process = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("cannot start nginx; tests/setup installs it");
        let server = Self { address, process };
        wait_for("nginx listens", || std::net::TcpStream::connect(address).ok()).await;
        server
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
