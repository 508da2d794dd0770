//! From a request's host and path to whatever a rule stands for.
//!
//! A [`Table`] is built once per configuration and only read afterwards. It is pure: no I/O, no
//! runtime types, and it does not know what its rules lead to. [`Routes`] are the tables of all listeners.

mod by_listener;
mod path;
mod table;

pub use by_listener::{Routes, Rule, Uncovered};
pub use table::Table;
