//! The command line.

use std::process::ExitCode;

/// Runs what was asked for.
pub(crate) fn main() -> ExitCode {
    ExitCode::SUCCESS
}
