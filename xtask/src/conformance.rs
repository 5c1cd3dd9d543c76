//! `cargo xtask conformance`: builds the agent and the lab's program, and lets the latter play the recorded Service behaviour
//! against the former. What the arguments mean is its business: `cargo xtask conformance --help`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::test::Outcome;
use crate::{lab, process};

/// Of the command of svc-testbed.
const NAME: &str = "conformance";

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// [DIR] [--scenario NAME..] [--mode tc|socket|both] [--source manifests|kubernetes|both] [--verbose], and more: see --help
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options) -> Result<()> {
    lab::prepare("the lab")?;
    process::run(lab::program("debug", NAME).args(&options.arguments))
}

/// Runs the project's own corpus in all variants, as a stage of the tests. A scenario in one variant is a test.
pub fn stage() -> Result<Outcome> {
    let mut runner = lab::program("debug", NAME);
    println!("{}", process::describe(&runner));
    let mut child = runner.stdout(Stdio::piped()).spawn().context("cannot start svc-testbed")?;
    let stdout = child.stdout.take().context("svc-testbed has no output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the output of svc-testbed")?;
        println!("{line}");
        lines.push(line);
    }
    let status = child.wait().context("cannot wait for svc-testbed")?;
    let mut outcome = read_results(&lines);
    if !status.success() && outcome.failed == 0 {
        outcome.failed = 1;
        outcome.failures.push(format!("svc-testbed conformance: {status}"));
    }
    Ok(outcome)
}

/// The table has a line for each scenario with a cell for each variant; the last line has the sums.
fn read_results(lines: &[String]) -> Outcome {
    let sums = lines.last().map(String::as_str).unwrap_or_default();
    let sum = |what: &str| sums.split(", ").find_map(|sum| sum.strip_suffix(what)?.trim().parse::<usize>().ok());
    let table = lines.iter().take_while(|line| !line.is_empty());
    let failed = table.filter(|line| line.contains(" FAIL ")).filter_map(|line| line.split(' ').next());
    let skipped = match sum(" skipped") {
        Some(count) if count > 0 => vec![format!("{count} of them, about what the agent does not claim to do yet")],
        _ => Vec::new(),
    };
    Outcome {
        passed: sum(" passed").unwrap_or_default(),
        failed: sum(" failed").unwrap_or_default(),
        skipped,
        failures: failed.map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_sums_are_understood() {
        let output = "scenario  tc manifests      socket manifests\n\
                      hairpin   pass              FAIL 5 of 7 probes\n\
                      nodeport  not yet: nodeport not yet: nodeport\n\
                      \n\
                      hairpin [socket manifests]\n  step 1 FAIL \n\
                      \n\
                      1 passed, 1 failed, 2 skipped";
        let outcome = read_results(&output.lines().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!((outcome.passed, outcome.failed, outcome.skipped.len()), (1, 1, 1));
        assert_eq!(outcome.failures, ["hairpin"]);
        assert_eq!(read_results(&[]), Outcome::default());
    }
}
