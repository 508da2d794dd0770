//! Bounded reads of the files that a user names.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::fault::{InvalidValue, quoted};

/// Largest file that is read, in bytes; a hundred thousand backends fit.
pub(super) const LARGEST_FILE: u64 = 8 << 20;

/// Longest time that a pipe may stay empty.
const PIPE_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads a file of bounded size; the fault names the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, InvalidValue> {
    let shown = quoted(&path.to_string_lossy());
    match bytes(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(InvalidValue::new(format!("{shown} is larger than {} MiB", LARGEST_FILE >> 20))
                .help("name a smaller file"))
        }
        Err(error) => {
            let wrong = InvalidValue::new(format!("cannot read {shown}: {}", reason(&error)));
            Err(match error.kind() {
                io::ErrorKind::PermissionDenied => wrong.help(format!(
                    "allow this user to read the file and to enter its folders; `namei -l {}` shows their \
                     owners and modes",
                    path.display()
                )),
                io::ErrorKind::IsADirectory => wrong.help("name a file in this folder"),
                _ => wrong,
            })
        }
    }
}

/// Reads a file that a user has named. A pipe without a writer and an endless device do not block it.
///
/// # Errors
/// An error of the operating system; the file is too large; nothing was written to the pipe.
pub(crate) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Without this flag, opening a named pipe blocks until it has a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    read_to_end(&mut file.take(LARGEST_FILE + 1), &mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let text = format!("it is larger than {} MiB", LARGEST_FILE >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Reads to the end. Waits a few seconds for the first bytes of a pipe or a terminal.
fn read_to_end(file: &mut io::Take<fs::File>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let until = Instant::now() + PIPE_TIMEOUT;
    let is_pipe = file.get_ref().metadata()?.file_type().is_fifo();
    loop {
        match file.read_to_end(bytes) {
            // The pipe has no writer yet.
            Ok(_) if is_pipe && bytes.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome.map(|_| ()),
        }
        if Instant::now() > until {
            let text =
                "it is a pipe or a device, and nothing was written to it; use a regular file";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Why a file cannot be read, in the same words on every system.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!("permission denied for this process (uid {user})")
        }
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}
