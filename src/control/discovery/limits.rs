//! Limits of what a source may answer.

/// Longest answer, in bytes; enough for about ten thousand backends.
pub(super) const MAX_ANSWER: usize = 1 << 20;

/// Longest chain of CNAME records.
pub(super) const MAX_ALIASES: usize = 8;
