//! The benchmark: what a Service costs, side by side with the direct way and with kube-proxy's rules, on one machine.
//! Measurements fill `results`, `report` renders them. Nothing here judges a change: no test looks at a time.

mod control_plane;
mod machine;
mod paths;
pub mod probe;
mod programs;
mod progress;
mod report;
mod results;
mod rulesets;
mod statistics;
mod traffic;

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Result, bail};

use self::{machine::Machine, progress::Progress, results::Results};
use crate::Lab;

/// The project's performance page.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Only measurements whose name contains one of these
    #[arg(value_name = "NAME")]
    pub filters: Vec<String>,
    /// Fewer rounds and sizes: minutes instead of half an hour, and numbers that mean less
    #[arg(long)]
    pub quick: bool,
    /// The largest number of Services instead of 10000 (1000 with --quick)
    #[arg(long, value_name = "NUMBER")]
    pub services: Option<u32>,
    /// Samples of each number of the traffic measurements
    #[arg(long, value_name = "NUMBER")]
    pub rounds: Option<usize>,
    /// Put the results into the project's performance page
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = PAGE)]
    pub docs: Option<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "target/bench", overrides_with = "output")]
    pub output: PathBuf,
}

/// Measurements by name, in the order they are run.
fn names() -> Vec<&'static str> {
    let traffic = traffic::MEASUREMENTS.iter().map(|measurement| measurement.name);
    [programs::NAME].into_iter().chain(traffic).chain([traffic::PROGRAM_TIME, control_plane::NAME]).collect()
}

pub fn run(args: &BenchArgs) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the benchmark loads BPF programs and makes network namespaces: run it as root");
    }
    let chosen = choose(&args.filters)?;
    Lab::cleanup_stale()?;
    let progress = Progress::new();
    let mut results = Results {
        machine: machine_facts(),
        options: options(args),
        began: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        seconds: 0.0,
        sections: Vec::new(),
    };
    if chosen.contains(&programs::NAME) {
        progress.stage(programs::NAME);
        let plan = if args.quick { programs::Plan::quick() } else { programs::Plan::full() };
        results.sections.push(programs::measure(&plan, &progress)?);
    }
    if chosen.iter().any(|name| ![programs::NAME, control_plane::NAME].contains(name)) {
        let mut plan =
            if args.quick { traffic::Plan::quick(args.services) } else { traffic::Plan::full(args.services) };
        plan.rounds = args.rounds.unwrap_or(plan.rounds);
        results.sections.extend(traffic::measure(&plan, &chosen, &progress)?);
    }
    if chosen.contains(&control_plane::NAME) {
        progress.stage(control_plane::NAME);
        let plan = if args.quick {
            control_plane::Plan::quick(args.services)
        } else {
            control_plane::Plan::full(args.services)
        };
        results.sections.push(control_plane::measure(&plan, &progress)?);
    }
    progress.finish();
    results.seconds = progress.elapsed().as_secs_f64();
    println!("{}", report::table(&results));
    if let Some(page) = &args.docs {
        report::update_document(page, &results)?;
    }
    report::write(&results, &args.output)
}

fn machine_facts() -> Machine {
    let mut machine = Machine::read();
    for (program, argument) in [
        ("nginx", "-v"),
        ("wrk", "-v"),
        ("iperf3", "--version"),
        ("nft", "--version"),
        ("iptables-restore", "--version"),
    ] {
        machine.add_version(program, &[argument]);
    }
    machine
}

fn choose(filters: &[String]) -> Result<Vec<&'static str>> {
    let names = names();
    if let Some(unknown) = filters.iter().find(|filter| !names.iter().any(|name| name.contains(filter.as_str()))) {
        bail!("no measurement is called {unknown}; there are {}", names.join(", "));
    }
    let wanted = |name: &&str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    Ok(names.into_iter().filter(wanted).collect())
}

fn options(args: &BenchArgs) -> String {
    let quick = args.quick.then_some("--quick".to_owned());
    let services = args.services.map(|services| format!("--services {services}"));
    let rounds = args.rounds.map(|rounds| format!("--rounds {rounds}"));
    let all: Vec<String> = args.filters.iter().cloned().chain(quick).chain(services).chain(rounds).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}
