//! The conformance corpus: recorded behaviour of kube-proxy (`svc-testbed/conformance`, format in its README.md) played against
//! the agent. corpus -> run (topology, dataplane, probe) -> observe -> judge -> report; scope says what is not promised yet,
//! objects what the agent follows, marker whether it has, schedule what runs first.

mod corpus;
mod dataplane;
mod judge;
mod marker;
mod objects;
mod observe;
mod probe;
mod report;
mod run;
mod schedule;
mod scope;
mod topology;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use corpus::Corpus;
use dataplane::{Mode, Variant};
use objects::Source;
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
    /// Where the agent finds its objects
    #[arg(long, value_enum, default_value = "both")]
    pub source: Sources,
    /// Labs at the same time, in all [default: 4 for each CPU]
    #[arg(long, value_name = "COUNT")]
    pub jobs: Option<usize>,
    /// Milliseconds the agent has to follow a change that does not show, that of a Node
    #[arg(long, default_value_t = 500)]
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

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Sources {
    /// A folder that it watches
    Manifests,
    /// An API server, in this process
    Kubernetes,
    Both,
}

impl ConformanceArgs {
    fn variants(&self) -> Vec<Variant> {
        let modes: &[Mode] = match self.mode {
            Modes::Tc => &[Mode::Tc],
            Modes::Socket => &[Mode::Socket],
            Modes::Both => &[Mode::Tc, Mode::Socket],
            Modes::None => &[Mode::None],
        };
        let sources: &[Source] = match (self.mode, self.source) {
            // Nobody reads it.
            (Modes::None, _) | (_, Sources::Manifests) => &[Source::Manifests],
            (_, Sources::Kubernetes) => &[Source::Kubernetes],
            (_, Sources::Both) => &[Source::Manifests, Source::Kubernetes],
        };
        modes.iter().flat_map(|mode| sources.iter().map(|source| Variant { mode: *mode, source: *source })).collect()
    }
}

/// Runs the corpus and prints the results. Fails unless every scenario that was run passed.
pub fn run(args: &ConformanceArgs) -> Result<()> {
    let corpus = Corpus::read(&args.folder, &args.scenarios)?;
    let variants = args.variants();
    let jobs = args.jobs.unwrap_or_else(|| 4 * thread::available_parallelism().map_or(1, usize::from));
    let settings = Settings {
        settle: Duration::from_millis(args.settle),
        all: args.all,
        verbose: args.verbose,
        labs: jobs / variants.len(),
    };
    let reports = run::run(&corpus, &variants, &settings)?;
    let totals = report::print(&reports, &variants, args.verbose);
    ensure!(totals.passed + totals.failed > 0, "no scenario ran");
    if totals.failed > 0 {
        bail!("{} scenarios failed", totals.failed);
    }
    Ok(())
}
