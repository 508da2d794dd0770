//! From what was typed to what it means, every fault at once.
