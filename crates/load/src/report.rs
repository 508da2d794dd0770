//! The results of a run: live view, summary, JSON, HTML, assertions.
//!
//! Owns texts and layout. Does not know how figures are collected. Use:
//!
//! ```text
//! Live::start(&scenario, collector) … live.stop(); Outcome::new(&scenario, &collector.record())
//!     .write(&scenario.outputs)? · .summary() to stdout · .passed() for the exit code
//! ```

mod assertions;
mod axis;
mod chart;
mod checkpoint;
mod figures;
mod formatting;
mod html;
mod json;
mod live;
mod phase_cost;
mod plots;
mod scenario_summary;
mod summary;

use std::{fs, path::Path};

use anyhow::Context as _;

use self::json::Document;
pub(crate) use self::live::Live;
use crate::{
    scenario::{Outputs, Scenario},
    stats::Record,
};

/// Result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    document: Document,
}

impl Outcome {
    /// Checks the limits of the scenario.
    pub(crate) fn new(scenario: &Scenario, record: &Record) -> Self {
        let verdict = assertions::judge(&scenario.limits, scenario.expects_answers(), record);
        Self { document: Document::new(scenario, record, verdict) }
    }

    /// Whether no limit was exceeded; true if no limit is set.
    pub(crate) fn passed(&self) -> bool {
        self.document.verdict.passed != Some(false)
    }

    /// Returns one sentence per failed check: "p99 of messages was 81 ms, more than the 50 ms allowed".
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.document.verdict.failures()
    }

    /// Returns the summary for a terminal: several lines with a final newline.
    pub(crate) fn summary(&self) -> String {
        summary::summarize(&self.document)
    }

    /// Writes the requested files.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written.
    pub(crate) fn write(&self, outputs: &Outputs) -> anyhow::Result<()> {
        if let Some(path) = &outputs.json {
            let mut json =
                serde_json::to_string(&self.document).context("cannot encode the JSON file")?;
            json.push('\n');
            write(path, &json)?;
        }
        if let Some(path) = &outputs.html {
            let page = html::page(&self.document).context("cannot create the HTML page")?;
            write(path, &page)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;
