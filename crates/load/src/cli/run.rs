//! `run`, `controlled`, `herd`, `deploy` and `chaos`: one run, from its arguments to its report.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;

use crate::{
    cost::Meter,
    report::{Live, Outcome},
    runner::{self, RunEnd},
    scenario::{Outputs, Scenario, file, options::Options},
    stats::Collector,
};

/// Arguments of `run` and `controlled`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Read a TOML scenario file. Its keys are the names of the flags; a flag overrides its key. A table
    /// `[herd]`, `[deploy]` or `[chaos]` selects that kind of run
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Arguments of `herd`, `deploy` and `chaos`.
#[derive(clap::Args, Debug)]
pub(super) struct ModeArgs<C: clap::Args> {
    #[command(flatten)]
    course: C,
    #[command(flatten)]
    options: Options,
}

impl Args {
    /// Returns the flags, and the keys of the file for flags that are not given.
    pub(super) fn options(self) -> anyhow::Result<Options> {
        match self.file {
            Some(path) => file::read(&path).map(|file| self.options.over(file)),
            None => Ok(self.options),
        }
    }
}

impl<C: clap::Args> ModeArgs<C> {
    /// Returns the options, with those of the mode in the field that `place` selects.
    pub(super) fn options(self, place: impl FnOnce(&mut Options) -> &mut Option<C>) -> Options {
        let mut options = self.options;
        *place(&mut options) = Some(self.course);
        options
    }
}

/// Runs a scenario and reports it.
pub(super) fn run(options: Options) -> anyhow::Result<ExitCode> {
    let scenario = Arc::new(Scenario::check(options)?);
    writable(&scenario.outputs)?;
    let collector = Arc::new(Collector::new(Meter::new(&scenario.cost_of)?));
    let live = Live::start(&scenario, Arc::clone(&collector));
    let ending = runner::run(&scenario, &collector);
    live.stop();
    let ending = ending?;
    let outcome = Outcome::new(&scenario, &collector.record());
    let written = outcome.write(&scenario.outputs);
    if scenario.outputs.quiet {
        // Without a summary, this is the only place that gives the reason for the exit code.
        outcome.failures().iter().for_each(|failure| eprintln!("{failure}"));
    } else {
        print!("{}", outcome.summary());
    }
    // After the summary, so that the figures are shown even if a file cannot be written.
    written?;
    match ending {
        RunEnd::Aborted(error) => Err(error),
        RunEnd::Complete | RunEnd::Interrupted if outcome.passed() => Ok(ExitCode::SUCCESS),
        RunEnd::Complete | RunEnd::Interrupted => Ok(ExitCode::FAILURE),
    }
}

/// Checks that the reports can be written, before the run and not after it. Leaves no new file behind.
fn writable(outputs: &Outputs) -> anyhow::Result<()> {
    for path in [&outputs.json, &outputs.html].into_iter().flatten() {
        let was_there = path.exists();
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.with_context(|| format!("cannot write {}", path.display()))?;
        if !was_there {
            // If this fails, the empty file is overwritten at the end of the run.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}
