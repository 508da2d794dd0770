//! Compares this proxy with nginx, HAProxy and Caddy: the cost of requests, messages, connections and
//! sessions, in one run.
//!
//! ```text
//! benches/compare/run [--quick] [--rounds N] [--only WORDS[,WORDS]] [--against FILE] | --render | --list
//! benches/compare/run --continuity [--only WORDS]
//! ```
//!
//! `--only` keeps the rows that have all these words in their group's title or in their own ("idle",
//! "echo tls 4 kib", "artillery"…), `--list` prints the titles. `benches/compare/run --help` has examples.
//! `--against` adds a column for another build of this proxy. `--render` rewrites the page from the last
//! figures, after `reading.md` was edited. Only a full run replaces the page; the figures of other runs are
//! printed, and written to `target/compare`.
//!
//! User + system time per unit of work and proportional set size are measured for the proxy's processes
//! alone, and hardly depend on how busy the machine is. Latency and rates do. Each proxy has one core and
//! one worker; load generator and origin share another core. Proxies take turns within a round, each load
//! starts a new process, and the page shows medians over rounds with their range. This bench shares no code
//! with the proxy, except the parts that it times in process.

mod chart;
mod continuity;
mod goals;
#[path = "../../tests/it/support/harness.rs"]
mod harness;
mod inside;
mod load;
mod local;
mod machine;
mod memory;
mod only;
mod origin;
mod page;
mod peer;
mod process;
mod results;
mod rows;
mod turns;
mod yardstick;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use self::{origin::Origin, peer::Peer, process::Cores, results::Results, turns::Turns};

/// Folder of the page and its sources.
const HOME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare");
/// Folder for the figures of a partial run.
const ASIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare");

const ROUNDS: usize = 3;

/// The command-line options.
#[derive(Debug, Default)]
struct Args {
    quick: bool,
    render: bool,
    list: bool,
    continuity: bool,
    rounds: Option<usize>,
    only: Option<String>,
    against: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    // `cargo test` runs the benches of a package too, but without this flag.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing to test; measured by `benches/compare/run`");
        return Ok(());
    }
    if std::env::args().any(|arg| arg == inside::FLAG) {
        return inside::print();
    }
    let args = Args::read()?;
    let home = Path::new(HOME);
    if args.render {
        return render(&Results::read(&home.join("results.json"))?, home);
    }
    if args.list {
        rows::list();
        return Ok(());
    }
    fs::create_dir_all(ASIDE).context(ASIDE)?;
    if args.continuity {
        return continuity::stage(args.only.as_deref());
    }
    let cores = Cores::pick()?;
    cores.pin_this_process()?;
    let results = measure(&args, &cores)?;
    if args.full() {
        results.write(&home.join("results.json"))?;
        return render(&results, home);
    }
    results.write(&Path::new(ASIDE).join("results.json"))?;
    println!("{}", page::tables(&results));
    render(&results, Path::new(ASIDE))
}

fn measure(args: &Args, cores: &Cores) -> anyhow::Result<Results> {
    let peers = Peer::installed(args.against.as_deref())?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { ROUNDS });
    let titles: Vec<String> = peers.iter().map(|peer| peer.title.clone()).collect();
    let about = machine::about(cores, titles, rounds, args.quick);
    let mut results = Results { about, tables: Vec::new() };
    let only = args.only.as_deref();
    let origin = Origin::start()?;
    let turns = Turns { peers: &peers, cores, origin: &origin, only, quick: args.quick };
    for round in 1..=rounds {
        let name = format!("round {round} of {rounds}");
        turns.take(&mut results, &name)?;
        inside::take(&turns, &mut results)?;
        yardstick::take(&turns, &mut results, &name)?;
        // Keeps the finished rounds if a later one fails or is stopped.
        results.about.rounds = round;
        results.write(&Path::new(ASIDE).join("results.json"))?;
    }
    Ok(results)
}

/// Writes the page and the chart into a folder.
fn render(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let reading = fs::read_to_string(Path::new(HOME).join("reading.md")).context("reading.md")?;
    fs::write(folder.join("RESULTS.md"), page::page(results, &reading))?;
    fs::write(folder.join("results.svg"), chart::chart(results))?;
    println!("written: {}", folder.join("RESULTS.md").display());
    Ok(())
}

impl Args {
    fn read() -> anyhow::Result<Self> {
        let mut read = Self::default();
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => read.quick = true,
                "--render" => read.render = true,
                "--list" => read.list = true,
                "--continuity" => read.continuity = true,
                "--rounds" => read.rounds = Some(value()?.parse().context("--rounds")?),
                "--only" => read.only = Some(value()?),
                "--against" => read.against = Some(value()?.into()),
                _ => bail!(
                    "unknown option {arg}: the options are --quick, --rounds N, --only WORDS, --against FILE, --render, \
                     --list, --continuity"
                ),
            }
        }
        Ok(read)
    }

    /// Whether the run measures exactly what belongs on the page.
    fn full(&self) -> bool {
        !self.quick && self.only.is_none() && self.against.is_none()
    }
}
