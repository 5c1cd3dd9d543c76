//! The benchmark: what a Service costs, side by side with the direct way and with kube-proxy's rules, on one machine.
//! Measurements fill `results`, `report` renders them. Nothing here judges a change: no test looks at a time.

mod machine;
mod programs;
mod progress;
mod report;
mod results;
mod statistics;

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Result, bail};

use self::{machine::Machine, progress::Progress, results::Results};

#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Only measurements whose name contains one of these
    #[arg(value_name = "NAME")]
    pub filters: Vec<String>,
    /// Fewer rounds and sizes: minutes instead of half an hour, and numbers that mean less
    #[arg(long)]
    pub quick: bool,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "target/bench", overrides_with = "output")]
    pub output: PathBuf,
}

/// Measurements by name, in the order they are run.
const MEASUREMENTS: [&str; 1] = [programs::NAME];

pub fn run(args: &BenchArgs) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the benchmark loads BPF programs and makes network namespaces: run it as root");
    }
    let chosen = choose(&args.filters)?;
    let progress = Progress::new();
    let mut results = Results {
        machine: Machine::read(),
        options: options(args),
        began: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        seconds: 0.0,
        sections: Vec::new(),
    };
    for name in chosen {
        progress.stage(name);
        if name == programs::NAME {
            let plan = if args.quick { programs::Plan::quick() } else { programs::Plan::full() };
            results.sections.push(programs::measure(&plan, &progress)?);
        }
    }
    progress.finish();
    results.seconds = progress.elapsed().as_secs_f64();
    println!("{}", report::table(&results));
    report::write(&results, &args.output)
}

fn choose(filters: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = filters.iter().find(|filter| !MEASUREMENTS.iter().any(|name| name.contains(filter.as_str())))
    {
        bail!("no measurement is called {unknown}; there are {}", MEASUREMENTS.join(", "));
    }
    let wanted = |name: &&str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    Ok(MEASUREMENTS.into_iter().filter(wanted).collect())
}

fn options(args: &BenchArgs) -> String {
    let quick = args.quick.then_some("--quick".to_owned());
    let all: Vec<String> = args.filters.iter().cloned().chain(quick).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}
