//! The command line: one file for each subcommand.

#[cfg(feature = "demo")]
pub mod demo;
