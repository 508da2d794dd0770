//! Maps a request's host and path to the target of a rule.
//!
//! A [`HostTable`] is built once per configuration and is read-only afterwards. It is pure: no I/O, no runtime
//! types, and no knowledge of the targets. [`Routes`] holds the tables of all listeners.

mod by_listener;
mod path;
mod table;

pub use by_listener::{NoMatch, RouteRule, Routes};
pub use table::HostTable;
