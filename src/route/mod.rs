//! From a request's host and path to whatever a rule stands for.
//!
//! [`Table`] is built once per configuration and only read afterwards. It is pure: no I/O, no
//! runtime types, and it does not know what its rules lead to.

mod path;
mod table;

pub use table::Table;
