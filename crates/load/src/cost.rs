//! CPU time and memory of other processes, from `/proc`.
//!
//! Does not know what these processes do.

use std::{fs, io, time::Duration};

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

/// Duration of a tick in `/proc/PID/stat`: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Measures a set of processes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    processes: Vec<Process>,
    /// Last values of each process. A process that has ended keeps its CPU time.
    last: Vec<ProcessUsage>,
}

/// A measured process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Process id.
    pub(crate) pid: u32,
    /// Name from the kernel, at most 15 bytes.
    pub(crate) name: String,
    /// When the process was first found to have ended, from the start of the run; `None`: it outlived the
    /// run.
    pub(crate) ended: Option<Duration>,
    /// Start time of the process in ticks since boot: detects a reused process id.
    born: u64,
}

/// Resource usage of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessUsage {
    /// User CPU time of all threads since the start of the process, in microseconds.
    pub(crate) user_us: u64,
    /// System CPU time of all threads since the start of the process, in microseconds.
    pub(crate) system_us: u64,
    /// Proportional set size in bytes: private memory, and the share of shared memory. 0 after the process
    /// has ended.
    pub(crate) pss_bytes: u64,
}

impl Meter {
    /// Checks that the processes exist and can be measured.
    ///
    /// # Errors
    ///
    /// The first process that cannot be measured.
    pub(crate) fn new(pids: &[u32]) -> anyhow::Result<Self> {
        let mut meter = Self::default();
        for &pid in pids {
            let (process, usage) = measure(pid).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    anyhow!("no process {pid} to measure; check the process id")
                }
                _ => anyhow!("cannot measure process {pid}: {error}"),
            })?;
            meter.processes.push(process);
            meter.last.push(usage);
        }
        Ok(meter)
    }

    /// Returns the usage of each process. `now` is recorded for processes that have ended.
    pub(crate) fn read(&mut self, now: Duration) -> Vec<ProcessUsage> {
        for (process, last) in self.processes.iter_mut().zip(&mut self.last) {
            if process.ended.is_some() {
                continue;
            }
            match measure(process.pid) {
                Ok((seen, usage)) if seen.born == process.born => *last = usage,
                _ => {
                    process.ended = Some(now);
                    last.pss_bytes = 0;
                }
            }
        }
        self.last.clone()
    }

    /// The measured processes.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }
}

/// Returns the user and system CPU time of this process; zero if `/proc` cannot be read.
pub(crate) fn own_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = parse_stat(0, &stat).map_or(0, |(_, user, system)| user + system);
    Duration::from_micros(micros(ticks))
}

#[cfg(test)]
impl Process {
    /// A process that does not end, for test data.
    pub(crate) fn new(pid: u32, name: &str) -> Self {
        Self { pid, name: name.to_owned(), ended: None, born: 0 }
    }
}

fn measure(pid: u32) -> io::Result<(Process, ProcessUsage)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (process, user, system) = parse_stat(pid, &stat).ok_or(io::ErrorKind::InvalidData)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss_bytes = parse_pss(&rollup).ok_or(io::ErrorKind::InvalidData)?;
    Ok((process, ProcessUsage { user_us: micros(user), system_us: micros(system), pss_bytes }))
}

/// See proc_pid_stat(5): fields 14 and 15 are utime and stime, 22 is starttime. The name, in parentheses, may
/// contain any character.
fn parse_stat(pid: u32, stat: &str) -> Option<(Process, u64, u64)> {
    let (head, fields) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // A zombie uses no more CPU time and has no memory.
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    let process = Process { pid, name: name.to_owned(), ended: None, born: number(22)? };
    Some((process, number(14)?, number(15)?))
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let size = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(size.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn micros(ticks: u64) -> u64 {
    ticks * TICK.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::{
        hint,
        process::{self, Command},
    };

    use super::*;

    #[test]
    fn cpu_time_of_a_busy_process_grows() {
        let mut meter = Meter::new(&[process::id()]).unwrap();
        let busy = |usage: &[ProcessUsage]| usage[0].user_us + usage[0].system_us;
        let start = meter.read(Duration::ZERO);
        assert!(start[0].pss_bytes > 100_000, "{start:?}");
        while busy(&meter.read(Duration::ZERO)) < busy(&start) + 50_000 {
            (0..100_000_u32).for_each(|number| _ = hint::black_box(number));
        }
    }

    #[test]
    fn missing_process_is_reported() {
        // Process ids are below 2^22.
        let sentence = Meter::new(&[process::id(), 4_194_305]).unwrap_err().to_string();
        assert_eq!(sentence, "no process 4194305 to measure; check the process id");
    }

    #[test]
    fn ended_process_keeps_its_cpu_time() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut meter = Meter::new(&[child.id()]).unwrap();
        let alive = meter.read(Duration::from_secs(1));
        assert_eq!((meter.processes()[0].ended, alive[0].pss_bytes > 0), (None, true));
        assert_eq!(meter.processes()[0].name, "sleep");
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = meter.read(Duration::from_secs(2));
        assert_eq!((gone[0].user_us, gone[0].pss_bytes), (alive[0].user_us, 0));
        meter.read(Duration::from_secs(3));
        assert_eq!(meter.processes()[0].ended, Some(Duration::from_secs(2)));
    }

    #[test]
    fn process_names_may_contain_any_character() {
        let fields = "S 1 1 1 0 -1 0 0 0 0 0 7 5 0 0 20 0 1 0 999 0 0";
        let (process, user, system) = parse_stat(9, &format!("9 (a) b (c) {fields}\n")).unwrap();
        assert_eq!((process.name.as_str(), process.born), ("a) b (c", 999));
        assert_eq!((user, system), (7, 5));
        assert_eq!(parse_pss("Rss: 9 kB\nPss:   12 kB\nPss_Dirty: 3 kB\n"), Some(12 * 1024));
    }
}
