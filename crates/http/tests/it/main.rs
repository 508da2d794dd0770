//! Properties of the parsers, and comparisons with hyper.

#[cfg(test)]
#[path = "../../../../fuzz/checks/body.rs"]
mod body_checks;
#[cfg(test)]
mod body_hyper;
#[cfg(test)]
mod body_splits;
#[cfg(test)]
mod fuzz_seeds;
#[cfg(test)]
mod generators;
#[cfg(test)]
#[path = "../../../../fuzz/checks/head.rs"]
mod head_checks;
#[cfg(test)]
mod head_edits;
#[cfg(test)]
#[path = "../../../../fuzz/checks/head_edits.rs"]
mod head_edits_checks;
#[cfg(test)]
mod head_hyper;
#[cfg(test)]
mod heads;
