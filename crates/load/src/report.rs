//! What people and programs see of a run: live view, summary, JSON, HTML, assertions.
//!
//! Owns their words and looks; must not know how figures are gathered. A run goes
//!
//! ```text
//! Live::start(&scenario, collector) … live.stop(); Outcome::new(&scenario, &collector.record())
//!     .write(&scenario.outputs)? · .summary() to stdout · .passed() for the exit code
//! ```

mod assertions;
mod axis;
mod chart;
mod expense;
mod figures;
mod html;
mod json;
mod live;
mod plan;
mod plots;
mod summary;
mod words;

use std::{fs, path::Path};

use self::json::Document;
pub(crate) use self::live::Live;
use crate::{
    scenario::{Outputs, Scenario},
    stats::Record,
};

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    document: Document,
}

impl Outcome {
    /// Judges a run by its scenario's limits.
    pub(crate) fn new(scenario: &Scenario, record: &Record) -> Self {
        let verdict = assertions::judge(&scenario.limits, scenario.expects_answers(), record);
        Self { document: Document::new(scenario, record, verdict) }
    }

    /// Whether no limit was broken: also where none was set.
    pub(crate) fn passed(&self) -> bool {
        self.document.verdict.passed != Some(false)
    }

    /// Limits that did not hold, a sentence each: "p99 of messages was 81 ms, more than the 50 ms
    /// allowed".
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.document.verdict.failures()
    }

    /// For the end of a terminal session: several lines, the last one ended.
    pub(crate) fn summary(&self) -> String {
        summary::summarize(&self.document)
    }

    /// Writes the files that were asked for.
    ///
    /// # Errors
    ///
    /// A sentence for the user about the first file that could not be written.
    pub(crate) fn write(&self, outputs: &Outputs) -> Result<(), String> {
        if let Some(path) = &outputs.json {
            let mut json = serde_json::to_string(&self.document)
                .map_err(|error| format!("the figures cannot be written as JSON: {error}"))?;
            json.push('\n');
            write(path, &json)?;
        }
        if let Some(path) = &outputs.html {
            let page = html::page(&self.document)
                .map_err(|error| format!("the figures cannot be written as HTML: {error}"))?;
            write(path, &page)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;
