//! The course of a run: arrivals, the herd, the rolling deploy, chaos, the end.
