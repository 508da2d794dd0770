//! What another process spends: CPU time and memory, from `/proc`.
//!
//! Owns the numbers' meaning; must not know what the process does.

use std::{fs, io, time::Duration};

use serde::{Deserialize, Serialize};

/// Length of the ticks that `/proc/PID/stat` counts in: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Reads what some processes have spent.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    processes: Vec<Process>,
    /// The last that was seen of each process: what an ended one has spent stays spent.
    last: Vec<Spent>,
}

/// A measured process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// Its name, as the kernel tells it: at most 15 bytes.
    pub(crate) name: String,
    /// When it was first missed, from the start of the run; `None`: it outlived the run.
    pub(crate) ended: Option<Duration>,
    /// Ticks from the machine's start to the process's: tells a number that was given anew.
    born: u64,
}

/// What a process has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// User CPU time of all its threads since it began, in microseconds.
    pub(crate) user_us: u64,
    /// System CPU time of all its threads since it began, in microseconds.
    pub(crate) system_us: u64,
    /// Proportional set size now, in bytes: its own memory, and its part of what is shared. 0 once
    /// it has ended.
    pub(crate) pss_bytes: u64,
}

impl Meter {
    /// Checks that the processes are there and can be measured.
    ///
    /// # Errors
    ///
    /// A sentence for the user about the first one that cannot.
    pub(crate) fn new(pids: &[u32]) -> Result<Self, String> {
        let mut meter = Self::default();
        for &pid in pids {
            let (process, spent) = measure(pid).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("there is no process {pid} to measure"),
                _ => format!("process {pid} cannot be measured: {error}"),
            })?;
            meter.processes.push(process);
            meter.last.push(spent);
        }
        Ok(meter)
    }

    /// What each process has spent by now; `now` is only kept, for those that have ended.
    pub(crate) fn read(&mut self, now: Duration) -> Vec<Spent> {
        for (process, last) in self.processes.iter_mut().zip(&mut self.last) {
            if process.ended.is_some() {
                continue;
            }
            match measure(process.pid) {
                Ok((seen, spent)) if seen.born == process.born => *last = spent,
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

#[cfg(test)]
impl Process {
    /// One that lives, for made-up runs.
    pub(crate) fn new(pid: u32, name: &str) -> Self {
        Self { pid, name: name.to_owned(), ended: None, born: 0 }
    }
}

fn measure(pid: u32) -> io::Result<(Process, Spent)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (process, user, system) = parse_stat(pid, &stat).ok_or(io::ErrorKind::InvalidData)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss_bytes = parse_pss(&rollup).ok_or(io::ErrorKind::InvalidData)?;
    Ok((process, Spent { user_us: micros(user), system_us: micros(system), pss_bytes }))
}

/// See proc_pid_stat(5): 14 and 15 are utime and stime, 22 is starttime. The name, in parentheses,
/// may contain anything.
fn parse_stat(pid: u32, stat: &str) -> Option<(Process, u64, u64)> {
    let (head, fields) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // A zombie has spent all that it will, and has no memory left to be asked for.
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
