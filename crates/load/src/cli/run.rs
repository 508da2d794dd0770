//! `run`, `led`, `herd`, `deploy` and `chaos`: one run, from what was typed to its report.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use crate::{
    cost::Meter,
    drive::{self, Ending},
    report::{Live, Outcome},
    scenario::{Outputs, Scenario, file, options::Options},
    stats::Collector,
};

/// Arguments of `run` and `led`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Take what is not given here from this TOML file, whose keys are the flags' names; its tables
    /// `[herd]`, `[deploy]` or `[chaos]` make it a run of that kind
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Arguments of a run with a course of its own.
#[derive(clap::Args, Debug)]
pub(super) struct CourseArgs<C: clap::Args> {
    #[command(flatten)]
    course: C,
    #[command(flatten)]
    options: Options,
}

impl Args {
    /// What the flags say, and what the file says where they are silent.
    pub(super) fn options(self) -> Result<Options, String> {
        match self.file {
            Some(path) => file::read(&path).map(|file| self.options.over(file)),
            None => Ok(self.options),
        }
    }
}

impl<C: clap::Args> CourseArgs<C> {
    /// The flags, with the course at its place in them.
    pub(super) fn options(
        self,
        place: impl FnOnce(&mut Options) -> &mut Option<C>,
    ) -> Result<Options, String> {
        let mut options = self.options;
        *place(&mut options) = Some(self.course);
        Ok(options)
    }
}

/// Runs a scenario and reports it.
pub(super) fn run(options: Result<Options, String>) -> Result<ExitCode, String> {
    let scenario = Arc::new(Scenario::check(options?)?);
    writable(&scenario.outputs)?;
    let collector = Arc::new(Collector::new(Meter::new(&scenario.cost_of)?));
    let live = Live::start(&scenario, Arc::clone(&collector));
    let ending = drive::run(&scenario, &collector);
    live.stop();
    let ending = ending?;
    let outcome = Outcome::new(&scenario, &collector.record());
    let written = outcome.write(&scenario.outputs);
    if scenario.outputs.quiet {
        // The summary says so too; who asked for none still needs the reason of the exit code.
        outcome.failures().iter().for_each(|failure| eprintln!("{failure}"));
    } else {
        print!("{}", outcome.summary());
    }
    // After the summary: a file that cannot be written must not take the figures with it.
    written?;
    match ending {
        Ending::Broken(sentence) => Err(sentence),
        Ending::Complete | Ending::Interrupted if outcome.passed() => Ok(ExitCode::SUCCESS),
        Ending::Complete | Ending::Interrupted => Ok(ExitCode::FAILURE),
    }
}

/// What cannot be written is to be known before a run, not after it. Nothing is left of the attempt.
fn writable(outputs: &Outputs) -> Result<(), String> {
    for path in [&outputs.json, &outputs.html].into_iter().flatten() {
        let was_there = path.exists();
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        if !was_there {
            // One that stays is written over at the end.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}
