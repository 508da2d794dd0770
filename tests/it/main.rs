//! Scenarios against the real `moorline` process.
//!
//! Each scenario starts a proxy, connects to it by raw sockets, and puts backends behind it that record
//! every byte, so that it can check both sides. Tests named `fault_NNN_…` have the number of the fault
//! that they cover; this number does not change. Files group the tests by the part of a stream that fails.

#[cfg(test)]
mod acme;
#[cfg(test)]
mod address_families;
#[cfg(test)]
mod admin;
#[cfg(test)]
mod admission;
#[cfg(test)]
mod backend_certificates;
#[cfg(test)]
mod backend_tls;
#[cfg(test)]
mod backends;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod checking;
#[cfg(test)]
mod client_auth;
#[cfg(test)]
mod client_limits;
#[cfg(test)]
mod client_revocation;
#[cfg(test)]
mod close_notify;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod config;
#[cfg(test)]
mod config_keys;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod consul;
#[cfg(test)]
mod continuity;
#[cfg(test)]
mod cookies;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod diagnosis;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod discovery_http;
#[cfg(test)]
mod discovery_srv;
#[cfg(test)]
mod drains;
#[cfg(test)]
mod error_pages;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod fault_table;
#[cfg(test)]
mod forwarded;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod fuzz_seeds;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod handed_over;
#[cfg(test)]
mod health;
#[cfg(test)]
mod includes;
#[cfg(test)]
mod init;
#[cfg(all(test, target_env = "gnu"))]
mod kept_memory;
#[cfg(test)]
mod layer4;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod load;
#[cfg(test)]
mod load_input;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod outliers;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod per_address;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod rebalance;
#[cfg(test)]
mod redaction;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod removed_backends;
#[cfg(test)]
mod request;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod response;
#[cfg(test)]
mod shell;
#[cfg(test)]
mod sids;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod support;
#[cfg(test)]
mod system_calls;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod targets;
#[cfg(test)]
mod tls_settings;
#[cfg(test)]
mod tunnel;
#[cfg(test)]
mod unix_backends;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upgrade_binary;
#[cfg(test)]
mod watching;
