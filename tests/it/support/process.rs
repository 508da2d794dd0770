//! Information about processes from the kernel.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, WaitOptions};

use super::within;

/// Number of open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Number of folders that a process watches by inotify.
pub(crate) fn watched_folders(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    // Descriptors that were closed meanwhile are skipped.
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    texts.map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

/// Targets of all open descriptors.
pub(crate) fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

/// Resident memory now, in bytes.
pub(crate) fn resident(pid: u32) -> usize {
    status(pid, "VmRSS:")
}

/// Resident memory now, without pages of files, in bytes.
pub(crate) fn anonymous(pid: u32) -> usize {
    status(pid, "RssAnon:")
}

/// Peak of the resident memory since [`reset_peak`], in bytes.
pub(crate) fn peak(pid: u32) -> usize {
    status(pid, "VmHWM:")
}

/// Resets the peak to the current resident memory (proc(5), `clear_refs`).
pub(crate) fn reset_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// A field of `/proc/PID/status` that counts KiB, in bytes.
fn status(pid: u32, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// User and system time so far, in clock ticks of 10 ms.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The command, in parentheses, may hold blanks; fields count from after it.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Number of times that a thread of a process has waited so far (proc(5), `voluntary_ctxt_switches`).
pub(crate) fn wake_ups(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // Threads that ended meanwhile are skipped.
    let texts =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let count = |text: String| {
        let line = text.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    texts.map(count).sum()
}

/// State letter of a process; `None` if the process does not exist.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Sends a signal by its name without `SIG`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// Lines of `ss` for established TCP sockets that match a filter, with their timers.
pub(crate) async fn sockets(filter: &str) -> Vec<String> {
    let filter = filter.to_owned();
    let run = move || Command::new("ss").args(["-tnoHO", "state", "established", &filter]).output();
    let output = within("ss", tokio::task::spawn_blocking(run)).await.unwrap().unwrap();
    assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// A network namespace, connected by a veth pair that can be taken down. Needs root.
pub(crate) struct Namespace {
    name: String,
    net: u8,
}

impl Namespace {
    /// Makes a namespace with addresses from 198.18.0.0/15, which is for tests (RFC 2544).
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (name, net) = (format!("moorline-{pid}-{count}"), ((pid + count) % 250) as u8);
        let this = Self { name, net };
        let (name, interface, outside) = (&this.name, this.interface(), this.outside());
        ip(&format!("netns add {name}"));
        ip(&format!("link add {interface} type veth peer name eth0 netns {name}"));
        ip(&format!("address add {outside}/24 dev {interface}"));
        ip(&format!("link set {interface} up"));
        ip(&format!("-n {name} address add 198.18.{net}.2/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        this
    }

    /// Address of the outer end of the veth pair.
    pub(crate) fn outside(&self) -> String {
        format!("198.18.{}.1", self.net)
    }

    /// Starts a process in the namespace that connects, sends `text` and then keeps the connection open.
    pub(crate) fn connect(&self, address: SocketAddr, text: &str) -> Child {
        let script = "exec 3<>/dev/tcp/$0/$1; printf %s \"$2\" >&3; exec cat <&3 >/dev/null";
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let words = ["netns", "exec", &self.name, "bash", "-c", script, &host, &port, text];
        Command::new("ip").args(words).spawn().unwrap()
    }

    /// Address of the inner end.
    pub(crate) fn inside(&self) -> String {
        format!("198.18.{}.2", self.net)
    }

    /// A command that runs a program in the namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Drops all packets from now on, without notice to either side.
    pub(crate) fn cut(&self) {
        ip(&format!("-n {} link set eth0 down", self.name));
    }

    /// Ends the packet loss.
    pub(crate) fn restore(&self) {
        ip(&format!("-n {} link set eth0 up", self.name));
    }

    fn interface(&self) -> String {
        format!("moor{}", self.net)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.interface()]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.unwrap().success(), "ip {words}");
}

/// Whether a process runs; zombies do not run.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// This process and all its descendants.
pub(crate) fn process_tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// Makes this process the parent of orphaned descendants, so that it can read their exit status.
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// Exit status of an adopted process; `None` if it still runs or is not adopted yet.
pub(crate) fn orphan_status(pid: u32) -> Option<ExitStatus> {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    let ended = rustix::process::waitpid(pid, WaitOptions::NOHANG).ok()??;
    Some(ExitStatus::from_raw(ended.1.as_raw()))
}

/// Kills a process, even if it is not a child of this one.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.try_into().unwrap()) {
        // An error means that the process has ended.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Children of a process that still exist.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let tasks = tasks.flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}
