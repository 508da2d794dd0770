//! What a tunnel costs, beside HAProxy and nginx: memory while idle, CPU time while busy.
//!
//! ```text
//! cargo bench --bench tunnel -- [--quick] [--rounds N] [--only WORD] [--against FILE]
//! ```
//!
//! `--only` keeps the loads whose name contains the word ("idle", "tls"…); `--against` adds a column
//! for another build of this proxy. Peers come from the `PATH`; one that is not installed is said and
//! left out.
//!
//! What is measured belongs to the proxy's process alone and hardly depends on how busy the machine
//! is: proportional set size, and user + system time per unit of work. Each proxy has one core and
//! one worker; origin and clients, this process, have another. Proxies take turns within a round,
//! each load meets a fresh process, and the table shows medians over rounds with their range. This
//! bench shares no code with the proxy.

mod load;
mod process;
mod proxies;
mod table;
mod traffic;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use self::{
    load::{Load, Size},
    process::Cores,
    proxies::Kind,
    table::Table,
    traffic::Origin,
};

/// What was asked for.
#[derive(Default)]
struct Args {
    quick: bool,
    rounds: Option<usize>,
    only: Option<String>,
    against: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    // `cargo test` runs the benches of a package too, but without this flag.
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing to test; measured by `cargo bench`");
        return Ok(());
    }
    let args = Args::read()?;
    let cores = Cores::pick()?;
    cores.pin_this_process()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&args, &cores))
}

async fn run(args: &Args, cores: &Cores) -> anyhow::Result<()> {
    let kinds = Kind::installed(args.against.as_deref())?;
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    let rounds = args.rounds.unwrap_or(size.rounds);
    let origin = Origin::start().await?;
    let loads: Vec<Load> = Load::ALL
        .into_iter()
        .filter(|load| args.only.as_ref().is_none_or(|word| load.name().contains(word)))
        .collect();
    let mut table = Table::new(kinds.iter().map(|kind| kind.title.clone()).collect());
    for round in 1..=rounds {
        for load in &loads {
            for (column, kind) in kinds.iter().enumerate() {
                eprintln!("round {round} of {rounds}: {}, {}", load.name(), kind.title);
                let measured = async {
                    let proxy = kind.start(cores, origin.address).await?;
                    load.measure(&size, &proxy).await
                };
                let values = measured
                    .await
                    .with_context(|| format!("{} under {}", kind.title, load.name()))?;
                for (row, value) in load.rows(&size).into_iter().zip(values) {
                    table.add(row, column, value);
                }
            }
        }
    }
    println!("{rounds} rounds on {cores}: median (least–most), and ours as a part of theirs\n");
    print!("{table}");
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
                "--rounds" => read.rounds = Some(value()?.parse().context("--rounds")?),
                "--only" => read.only = Some(value()?),
                "--against" => read.against = Some(value()?.into()),
                _ => bail!("{arg} is not known: --quick, --rounds N, --only WORD, --against FILE"),
            }
        }
        Ok(read)
    }
}
