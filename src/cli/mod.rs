//! The command line: one file for each subcommand.

pub mod check;
#[cfg(feature = "demo")]
pub mod demo;
pub mod proxy;
pub mod run;
mod serve;
