//! One binary of scenarios against the real `moorline` process.
//!
//! Each scenario starts a proxy of its own, speaks to it over raw sockets and puts byte-recording
//! backends behind it, so that both sides of a fault are asserted. Tests named `fault_NNN_…` carry
//! the number of the case they hold. The name and number are the contract; files group them by
//! the part of a stream that breaks.

#[cfg(test)]
mod config;
#[cfg(test)]
mod proof;
#[cfg(test)]
#[allow(dead_code, reason = "the scenarios that use all of it come with the proxy")]
mod support;
