//! Facts of this machine for warnings: modes of files, and the systemd unit of the process.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::warnings::Environment;

/// Folders of units, in order of precedence (systemd.unit(5)).
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The unit's name.
const UNIT: &str = "moorline.service";

impl<'e> Environment<'e> {
    /// The environment of a configuration file on this machine. `unresolved`: names of backends that do
    /// not resolve, with the reason.
    pub fn here(file: &Path, unresolved: &'e [(String, String)]) -> Self {
        Self {
            now: SystemTime::now(),
            readable_by_others: &readable_by_others,
            unresolved,
            stop_timeout: stop_timeout(file, &UNITS.map(Path::new)),
        }
    }
}

/// Whether every user can read a file, by its mode and the modes of its folders.
fn readable_by_others(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.mode());
    let open = path.ancestors().skip(1).all(|folder| mode(folder) & 0o001 != 0);
    open && mode(&path) & 0o004 != 0
}

/// The unit that runs this file, and its stop timeout; `None`: no unit names the file, or the timeout is
/// infinite.
fn stop_timeout(file: &Path, units: &[&Path]) -> Option<(PathBuf, Duration)> {
    let file = std::path::absolute(file).ok()?;
    let unit = units.iter().map(|folder| folder.join(UNIT)).find(|unit| unit.is_file())?;
    let mut text = fs::read_to_string(&unit).ok()?;
    let runs =
        |line: &str| line.starts_with("ExecStart=") && line.contains(&*file.to_string_lossy());
    if !text.lines().any(runs) {
        return None;
    }
    for folder in units.iter().rev().map(|folder| folder.join(format!("{UNIT}.d"))) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut drop_ins: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        drop_ins.sort();
        for drop_in in drop_ins.iter().filter(|path| path.extension().is_some_and(|e| e == "conf"))
        {
            text.push('\n');
            text.push_str(&fs::read_to_string(drop_in).unwrap_or_default());
        }
    }
    // The last assignment is used, or systemd's default of 90 s.
    let typed = text.lines().filter_map(|line| line.strip_prefix("TimeoutStopSec=")).next_back();
    let limit = match typed.map(str::trim) {
        None | Some("") => Duration::from_secs(90),
        Some("infinity" | "0") => return None,
        Some(typed) => match typed.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => humantime::parse_duration(typed).ok()?,
        },
    };
    Some((unit, limit))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_unit_that_runs_the_file_is_used_and_drop_ins_override_it() {
        let folder = tempfile::tempdir().unwrap();
        let units = [folder.path()];
        let file = Path::new("/etc/moorline/moorline.toml");
        assert_eq!(stop_timeout(file, &units), None);
        let unit = "[Service]\nExecStart=/usr/bin/moorline run /etc/moorline/moorline.toml\nTimeoutStopSec=45s\n";
        fs::write(folder.path().join(UNIT), unit).unwrap();
        let found =
            |file: &str| stop_timeout(Path::new(file), &units).map(|(_, limit)| limit.as_secs());
        assert_eq!(found("/etc/moorline/moorline.toml"), Some(45));
        assert_eq!(found("/etc/other.toml"), None);
        fs::create_dir(folder.path().join("moorline.service.d")).unwrap();
        let drop_in = folder.path().join("moorline.service.d/stop.conf");
        fs::write(drop_in, "[Service]\nTimeoutStopSec=2min\n").unwrap();
        assert_eq!(found("/etc/moorline/moorline.toml"), Some(120));
    }

    #[test]
    fn a_file_in_a_closed_folder_is_not_readable_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&file, 0o644);
        set(folder.path(), 0o755);
        assert!(readable_by_others(&file));
        set(folder.path(), 0o750);
        assert!(!readable_by_others(&file));
        set(folder.path(), 0o755);
        set(&file, 0o640);
        assert!(!readable_by_others(&file));
    }
}
