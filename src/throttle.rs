//! Rates, and counters by key in bounded memory.
//!
//! A rate is a token bucket, kept as the time at which it is full again (GCRA). The crate `governor` uses this algorithm
//! too, but its stores of keys are unbounded, and a refusal by another part of a limit could not give the token back: here
//! all parts of a limit decide together, under the lock of one set of keys.

mod bucket;
mod table;

pub(crate) use self::{
    bucket::TokenBucket,
    table::{KeyState, KeyTable, Now},
};
