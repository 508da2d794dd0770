//! Cores, memory and CPU time of processes, from the kernel.

use std::{fmt, fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};

/// Length of the ticks that `/proc/PID/stat` counts in: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// One core for the proxies and one for all other processes.
pub(crate) struct Cores {
    proxy: usize,
    rest: usize,
    /// Core of the second worker of a proxy; `rest` without a third core.
    second: usize,
}

impl Cores {
    /// The first two cores that this process may use, or one core for all processes if there is no second.
    pub(crate) fn pick() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let allowed = field(&status, "Cpus_allowed_list:").context("no Cpus_allowed_list")?;
        let mut cores = Vec::new();
        for range in allowed.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            cores.extend(first.parse::<usize>()?..=last.parse()?);
        }
        let proxy = *cores.first().context("no core")?;
        let rest = *cores.get(1).unwrap_or(&proxy);
        Ok(Self { proxy, rest, second: *cores.get(2).unwrap_or(&rest) })
    }

    /// Pins this process to the second core. Call it before a second thread starts: threads and children inherit
    /// the core.
    pub(crate) fn pin_this_process(&self) -> anyhow::Result<()> {
        let (core, pid) = (self.rest.to_string(), std::process::id().to_string());
        let pinned = Command::new("taskset").args(["-cp", &core, &pid]).output();
        let pinned = pinned.context("taskset (util-linux) is needed")?;
        ensure!(pinned.status.success(), "{}", String::from_utf8_lossy(&pinned.stderr));
        Ok(())
    }

    /// A command that runs `program` on a core for each of its workers, without another process in between.
    pub(crate) fn command(&self, program: &str, workers: usize) -> Command {
        let mut command = Command::new("taskset");
        let cores = match workers {
            1 => self.proxy.to_string(),
            _ => format!("{},{}", self.proxy, self.second),
        };
        command.args(["-c", &cores, program]);
        command
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}, load and origin on core {}", self.proxy, self.rest)
    }
}

/// Proportional set size in bytes: private memory, and the process's share of shared memory.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let size = field(&rollup, "Pss:").and_then(|value| value.strip_suffix(" kB"));
    Ok(size.context("no Pss")?.parse::<u64>()? * 1024)
}

/// User and system time of all ended children of this process, and of theirs.
pub(crate) fn cpu_of_ended_children() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may contain anything; cutime and cstime are fields 16 and 17.
    let (_, fields) = stat.rsplit_once(") ").context("a stat line without a name")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

/// Child processes of all threads of a process.
pub(crate) fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended meanwhile.
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in listed.split_whitespace() {
            children.push(child.parse()?);
        }
    }
    Ok(children)
}

/// Child processes whose title has these words.
pub(crate) fn children_titled(pid: u32, words: &str) -> anyhow::Result<Vec<u32>> {
    let titled = |child: &u32| {
        // The process may have ended meanwhile.
        let title = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        title.contains(words)
    };
    Ok(children(pid)?.into_iter().filter(titled).collect())
}

/// The text after `name` on its line.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
