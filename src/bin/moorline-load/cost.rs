//! What another process spends: CPU time and memory, from `/proc`.
