//! The command line: one file for each subcommand.
//!
//! Commands that run a proxy share `serve`. Commands for a running process are clients of its admin API
//! and share `client`, `find`, `show`, `target` and `deadline`.

pub mod backends;
pub mod cache;
pub mod check;
mod client;
pub mod completions;
pub mod config;
mod deadline;
#[cfg(feature = "demo")]
pub mod demo;
pub mod drain;
pub mod explain;
mod files;
mod find;
mod flags;
pub mod init;
mod limit;
pub mod man;
mod number;
pub mod openapi;
pub mod plan;
mod process;
pub mod proxy;
pub mod reload;
pub mod revoke;
pub mod run;
pub mod schema;
mod serve;
pub mod sessions;
mod show;
pub mod status;
mod target;
pub mod undrain;
pub mod upgrade;
pub mod version;

pub use self::{client::Access, target::TargetArgs};
