//! `cargo xtask test`: every level of tests in stages, cheap ones first, and one summary. What the stages are is the
//! table in `stages`; how the output of a test run is counted is `report`.

mod environment;
mod report;
mod stages;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::build_ebpf;
pub use report::Outcome;
use stages::STAGES;

#[derive(clap::Args)]
pub struct Options {
    /// Leave out the slow stages
    #[arg(long)]
    fast: bool,
    /// A stage of the summary, or a part of the names of the tests to run
    filter: Option<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let only = options.filter.as_deref().and_then(|filter| STAGES.iter().find(|stage| stage.key == filter));
    let names = if only.is_some() { None } else { options.filter.as_deref() };
    let environment = environment::prepare();
    let mut results = Vec::new();

    heading("build", "the eBPF object from source, then all tests");
    let started = Instant::now();
    if let Err(error) = build() {
        println!("0 passed, 1 failed");
        return Err(error);
    }
    println!("{:.0} s", started.elapsed().as_secs_f64());

    for stage in STAGES {
        if only.is_some_and(|only| only.key != stage.key) {
            continue;
        }
        heading(stage.key, stage.title);
        let started = Instant::now();
        let outcome = if options.fast && stage.slow {
            Outcome::skipped("left out by --fast")
        } else if let (true, Err(reason)) = (stage.privileged, &environment) {
            Outcome::skipped(&format!("{reason:#}"))
        } else {
            stage.run(names)?
        };
        for reason in &outcome.skipped {
            println!("skipped: {reason}");
        }
        results.push((stage, outcome, started.elapsed()));
    }

    heading("summary", "");
    println!("{:<12} {:>7} {:>7} {:>8} {:>8}", "stage", "passed", "failed", "skipped", "seconds");
    let mut total = Outcome::default();
    for (stage, outcome, elapsed) in &results {
        let (passed, failed, skipped) = (outcome.passed, outcome.failed, outcome.skipped.len());
        println!("{:<12} {passed:>7} {failed:>7} {skipped:>8} {:>8.0}", stage.key, elapsed.as_secs_f64());
        for reason in &outcome.skipped {
            println!("{:<12} skipped: {reason}", "");
        }
        for name in &outcome.failures {
            println!("{:<12} failed: {name}", "");
        }
        total.passed += passed;
        total.failed += failed;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("{} of {} tests failed", total.failed, total.failed + total.passed);
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn build() -> Result<()> {
    build_ebpf::ensure()?;
    stages::build_all()
}

fn heading(key: &str, title: &str) {
    println!("\n==== {key}{}{title}", if title.is_empty() { "" } else { ": " });
}
