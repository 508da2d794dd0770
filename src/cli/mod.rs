//! The command line: one file for each subcommand.

pub mod check;
#[cfg(feature = "demo")]
pub mod demo;
