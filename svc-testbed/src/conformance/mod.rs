//! The conformance corpus: recorded behaviour of kube-proxy (`svc-testbed/conformance`, format in its README.md) played against
//! the agent. corpus -> run (topology, dataplane, probe) -> observe -> judge -> report; scope says what is not promised yet.

mod corpus;
mod dataplane;
mod judge;
mod observe;
mod probe;
mod report;
mod run;
mod scope;
mod topology;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use corpus::Corpus;
use dataplane::Mode;
use run::Settings;
pub use topology::{Topology, builder};

/// The corpus that comes with the project.
const DEFAULT_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance");

#[derive(Clone, Debug, clap::Args)]
pub struct ConformanceArgs {
    /// Folder with nodes.yaml and one folder per scenario
    #[arg(value_name = "DIR", default_value = DEFAULT_FOLDER)]
    pub folder: PathBuf,
    /// Only this scenario; may be repeated
    #[arg(long = "scenario", value_name = "NAME", num_args = 1..)]
    pub scenarios: Vec<String>,
    /// Which part of the agent translates
    #[arg(long, value_enum, default_value = "both")]
    pub mode: Modes,
    /// Milliseconds the agent has to follow a change
    #[arg(long, default_value_t = 300)]
    pub settle: u64,
    /// Also run scenarios and probes about what the agent does not claim to do yet
    #[arg(long)]
    pub all: bool,
    /// Show each probe with its samples, and outcomes that differ but are not required
    #[arg(long)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Modes {
    /// --socket-lb=off
    Tc,
    /// --socket-lb=all
    Socket,
    Both,
    /// No agent at all: shows what the lab and the runner do by themselves
    None,
}

/// Runs the corpus and prints the results. Fails unless every scenario that was run passed.
pub fn run(args: &ConformanceArgs) -> Result<()> {
    let corpus = Corpus::read(&args.folder, &args.scenarios)?;
    let settings = Settings { settle: Duration::from_millis(args.settle), all: args.all, verbose: args.verbose };
    let modes: &[Mode] = match args.mode {
        Modes::Tc => &[Mode::Tc],
        Modes::Socket => &[Mode::Socket],
        Modes::Both => &[Mode::Tc, Mode::Socket],
        Modes::None => &[Mode::None],
    };
    // Most of the time is spent waiting for packets that never come, so modes run side by side.
    let results: Vec<Result<Vec<run::Report>>> = thread::scope(|scope| {
        let running: Vec<_> = modes.iter().map(|mode| scope.spawn(|| run::run(&corpus, *mode, &settings))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("the runner panicked"))))
            .collect()
    });
    let mut reports = Vec::new();
    for (mode, result) in modes.iter().zip(results) {
        reports.extend(result.with_context(|| format!("mode {}", mode.name()))?);
    }
    let totals = report::print(&reports, modes, args.verbose);
    ensure!(totals.passed + totals.failed > 0, "no scenario ran");
    if totals.failed > 0 {
        bail!("{} scenarios failed", totals.failed);
    }
    Ok(())
}
