//! This proxy beside nginx, HAProxy and Caddy: what requests, messages, connections and sessions cost
//! each of them, in one run.
//!
//! ```text
//! benches/compare/run [--quick] [--rounds N] [--only WORD] [--against FILE] | --render
//! benches/compare/run --continuity [--only WORD]
//! ```
//!
//! `--only` keeps the rows whose group or title contains the word ("idle", "TLS", "artillery"…);
//! `--against` adds a column for another build of this proxy; `--render` writes the page anew from
//! the last figures, after its reading was edited. Only a full run replaces the page; what another
//! one measures is printed, and left in `target/compare`.
//!
//! What is measured belongs to the proxy's processes alone and hardly depends on how busy the machine
//! is: user + system time per unit of work, and proportional set size. Latency and rates do depend on
//! it. Each proxy has one core and one worker; load generator and origin have another. Proxies take
//! turns within a round, each load meets a fresh process, and the page shows medians over rounds with
//! their range. This bench shares no code with the proxy, but for what it times in process.

mod chart;
mod continuity;
#[path = "../../tests/it/support/harness.rs"]
mod harness;
mod inside;
mod load;
mod machine;
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

/// Where the page is, and what it is made from.
const HOME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare");
/// Where the figures of a run go that is not a full one.
const ASIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare");

const ROUNDS: usize = 3;

/// What was asked for.
#[derive(Debug, Default)]
struct Args {
    quick: bool,
    render: bool,
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
        turns.take(&mut results, &format!("round {round} of {rounds}"))?;
        inside::take(&turns, &mut results)?;
        // What is done is done, should a later round fail.
        results.write(&Path::new(ASIDE).join("results.json"))?;
    }
    drop(origin);
    yardstick::take(&mut results, rounds, only, args.quick)?;
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
                "--continuity" => read.continuity = true,
                "--rounds" => read.rounds = Some(value()?.parse().context("--rounds")?),
                "--only" => read.only = Some(value()?),
                "--against" => read.against = Some(value()?.into()),
                _ => bail!(
                    "{arg} is not known: --quick, --rounds N, --only WORD, --against FILE, --render, \
                     --continuity"
                ),
            }
        }
        Ok(read)
    }

    /// Whether everything is measured that belongs on the page, and nothing else.
    fn full(&self) -> bool {
        !self.quick && self.only.is_none() && self.against.is_none()
    }
}
